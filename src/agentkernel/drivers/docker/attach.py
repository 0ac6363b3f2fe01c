"""The guest link over a container's attached streams.

Towards the container the bytes go as they are. From it they come in records of an 8-byte head (which stream, three
zeros, the length, big-endian) and as many bytes; standard output is the link, standard error the agent's last words.

Source: Docker Engine API, "Attach to a container", stream format.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import anyio
from anyio.abc import ByteStream, SocketAttribute

HEAD_BYTES = 8
STDOUT, STDERR = 1, 2
WORDS_KEPT = 4096


class Records:
    """Bytes of the attached stream to bytes of standard output. Pure."""

    def __init__(self) -> None:
        self.words = b""
        self._head = b""
        self._stream = 0
        self._missing = 0

    def feed(self, chunk: bytes) -> bytes:
        """What of it is standard output; `words` keeps the end of standard error.

        Raises:
            ValueError: it is no such record.
        """
        if self._missing >= len(chunk) and self._stream == STDOUT and not self._head:
            self._missing -= len(chunk)  # one long record, whole chunks of it: nothing to copy
            return chunk
        output: list[bytes] = []
        view = memoryview(chunk)
        while view:
            if self._missing:
                piece, view = view[: self._missing], view[self._missing :]
                self._missing -= len(piece)
                if self._stream == STDOUT:
                    output.append(bytes(piece))
                else:
                    self.words = (self.words + bytes(piece))[-WORDS_KEPT:]
                continue
            wanted = HEAD_BYTES - len(self._head)
            self._head, view = self._head + bytes(view[:wanted]), view[wanted:]
            if len(self._head) == HEAD_BYTES:
                self._begin(self._head)
                self._head = b""
        return b"".join(output)

    def _begin(self, head: bytes) -> None:
        if head[0] not in (STDOUT, STDERR) or any(head[1:4]):
            raise ValueError("the engine's stream is no record of an attached container")
        self._stream, self._missing = head[0], int.from_bytes(head[4:], "big")


class AttachedStream(ByteStream):
    """A container's link. Owns the stream below.

    Args:
        first: what of the stream came with the head of the engine's answer.
    """

    def __init__(self, below: ByteStream, first: bytes) -> None:
        self._below = below
        self._first = first
        self._records = Records()

    @property
    def last_words(self) -> str:
        """The end of what the container's process wrote to standard error."""
        return self._records.words.decode(errors="replace")

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Raises EndOfStream or BrokenResourceError."""
        while True:
            chunk, self._first = self._first, b""
            if not chunk:
                chunk = await self._below.receive(max_bytes)
            try:
                output = self._records.feed(chunk)
            except ValueError as err:
                raise anyio.BrokenResourceError from err
            if output:
                return output

    async def send(self, item: bytes) -> None:
        """Raises BrokenResourceError."""
        await self._below.send(item)

    def break_off(self) -> None:
        """End it from outside, at once: whoever reads or writes it finds it broken."""
        raw = self._below.extra(SocketAttribute.raw_socket, None)  # noqa: S610  # not Django's
        with suppress(OSError):
            if raw is not None:
                raw.shutdown(socket.SHUT_RDWR)

    async def send_eof(self) -> None:
        """No more input: the agent ends."""
        await self._below.send_eof()

    async def aclose(self) -> None:
        """Close; nobody may be reading or writing."""
        await self._below.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """Those of the stream below: what is sent goes to it as it is."""
        return self._below.extra_attributes
