"""Payloads of file channels.

Source: guest/PROTOCOL.md 7.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from agentkernel.model.execution import FileEntry
from agentkernel.wire.errors import LinkError
from agentkernel.wire.fields import FOREIGN, REST, U8, U32, U64, Field, Many, Payload, Record
from agentkernel.wire.frames import GuestKind, HostKind

ATOMIC = 1
APPEND = 2
MAKE_PARENTS = 4
EXCLUSIVE = 8
WITH_PARENTS = 1
RECURSIVE = 1
MOST_PATH_BYTES = 4095
MOST_NAME_BYTES = 255


class _Path:
    """An absolute path of a length that a Linux kernel takes."""

    least_bytes = 4

    def put(self, value: str, out: bytearray) -> None:
        if not value.startswith("/") or len(value.encode("utf-8", "surrogateescape")) > MOST_PATH_BYTES:
            raise ValueError(f"a path is absolute and at most {MOST_PATH_BYTES} bytes")
        FOREIGN.put(value, out)

    take = staticmethod(FOREIGN.take)


class _EntryKind:
    """The type of an entry, one ASCII letter."""

    least_bytes = 1

    def put(self, value: str, out: bytearray) -> None:
        out += value.encode("ascii")

    def take(self, cursor: object) -> str:
        letter = chr(U8.take(cursor))  # type: ignore[arg-type]
        if letter not in "fdlo":
            raise LinkError("an entry has an unknown type")
        return letter


PATH = _Path()
ENTRY = Record(FileEntry, name=FOREIGN, kind=_EntryKind(), mode=U32, size=U64, modified_s=U64, uid=U32, gid=U32)


def check_name(name: str) -> None:
    """Raise LinkError unless this names something in a directory: a caller may join it to a path of its own."""
    if name in {"", ".", ".."} or "/" in name or len(name.encode("utf-8", "surrogateescape")) > MOST_NAME_BYTES:
        raise LinkError("an entry's name is not the name of a file")


@dataclass(frozen=True, slots=True)
class Read(Payload):
    """Send that range of a file."""

    path: str
    offset: int
    most_bytes: int

    kind: ClassVar[int] = HostKind.READ
    layout: ClassVar[tuple[Field, ...]] = (PATH, U64, U64)


@dataclass(frozen=True, slots=True)
class Write(Payload):
    """Take a file; DATA and END follow."""

    path: str
    mode: int
    flags: int
    owner: str

    kind: ClassVar[int] = HostKind.WRITE
    layout: ClassVar[tuple[Field, ...]] = (PATH, U32, U32, FOREIGN)


@dataclass(frozen=True, slots=True)
class TarIn(Payload):
    """Extract an archive; DATA and END follow."""

    directory: str
    flags: int
    owner: str

    kind: ClassVar[int] = HostKind.TAR_IN
    layout: ClassVar[tuple[Field, ...]] = (PATH, U32, FOREIGN)


@dataclass(frozen=True, slots=True)
class Stat(Payload):
    """Describe one path."""

    path: str

    kind: ClassVar[int] = HostKind.STAT
    layout: ClassVar[tuple[Field, ...]] = (PATH,)


@dataclass(frozen=True, slots=True)
class ListDirectory(Payload):
    """Describe what is in a directory."""

    path: str

    kind: ClassVar[int] = HostKind.LIST
    layout: ClassVar[tuple[Field, ...]] = (PATH,)


@dataclass(frozen=True, slots=True)
class MakeDirectory(Payload):
    """Make a directory."""

    path: str
    mode: int
    flags: int
    owner: str

    kind: ClassVar[int] = HostKind.MKDIR
    layout: ClassVar[tuple[Field, ...]] = (PATH, U32, U32, FOREIGN)


@dataclass(frozen=True, slots=True)
class Remove(Payload):
    """Remove a path."""

    path: str
    flags: int

    kind: ClassVar[int] = HostKind.REMOVE
    layout: ClassVar[tuple[Field, ...]] = (PATH, U32)


@dataclass(frozen=True, slots=True)
class Rename(Payload):
    """Rename a path."""

    source: str
    target: str

    kind: ClassVar[int] = HostKind.RENAME
    layout: ClassVar[tuple[Field, ...]] = (PATH, PATH)


@dataclass(frozen=True, slots=True)
class HostData(Payload):
    """Content of a file or archive on its way in."""

    data: bytes

    kind: ClassVar[int] = HostKind.DATA
    layout: ClassVar[tuple[Field, ...]] = (REST,)


@dataclass(frozen=True, slots=True)
class End(Payload):
    """That was all."""

    kind: ClassVar[int] = HostKind.END


@dataclass(frozen=True, slots=True)
class Cancel(Payload):
    """Abandon it."""

    kind: ClassVar[int] = HostKind.CANCEL


@dataclass(frozen=True, slots=True)
class GuestData(Payload):
    """Content of a file on its way out."""

    data: bytes

    kind: ClassVar[int] = GuestKind.DATA
    layout: ClassVar[tuple[Field, ...]] = (REST,)


@dataclass(frozen=True, slots=True)
class Entries(Payload):
    """Some of a directory."""

    entries: tuple[FileEntry, ...]

    kind: ClassVar[int] = GuestKind.ENTRIES
    layout: ClassVar[tuple[Field, ...]] = (Many(ENTRY),)

    def verify(self) -> None:
        """Names that stay in the directory."""
        for entry in self.entries:
            check_name(entry.name)


@dataclass(frozen=True, slots=True)
class Done(Payload):
    """Done, with nothing to say."""

    kind: ClassVar[int] = GuestKind.DONE
    last: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class ReadDone(Payload):
    """The range was sent; `size` is of the whole file."""

    size: int
    mode: int

    kind: ClassVar[int] = GuestKind.DONE
    last: ClassVar[bool] = True
    layout: ClassVar[tuple[Field, ...]] = (U64, U32)


@dataclass(frozen=True, slots=True)
class CountDone(Payload):
    """How many bytes were written, or how many members extracted."""

    count: int

    kind: ClassVar[int] = GuestKind.DONE
    last: ClassVar[bool] = True
    layout: ClassVar[tuple[Field, ...]] = (U64,)


@dataclass(frozen=True, slots=True)
class StatDone(Payload):
    """The one entry. Its name is the guest's word; who asked knows the path better."""

    entry: FileEntry

    kind: ClassVar[int] = GuestKind.DONE
    last: ClassVar[bool] = True
    layout: ClassVar[tuple[Field, ...]] = (ENTRY,)
