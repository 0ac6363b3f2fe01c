"""A tar archive read in one go: headers to entries. Pure, over a function that reads; strict, because what different
readers take differently is how an archive shows one thing to a scanner and another to us.

Source: POSIX.1-2024 pax, and GNU tar's headers for long names and large numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

BLOCK = 512
EXTENDED_MOST = 1 << 20
"""Bytes of one extended header; a name takes at most 4 KiB, extended attributes 64 KiB each."""
_XATTR = "SCHILY.xattr."

Read = Callable[[int], bytes]
"""Up to that many bytes; empty at the end only."""


class TarError(ValueError):
    """This is no tar archive, or none that we read."""


class Kind(StrEnum):
    """What an entry is."""

    FILE = "file"
    HARD_LINK = "hard link"
    SYMLINK = "symbolic link"
    DIRECTORY = "directory"
    FIFO = "fifo"
    DEVICE = "device"


_KINDS = {
    b"0": Kind.FILE,
    b"\0": Kind.FILE,
    b"7": Kind.FILE,
    b"1": Kind.HARD_LINK,
    b"2": Kind.SYMLINK,
    b"3": Kind.DEVICE,
    b"4": Kind.DEVICE,
    b"5": Kind.DIRECTORY,
    b"6": Kind.FIFO,
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One header, with what extended headers said before it. Names are bytes, as on the disk.

    Attributes:
        size: bytes of content that follow; 0 unless it is a file.
        mtime_ns: since 1970.
    """

    name: bytes
    kind: Kind
    size: int = 0
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    target: bytes = b""
    xattrs: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(slots=True)
class Reader:
    """Iterate; between two entries `content` reads that of the first, what was not read is skipped."""

    read: Read
    skip: Callable[[int], object] | None = None
    """Passes over that many bytes without reading them, where that can be done."""
    _left: int = field(default=0, init=False)
    _padding: int = field(default=0, init=False)

    def __iter__(self) -> Iterator[Entry]:
        """Raises TarError for whatever is not as it should be."""
        said: dict[bytes, bytes] = {}
        common: dict[bytes, bytes] = {}
        while (header := self._header()) is not None:
            flag = header[156:157]
            size = _number(header[124:136])
            if flag in (b"x", b"X", b"g", b"L", b"K"):
                body = self._extended(size)
                if flag == b"g":
                    common |= _records(body)
                elif flag in (b"L", b"K"):
                    said[b"path" if flag == b"L" else b"linkpath"] = body.split(b"\0", 1)[0]
                else:
                    said |= _records(body)
                continue
            entry = _entry(header, size, common | said)
            said = {}
            self._left, self._padding = entry.size, -entry.size % BLOCK
            yield entry
        if said:
            raise TarError("it ends after an extended header")

    def content(self, most: int = 1 << 18) -> bytes:
        """The next piece of the present entry's content; empty at its end."""
        if self._left == 0:
            return b""
        piece = self.read(min(most, self._left))
        if not piece:
            raise TarError("it ends within a file")
        self._left -= len(piece)
        return piece

    def _header(self) -> bytes | None:
        """The next block with something in it; None at the end."""
        if self.skip is not None and self._left:
            self.skip(self._left)
            self._left = 0
        while self.content():
            pass
        self._exactly(self._padding)
        self._padding = 0
        block = self._exactly(BLOCK, may_end=True)
        if not block or not block.strip(b"\0"):
            return None  # one block of zeros ends it; whoever wrote none, as some do, ends with the file
        checksum = 256 + sum(block[:148]) + sum(block[156:])
        if _number(block[148:156]) != checksum:
            raise TarError("a header's checksum is wrong")
        return block

    def _extended(self, size: int) -> bytes:
        if size > EXTENDED_MOST:
            raise TarError(f"an extended header of {size} bytes")
        body = self._exactly(size)
        self._exactly(-size % BLOCK)
        return body

    def _exactly(self, count: int, *, may_end: bool = False) -> bytes:
        parts: list[bytes] = []
        while count > 0:
            piece = self.read(count)
            if not piece:
                if may_end and not parts:
                    return b""
                raise TarError("it ends in the middle")
            parts.append(piece)
            count -= len(piece)
        return b"".join(parts)


def _entry(header: bytes, size: int, said: dict[bytes, bytes]) -> Entry:
    kind = _KINDS.get(header[156:157])
    sparse = any(key.startswith(b"GNU.sparse") for key in said)
    if kind is None or sparse:
        raise TarError(f"an entry of type {'sparse' if sparse else header[156:157]!r}")
    name, target = _text(header[:100]), _text(header[157:257])
    if header[257:263] == b"ustar\0" and (prefix := _text(header[345:500])):
        name = prefix + b"/" + name
    name, target = said.get(b"path", name), said.get(b"linkpath", target)
    if b"\0" in name or b"\0" in target:
        raise TarError("a name with a NUL in it")
    if kind is Kind.FILE and name.endswith(b"/"):
        kind = Kind.DIRECTORY  # as archives did before there was a type for it
    size = _decimal(said[b"size"]) if b"size" in said else size
    xattrs = tuple(
        (key[len(_XATTR) :], value) for key, value in sorted(said.items()) if key.startswith(_XATTR.encode())
    )
    return Entry(
        name,
        kind,
        size if kind is Kind.FILE else _nothing(size, kind),
        _number(header[100:108]) & 0o7777,
        _decimal(said[b"uid"]) if b"uid" in said else _number(header[108:116]),
        _decimal(said[b"gid"]) if b"gid" in said else _number(header[116:124]),
        _time(said[b"mtime"]) if b"mtime" in said else _number(header[136:148]) * 10**9,
        target,
        xattrs,
    )


def _nothing(size: int, kind: Kind) -> int:
    """Some writers give a hard link the size of its file and no content; readers disagree, so we take neither side."""
    if size:
        raise TarError(f"a {kind} with {size} bytes of content")
    return 0


def _text(field_bytes: bytes) -> bytes:
    return field_bytes.split(b"\0", 1)[0]


def _number(field_bytes: bytes) -> int:
    """Octal digits, or 256 to the power of its bytes where the first bit is set."""
    if field_bytes[0] & 0x80:
        if field_bytes[0] & 0x40:
            raise TarError("a negative number")
        return int.from_bytes(bytes((field_bytes[0] & 0x3F,)) + field_bytes[1:], "big")
    digits = field_bytes.replace(b"\0", b" ").strip(b" ")
    if digits.translate(None, b"01234567"):
        raise TarError("a number that is none")
    return int(digits, 8) if digits else 0


def _decimal(text: bytes) -> int:
    if not text or len(text) > 20 or text.translate(None, b"0123456789"):
        raise TarError("a number that is none")
    return int(text)


def _time(text: bytes) -> int:
    """Seconds with a fraction, in ns; what was before 1970 counts as 1970."""
    whole, _, fraction = text.partition(b".")
    if whole.startswith(b"-"):
        return 0
    return _decimal(whole) * 10**9 + (_decimal(fraction[:9].ljust(9, b"0")) if fraction else 0)


def _records(body: bytes) -> dict[bytes, bytes]:
    """`LENGTH KEY=VALUE\\n`, one after another."""
    found: dict[bytes, bytes] = {}
    while body.strip(b"\0"):
        digits, space, _ = body[:16].partition(b" ")
        length = _decimal(digits) if space else 0
        record = body[len(digits) + 1 : length]
        key, equals, value = record.partition(b"=")
        if length > len(body) or not equals or not value.endswith(b"\n"):
            raise TarError("a malformed extended header")
        found[key] = value[:-1]
        body = body[length:]
    return found
