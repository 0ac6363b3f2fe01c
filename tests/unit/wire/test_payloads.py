"""Every payload as the page spells it, byte for byte."""

import struct
import typing

import pytest

from agentkernel.model.execution import ExecRequest, FileEntry
from agentkernel.model.spec import Rlimit
from agentkernel.wire import LinkError, control, files, program
from agentkernel.wire.fields import Payload


def u8(value: int) -> bytes:
    return struct.pack("<B", value)


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def text(value: bytes) -> bytes:
    return u32(len(value)) + value


def texts(*values: bytes) -> bytes:
    return u32(len(values)) + b"".join(map(text, values))


FEATURES = tuple(sorted(control.FEATURES))
ENTRY = FileEntry("n\udcff", "f", 0o644, 5, 6, 7, 8)
ENTRY_BYTES = text(b"n\xff") + b"f" + u32(0o644) + u64(5) + u64(6) + u32(7) + u32(8)
EXEC = program.Exec(5, 1, 2, (b"a", b"\xff"), (b"K=v",), "/w", "root", (Rlimit(7, 8, 9),))
EXEC_BYTES = (
    u32(5) + u32(1) + u32(2) + texts(b"a", b"\xff") + texts(b"K=v") + text(b"/w") + text(b"root")
    + u32(1) + u32(7) + u64(8) + u64(9)
)  # fmt: skip

VECTORS: list[tuple[int, Payload, bytes]] = [
    (
        1,
        control.Hello(1, b"e" * 32, 7, "host", b"m" * 16, 9),
        u32(1) + b"e" * 32 + u64(7) + text(b"host") + b"m" * 16 + u32(9),
    ),
    (
        65,
        control.Welcome(1, FEATURES, (), ("arch=x",)),
        u32(1) + texts(*[name.encode() for name in FEATURES]) + texts() + texts(b"arch=x"),
    ),
    (2, control.Refresh(7, b"e" * 32), u64(7) + b"e" * 32),
    (66, control.Refreshed(3), u64(3)),
    (3, control.Quiesce(), b""),
    (67, control.Quiesced(), b""),
    (4, control.Resume(), b""),
    (5, control.Ping(2**64 - 1), u64(2**64 - 1)),
    (69, control.Pong(1, 2, 3, 4), u64(1) + u32(2) + u64(3) + u32(4)),
    (6, control.Shutdown(), b""),
    (70, control.Ending(), b""),
    (7, control.Mount("s", "ext4", 1000, ("a:/b",)), text(b"s") + text(b"ext4") + u32(1000) + texts(b"a:/b")),
    (71, control.Mounted(2, "device"), u32(2) + text(b"device")),
    (15, program.Part(b"pp"), b"pp"),
    (16, EXEC, EXEC_BYTES),
    (80, program.Started(5), u32(5)),
    (81, program.Stdout(b"o"), b"o"),
    (82, program.Stderr(b"e"), b"e"),
    (83, program.Exit(1, 9, 2, 3, 4), u8(1) + u32(9) + u64(2) + u64(3) + u64(4)),
    (84, program.Failed(2, "program: x"), u32(2) + text(b"program: x")),
    (17, program.Stdin(b"i"), b"i"),
    (18, program.StdinEnd(), b""),
    (19, program.Signal(15), u32(15)),
    (20, program.Resize(24, 80), u32(24) + u32(80)),
    (21, program.Kill(), b""),
    (22, program.HostCredit(6), u32(6)),
    (86, program.GuestCredit(6), u32(6)),
    (32, files.Read("/a", 1, 2), text(b"/a") + u64(1) + u64(2)),
    (33, files.Write("/a", 0o600, 5, "7:8"), text(b"/a") + u32(0o600) + u32(5) + text(b"7:8")),
    (34, files.TarIn("/a", 0, ""), text(b"/a") + u32(0) + text(b"")),
    (35, files.Stat("/\udcff"), text(b"/\xff")),
    (36, files.ListDirectory("/a"), text(b"/a")),
    (37, files.MakeDirectory("/a", 0o700, 1, ""), text(b"/a") + u32(0o700) + u32(1) + text(b"")),
    (38, files.Remove("/a", 1), text(b"/a") + u32(1)),
    (39, files.Rename("/a", "/b"), text(b"/a") + text(b"/b")),
    (48, files.HostData(b"d"), b"d"),
    (49, files.End(), b""),
    (50, files.Cancel(), b""),
    (96, files.GuestData(b"d"), b"d"),
    (97, files.Entries((ENTRY,)), u32(1) + ENTRY_BYTES),
    (98, files.Done(), b""),
    (98, files.ReadDone(1, 0o644), u64(1) + u32(0o644)),
    (98, files.CountDone(4), u64(4)),
    (98, files.StatDone(ENTRY), ENTRY_BYTES),
]


@pytest.mark.parametrize(("kind", "message", "spelled"), VECTORS, ids=lambda value: type(value).__name__)
def test_a_payload_is_spelled_as_on_the_page(kind: int, message: Payload, spelled: bytes) -> None:
    assert message.kind == kind
    assert message.encode() == spelled
    assert type(message).decode(spelled) == message


