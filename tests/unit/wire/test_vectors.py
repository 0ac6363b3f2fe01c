"""The facts in guest/vectors, which the C agent is held to as well. Its README says how to read them."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import pytest

from agentkernel.model.execution import FileEntry
from agentkernel.model.spec import Rlimit
from agentkernel.wire import Attached, Detached, GuestLink, HostLink, LinkError, attach, control, files, program
from agentkernel.wire.fields import Payload
from agentkernel.wire.frames import GuestKind, HostKind, encode_frame

VECTORS = Path(__file__).parents[3] / "guest" / "vectors"
HELLO = control.Hello(1, bytes(32), 0, "h", bytes(16), 0)
PAYLOADS = [
    made
    for room in (control, program, files)
    for made in vars(room).values()
    if isinstance(made, type) and issubclass(made, Payload) and made is not Payload
]
DONE = {"size": files.ReadDone, "bytes": files.CountDone, "entries": files.CountDone, "entry": files.StatDone}


def lines(name: str) -> list[list[str]]:
    """The cases of a file; none when it is missing, which one test below says and the collection of all others
    survives.
    """
    if not (VECTORS / name).exists():
        return []
    read = (VECTORS / name).read_text().splitlines()
    return [line.split(" ") for line in read if line and not line.startswith("#")]


def octets(shown: str) -> bytes:
    return b"" if shown == "-" else bytes.fromhex(shown)


def entry(shown: str) -> FileEntry:
    name, kind, *numbers = shown.split("|")
    return FileEntry(unquote(name), kind, *map(int, numbers))


def limit(shown: str) -> Rlimit:
    return Rlimit(*map(int, shown.split("/")))


READERS = {
    "u8": int,
    "u32": int,
    "u64": int,
    "str": unquote,
    "hex": octets,
    "entry": entry,
    "list": lambda shown: tuple(map(unquote, shown.split(",")[1:])),
    "limits": lambda shown: tuple(map(limit, shown.split(",")[1:])),
    "entries": lambda shown: tuple(map(entry, shown.split(",")[1:])),
}


def value(field: str) -> object:
    kind, _, rest = field.partition(":")
    name, _, shown = rest.partition("=")
    read = READERS[kind](shown)
    if name in {"argv", "environment"}:
        return tuple(item.encode() for item in read)
    return read


def payload_type(number: int, fields: list[str]) -> type[Payload]:
    if number == GuestKind.DONE:
        return DONE[fields[0].partition(":")[2].partition("=")[0]] if fields else files.Done
    (found,) = {made for made in PAYLOADS if made.kind == number}
    return found


@pytest.mark.parametrize("case", lines("frames.txt"), ids=lambda case: f"{case[0]}-{case[1]}")
def test_every_frame_is_spelled_as_in_the_vectors(case: list[str]) -> None:
    side, name, number, channel, tag, spelled, *fields = case
    kind = (HostKind if side == "host" else GuestKind)[name]
    assert kind == int(number)
    made = payload_type(kind, fields)
    message = made(*map(value, fields))
    assert encode_frame(octets(tag), int(channel), kind, message.encode()) == octets(spelled)
    if isinstance(message, files.Entries) and any("/" in each.name for each in message.entries):
        # Well spelled, and yet no name of a file: a host that joined it to a path would leave the directory.
        with pytest.raises(LinkError):
            made.decode(message.encode())
    else:
        assert made.decode(message.encode()) == message


def test_the_vectors_hold_every_kind() -> None:
    seen = {(case[0], case[1]) for case in lines("frames.txt")}
    assert seen == {("host", kind.name) for kind in HostKind} | {("guest", kind.name) for kind in GuestKind}


@pytest.mark.parametrize("case", lines("records.txt"), ids=lambda case: "-".join(case[:2]))
def test_records_are_as_in_the_vectors(case: list[str]) -> None:
    what, told, spelled = case
    match what:
        case "attach":
            assert attach.encode_attach(octets(told)) == octets(spelled)
            assert GuestLink().feed(octets(spelled)) == [Attached(octets(told))]
        case "echo":
            assert attach.encode_echo(octets(told)) == octets(spelled)
            assert HostLink(octets(told)).feed(octets(spelled)) == [Attached(octets(told))]
        case "not-attach":
            assert GuestLink().feed(octets(spelled)) == []
        case _:
            pytest.fail(f"unknown: {what}")


def greeted(tag: bytes) -> GuestLink:
    link = GuestLink()
    link.feed(attach.encode_attach(tag.ljust(16, b"\1")) + encode_frame(tag, 0, HELLO.kind, HELLO.encode()))
    return link


@pytest.mark.parametrize("case", lines("invalid.txt"), ids=lambda case: "-".join(case[:2]))
def test_what_is_invalid_is_refused_and_what_is_not_whole_waited_for(case: list[str]) -> None:
    match case:
        case ["frame", _, tag, spelled]:
            (event,) = greeted(octets(tag)).feed(octets(spelled))
            assert isinstance(event, Detached)
        case ["wait", _, tag, spelled]:
            assert greeted(octets(tag)).feed(octets(spelled)) == []
        case ["payload", _, name, number, spelled]:
            assert HostKind[name] == int(number)
            with pytest.raises(LinkError):
                payload_type(int(number), []).decode(octets(spelled))
        case _:
            pytest.fail(f"unknown: {case[0]}")
