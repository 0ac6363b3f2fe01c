"""What can be said on the guest link, as hypothesis strategies."""

from __future__ import annotations

from hypothesis import strategies as st

from agentkernel.model.execution import FileEntry
from agentkernel.model.spec import Rlimit
from agentkernel.wire import control, files, program

EPOCHS = st.binary(min_size=16, max_size=16).filter(lambda epoch: not epoch.startswith(b"AKLI"))
U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
OCTETS = st.binary(max_size=40).map(lambda value: value.replace(b"\0", b""))
FOREIGN = OCTETS.map(lambda value: value.decode("utf-8", "surrogateescape"))
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
PATH = FOREIGN.map(lambda value: "/" + value)
NAME = FOREIGN.filter(lambda value: value not in {"", ".", ".."} and "/" not in value)
ERRNO = st.integers(1, 4095)
DATA = st.binary(min_size=1, max_size=300)
ENTRY = st.builds(FileEntry, NAME, st.sampled_from("fdlo"), U32, U64, U64, U32, U32)
ENTROPY = st.binary(min_size=32, max_size=32)
FEATURES = sorted(control.FEATURES)
FACTS = st.dictionaries(st.sampled_from(["arch", "kernel", "agent"]), st.text("abc-./ =", max_size=9)).map(
    lambda facts: tuple(f"{key}={value}" for key, value in facts.items())
)
WELCOME = st.builds(
    lambda had, facts: control.Welcome(
        1, tuple(name for name in FEATURES if name in had), tuple(name for name in FEATURES if name not in had), facts
    ),
    st.sets(st.sampled_from(FEATURES)),
    FACTS,
)
EXIT = st.one_of(
    st.builds(program.Exit, st.just(0), st.integers(0, 255), U64, U64, U64),
    st.builds(program.Exit, st.just(1), st.integers(1, 64), U64, U64, U64),
)
LIMIT = st.builds(Rlimit, U32, U64, U64)


def tuples(item: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(item, max_size=4).map(tuple)


EXEC = st.builds(
    program.Exec, U32, U32, U32, tuples(OCTETS).filter(bool), tuples(OCTETS), FOREIGN, FOREIGN, tuples(LIMIT)
)
REQUEST = st.one_of(
    EXEC,
    st.builds(files.Read, PATH, U64, U64),
    st.builds(files.Write, PATH, U32, U32, FOREIGN),
    st.builds(files.TarIn, PATH, U32, FOREIGN),
    st.builds(files.Stat, PATH),
    st.builds(files.ListDirectory, PATH),
    st.builds(files.MakeDirectory, PATH, U32, U32, FOREIGN),
    st.builds(files.Remove, PATH, U32),
    st.builds(files.Rename, PATH, PATH),
)
HELLO = st.builds(control.Hello, st.just(1), ENTROPY, U64, TEXT, st.binary(min_size=16, max_size=16), U32)
FROM_HOST = st.one_of(
    REQUEST,
    HELLO,
    st.builds(control.Refresh, U64, ENTROPY),
    st.builds(control.Ping, U64),
    st.builds(control.Mount, TEXT, TEXT, U32, tuples(FOREIGN)),
    st.builds(program.Part, DATA),
    st.builds(program.Stdin, st.binary(max_size=9)),
    st.builds(program.Signal, U32),
    st.builds(program.Resize, U32, U32),
    st.builds(program.HostCredit, U32),
    st.builds(files.HostData, st.binary(max_size=9)),
    st.sampled_from(
        [
            control.Quiesce(),
            control.Resume(),
            control.Shutdown(),
            program.StdinEnd(),
            program.Kill(),
            files.End(),
            files.Cancel(),
        ]
    ),
)
FROM_GUEST = st.one_of(
    WELCOME,
    EXIT,
    st.builds(control.Refreshed, U64),
    st.builds(control.Pong, U64, U32, U64, U32),
    st.builds(control.Mounted, st.integers(0, 4095), FOREIGN),
    st.builds(program.Started, st.integers(1, 2**31 - 1)),
    st.builds(program.Stdout, DATA),
    st.builds(program.Stderr, DATA),
    st.builds(program.Failed, ERRNO, FOREIGN),
    st.builds(program.GuestCredit, U32),
    st.builds(files.GuestData, DATA),
    st.builds(files.Entries, tuples(ENTRY)),
    st.builds(files.ReadDone, U64, U32),
    st.builds(files.CountDone, U64),
    st.builds(files.StatDone, ENTRY),
    st.sampled_from([control.Quiesced(), control.Ending(), files.Done()]),
)


@st.composite
def chunked(draw: st.DrawFn, stream: bytes) -> list[bytes]:
    """The stream, cut anywhere."""
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    return [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