@pytest.mark.parametrize(("kind", "message", "spelled"), VECTORS, ids=lambda value: type(value).__name__)
def test_a_payload_cut_short_or_with_a_byte_more_is_a_violation(kind: int, message: Payload, spelled: bytes) -> None:
    free_end = type(message).layout and type(type(message).layout[-1]).__name__ == "Rest"
    if free_end:
        return
    for wrong in (spelled + b"\0", *(spelled[:size] for size in range(len(spelled)))):
        with pytest.raises(LinkError):
            type(message).decode(wrong)


def test_the_table_above_holds_every_payload() -> None:
    # By name: a slotted dataclass leaves the class that it was made from behind.
    named = {made.__name__ for made in Payload.__subclasses__()}
    assert {type(message).__name__ for _, message, _ in VECTORS} == named


WRONG: list[tuple[type[Payload], bytes]] = [
    (control.Welcome, u32(1) + texts(*map(str.encode, FEATURES)) + texts(b"exec") + texts()),
    (control.Welcome, u32(1) + texts(*map(str.encode, FEATURES), b"New One") + texts() + texts()),
    (control.Welcome, u32(1) + texts(*map(str.encode, FEATURES)) + texts() + texts(b"arch")),
    (control.Welcome, u32(1) + texts(*map(str.encode, FEATURES)) + texts() + texts(b"a=1", b"a=2")),
    (control.Welcome, u32(1) + texts(*map(str.encode, FEATURES)) + texts() + texts(b"a=\x1b[2J")),
    (control.Welcome, u32(1) + texts(*map(str.encode, FEATURES)) + texts() + texts(b"a=\xff")),
    (control.Welcome, u32(1) + u32(2**32 - 1)),
    (control.Mounted, u32(4096) + text(b"")),
    (control.Mounted, u32(1) + text(b"a\0b")),
    (program.Started, u32(0)),
    (program.Started, u32(2**31)),
    (program.Stdout, b""),
    (program.Stderr, b""),
    (program.Exit, u8(0) + u32(256) + u64(0) * 3),
    (program.Exit, u8(1) + u32(0) + u64(0) * 3),
    (program.Exit, u8(1) + u32(65) + u64(0) * 3),
    (program.Exit, u8(2) + u32(0) + u64(0) * 3),
    (program.Failed, u32(0) + text(b"")),
    (program.Failed, u32(1) + u32(2**32 - 1) + b"a"),
    (program.Exec, EXEC_BYTES.replace(texts(b"a", b"\xff"), texts())),
    (files.Entries, u32(1) + ENTRY_BYTES.replace(b"f\xa4", b"p\xa4")),
    *(
        (files.Entries, u32(1) + text(name) + b"f" + u32(0) + u64(0) * 2 + u32(0) * 2)
        for name in (b"", b".", b"..", b"a/b", b"x" * 256)
    ),
]


@pytest.mark.parametrize(("message_type", "spelled"), WRONG)
def test_what_is_spelled_well_and_means_nothing_is_a_violation(message_type: type[Payload], spelled: bytes) -> None:
    with pytest.raises(LinkError):
        message_type.decode(spelled)


def test_a_welcome_of_another_generation_is_known_by_its_number_alone() -> None:
    assert control.Welcome.decode(u32(2) + b"whatever comes then") == control.Welcome(2, (), (), ())


def test_a_hello_of_another_generation_is_known_by_its_number_alone() -> None:
    assert control.Hello.decode(u32(2) + b"whatever comes then").generation == 2


UNSPEAKABLE: list[typing.Callable[[], Payload]] = [
    lambda: control.Ping(-1),
    lambda: control.Ping(2**64),
    lambda: control.Refresh(0, b"short"),
    lambda: files.Stat("relative"),
    lambda: files.Stat("/" + "x" * 4095),
    lambda: files.Stat("/a\0b"),
    lambda: files.Stat("/\ud800"),
    lambda: control.Mount("s", "\udcff", 0, ()),
    lambda: program.Exec.of(ExecRequest(())),
    lambda: program.Exec.of(ExecRequest((b"a",), env=(b"no-equals",))),
    lambda: program.Exec.of(ExecRequest((b"a",), cwd="relative")),
    lambda: program.Exec.of(ExecRequest((b"a\0b",))),
]


@pytest.mark.parametrize("make", UNSPEAKABLE)
def test_what_a_caller_may_not_send_is_a_value_error(make: typing.Callable[[], Payload]) -> None:
    with pytest.raises(ValueError, match=r"."):
        make().encode()


def test_an_exec_request_becomes_its_payload() -> None:
    request = ExecRequest(
        (b"a",), (b"K=v",), "/w", "u", (Rlimit(1, 2, 3),), stdin=True, terminal=(24, 80), make_cwd=True
    )
    assert program.Exec.of(request) == program.Exec(7, 24, 80, (b"a",), (b"K=v",), "/w", "u", (Rlimit(1, 2, 3),))
    assert program.Exec.of(ExecRequest((b"a",))).flags == 0
