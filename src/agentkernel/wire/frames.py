"""Frames: a header of 16 bytes, and a payload of at most 64 KiB.

Source: guest/PROTOCOL.md 2 to 7.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum

from agentkernel.wire.errors import LinkError

HEADER = struct.Struct("<4sIII")
"""Tag, length, channel, and the kind as a word: its three zero bytes are the upper ones."""

HEADER_BYTES = 16
MOST_PAYLOAD_BYTES = 65_536
WINDOW_BYTES = 262_144
MOST_CHANNELS = 64
MOST_PARTS_BYTES = 2 * 1024 * 1024
MOST_ENTRIES = 65_536
CONTROL = 0
GENERATION = 1


class HostKind(IntEnum):
    """What a host sends."""

    HELLO = 1
    REFRESH = 2
    QUIESCE = 3
    RESUME = 4
    PING = 5
    SHUTDOWN = 6
    MOUNT = 7
    PART = 15
    EXEC = 16
    STDIN = 17
    STDIN_END = 18
    SIGNAL = 19
    RESIZE = 20
    KILL = 21
    CREDIT = 22
    READ = 32
    WRITE = 33
    TAR_IN = 34
    STAT = 35
    LIST = 36
    MKDIR = 37
    REMOVE = 38
    RENAME = 39
    DATA = 48
    END = 49
    CANCEL = 50


class GuestKind(IntEnum):
    """What a guest sends."""

    WELCOME = 65
    REFRESHED = 66
    QUIESCED = 67
    PONG = 69
    ENDING = 70
    MOUNTED = 71
    STARTED = 80
    STDOUT = 81
    STDERR = 82
    EXIT = 83
    FAILED = 84
    CREDIT = 86
    DATA = 96
    ENTRIES = 97
    DONE = 98


def encode_frame(tag: bytes, channel: int, kind: int, payload: bytes | memoryview = b"") -> bytes:
    """One frame. Raises ValueError when the payload is longer than a frame carries."""
    if len(payload) > MOST_PAYLOAD_BYTES:
        raise ValueError(f"a frame carries {MOST_PAYLOAD_BYTES} bytes, not {len(payload)}")
    return b"".join((HEADER.pack(tag, len(payload), channel, kind), payload))


def check_length(length: int) -> None:
    """Raise LinkError for a payload that is longer than a frame carries."""
    if length > MOST_PAYLOAD_BYTES:
        raise LinkError(f"a frame names a payload of {length} bytes")


def decode_header(tag: bytes, view: memoryview, offset: int) -> tuple[int, int, int]:
    """Length, channel and kind of the header at `offset`. Raises LinkError for one that no peer may send."""
    seen, length, channel, kind = HEADER.unpack_from(view, offset)
    if seen != tag:
        raise LinkError("a frame does not begin with the tag of the epoch")
    check_length(length)
    if kind > 255:
        raise LinkError("the zero bytes of a frame header are not zero")
    return length, channel, kind


class FrameReader:
    """Cuts a byte stream of one epoch into frames.

    Every byte is copied a bounded number of times whatever the chunks are: an incomplete frame (at most 64 KiB) is kept
    and appended to, complete ones are read where they lie.
    """

    def __init__(self, tag: bytes) -> None:
        self._tag = tag
        self._rest = bytearray()
        self._needed = HEADER_BYTES

    def frames(self, chunk: bytes | memoryview) -> Iterator[tuple[int, int, memoryview]]:
        """Channel, kind and payload of each frame that `chunk` completes. A payload is valid until the next step.

        Raises:
            LinkError: a header is wrong; nothing after it is read.
        """
        if self._rest:
            self._rest += chunk
            if len(self._rest) < self._needed:
                return
        view = memoryview(self._rest) if self._rest else memoryview(chunk)
        offset, size = 0, len(view)
        while size - offset >= HEADER_BYTES:
            length, channel, kind = decode_header(self._tag, view, offset)
            end = offset + HEADER_BYTES + length
            if end > size:
                self._needed = HEADER_BYTES + length
                break
            yield channel, kind, view[offset + HEADER_BYTES : end]
            offset = end
        else:
            self._needed = HEADER_BYTES
        # A new buffer, never a shortened one: a payload that somebody still looks at would forbid resizing.
        self._rest = bytearray(view[offset:])
