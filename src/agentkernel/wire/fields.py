"""The fields that payloads are made of, and how a tuple of them becomes a payload.

Decoding is strict: every count and length is held against what remains before anything is allocated for it, and a
payload is used up exactly. Source: guest/PROTOCOL.md 2.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self, TypeVar

from agentkernel.wire.errors import LinkError


class Cursor:
    """A position in a payload that is being decoded."""

    __slots__ = ("_at", "_view")

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._at = 0

    @property
    def remaining(self) -> int:
        """Bytes not yet taken."""
        return len(self._view) - self._at

    def take(self, size: int) -> memoryview:
        """The next `size` bytes. Raises LinkError when fewer remain."""
        if size > self.remaining:
            raise LinkError(f"a payload ends {size - self.remaining} bytes too early")
        self._at += size
        return self._view[self._at - size : self._at]


class Field(Protocol):
    """How one value is spelled. `least_bytes` is the shortest spelling: it bounds the counts of lists."""

    least_bytes: int

    def put(self, value: Any, out: bytearray) -> None:
        """Append the value. Raises ValueError for one that cannot be spelled."""

    def take(self, cursor: Cursor) -> Any:
        """Read a value. Raises LinkError."""


class Number:
    """An unsigned little-endian integer."""

    def __init__(self, code: str) -> None:
        self._struct = struct.Struct("<" + code)
        self.least_bytes = self._struct.size

    def put(self, value: int, out: bytearray) -> None:
        try:
            out += self._struct.pack(value)
        except struct.error as err:
            raise ValueError(f"{value} does not fit in {self.least_bytes} bytes") from err

    def take(self, cursor: Cursor) -> int:
        return int(self._struct.unpack(cursor.take(self.least_bytes))[0])


class Fixed:
    """Exactly that many bytes."""

    def __init__(self, size: int) -> None:
        self.least_bytes = size

    def put(self, value: bytes, out: bytearray) -> None:
        if len(value) != self.least_bytes:
            raise ValueError(f"this field is {self.least_bytes} bytes, not {len(value)}")
        out += value

    def take(self, cursor: Cursor) -> bytes:
        return bytes(cursor.take(self.least_bytes))


class Rest:
    """All that remains of the payload."""

    least_bytes = 0

    def put(self, value: bytes, out: bytearray) -> None:
        out += value

    def take(self, cursor: Cursor) -> bytes:
        return bytes(cursor.take(cursor.remaining))


class Octets:
    """A `str` as bytes: any but NUL, because a program's arguments and environment are such."""

    least_bytes = 4

    def put(self, value: bytes, out: bytearray) -> None:
        if 0 in value:
            raise ValueError("there is a NUL in a text")
        out += struct.pack("<I", len(value))
        out += value

    def take(self, cursor: Cursor) -> bytes:
        value = bytes(cursor.take(U32.take(cursor)))
        if 0 in value:
            raise LinkError("there is a NUL in a text")
        return value


class Text(Octets):
    """A `str` as text.

    Args:
        foreign: it holds names that somebody in the guest chose, and those need not be UTF-8: other bytes become lone
            surrogates, as in
            the `os` module, and are spelled back as they came. Without it, such bytes are a violation.
    """

    def __init__(self, *, foreign: bool = False) -> None:
        self._errors = "surrogateescape" if foreign else "strict"

    def put(self, value: str, out: bytearray) -> None:  # type: ignore[override]  # the same spelling, another type of value
        super().put(value.encode("utf-8", self._errors), out)

    def take(self, cursor: Cursor) -> str:  # type: ignore[override]
        try:
            return super().take(cursor).decode("utf-8", self._errors)
        except UnicodeDecodeError as err:
            raise LinkError("a text is not UTF-8") from err


class Many:
    """A `list`: a count, and the items. Values are tuples."""

    least_bytes = 4

    def __init__(self, item: Field) -> None:
        self._item = item

    def put(self, value: tuple[Any, ...], out: bytearray) -> None:
        out += struct.pack("<I", len(value))
        for item in value:
            self._item.put(item, out)

    def take(self, cursor: Cursor) -> tuple[Any, ...]:
        count = U32.take(cursor)
        if count * self._item.least_bytes > cursor.remaining:
            raise LinkError(f"a list names {count} items, more than its payload can hold")
        return tuple([self._item.take(cursor) for _ in range(count)])


class Record:
    """Fields in a row that make one value, built by `make` from their values; its attributes are `names`."""

    def __init__(self, make: Callable[..., Any], **fields: Field) -> None:
        self._make = make
        self._fields = fields
        self.least_bytes = sum(field.least_bytes for field in fields.values())

    def put(self, value: Any, out: bytearray) -> None:
        for name, field in self._fields.items():
            field.put(getattr(value, name), out)

    def take(self, cursor: Cursor) -> Any:
        return self._make(*[field.take(cursor) for field in self._fields.values()])


U8 = Number("B")
U32 = Number("I")
U64 = Number("Q")
TEXT = Text()
FOREIGN = Text(foreign=True)
OCTETS = Octets()
REST = Rest()


@dataclass(frozen=True, slots=True)
class Payload:
    """What a frame carries. A subclass names its kind, and its fields in the order of its attributes."""

    kind: ClassVar[int]
    layout: ClassVar[tuple[Field, ...]] = ()
    last: ClassVar[bool] = False
    """Whether it ends its channel."""

    def encode(self) -> bytes:
        """The payload. Raises ValueError for values that cannot be spelled."""
        out = bytearray()
        names: tuple[str, ...] = self.__slots__
        for name, field in zip(names, self.layout, strict=True):
            field.put(getattr(self, name), out)
        return bytes(out)

    @classmethod
    def decode(cls, payload: bytes | memoryview) -> Self:
        """The value of a whole payload. Raises LinkError unless it is used up exactly and means something."""
        return decode_exactly(cls, payload)

    def verify(self) -> None:
        """Raise LinkError when the values are spelled well and yet not allowed."""


Decoded = TypeVar("Decoded", bound=Payload)


def decode_exactly(made: type[Decoded], payload: bytes | memoryview) -> Decoded:
    """What `Payload.decode` does, for those that do more (a slotted dataclass cannot ask `super()`)."""
    cursor = Cursor(memoryview(payload))
    message = made(*[field.take(cursor) for field in made.layout])
    if cursor.remaining:
        raise LinkError(f"a payload has {cursor.remaining} bytes too many")
    message.verify()
    return message
