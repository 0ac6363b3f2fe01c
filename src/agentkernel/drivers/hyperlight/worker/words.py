"""What a worker and a machine's process say to each other: a kind, a length, bytes."""

from __future__ import annotations

import socket
import struct

READY = b"r"
"""From the machine: its snapshot is taken. Once."""
PROGRAM = b"p"
"""To the machine: run this, JSON."""
STDOUT, STDERR = b"o", b"e"
INPUT = b"i"
"""From the machine: it wants up to so many bytes of input, decimal. To it: they are here, none at the end."""
ENDED = b"x"
"""From the machine: the exit code, decimal. It is as good as new."""
LEFT = b"l"
"""From the machine: the exit code of a program that left at once. The machine is of no use any more."""
FAILED = b"f"
"""From the machine: why the program, or the machine, came to its end. It is of no use any more."""

_HEAD = struct.Struct(">cI")
MOST_BYTES = 64 << 20


def send(stream: socket.socket, kind: bytes, payload: bytes = b"") -> None:
    """Whole; waits while nobody reads."""
    stream.sendall(_HEAD.pack(kind, len(payload)) + payload)


def receive(stream: socket.socket) -> tuple[bytes, bytes]:
    """Kind and payload. Raises EOFError at the end, or where what comes is none of this."""
    kind, size = _HEAD.unpack(_exactly(stream, _HEAD.size))
    if size > MOST_BYTES:
        raise EOFError
    return kind, _exactly(stream, size)


def _exactly(stream: socket.socket, size: int) -> bytes:
    got = bytearray()
    while len(got) < size:
        try:
            chunk = stream.recv(min(size - len(got), 1 << 20))
        except OSError:
            chunk = b""
        if not chunk:
            raise EOFError
        got += chunk
    return bytes(got)
