"""What waits to be written.

One queue, so that no frame overtakes another. Small frames join it at once; bulk waits for room in the order of
arrival, one frame each time, and so channels take turns and a small frame stands behind a bounded number of bytes.
"""

from __future__ import annotations

import socket
from collections import deque

import anyio
from anyio.abc import ByteSendStream, SocketAttribute

from agentkernel.drivers.link.bell import Bell

FULL_BYTES = 262_144
"""Bulk waits while as much is queued."""


class Outbox:
    """Frames on their way to the stream.

    Args:
        stream: written by `run` alone, and directly where it is a plain socket and nothing is queued.
    """

    def __init__(self, stream: ByteSendStream) -> None:
        self._stream = stream
        raw = stream.extra(SocketAttribute.raw_socket, None)  # noqa: S610  # not Django's
        # A transport's own socket refuses to be written by others; only a plain one may be.
        self._socket = raw if isinstance(raw, socket.socket) else None
        self._queue: deque[bytes | memoryview] = deque()
        self._held: list[bytes] | None = None
        self._queued_bytes = 0
        self._writing = False
        self._closed = False
        self._filled = Bell()
        self._turn = anyio.Lock()
        self._drained = Bell()

    def push(self, frames: bytes) -> None:
        """Send, in the order of the calls. Never waits, never fails; a stream that does is noticed by `run`."""
        if not frames or self._closed:
            return
        if self._held is not None:
            self._held.append(frames)
            self._queued_bytes += len(frames)
            return
        sent = 0
        if self._socket is not None and not self._queue and not self._writing:
            sent = self._send_now(self._socket, frames)
        if sent < len(frames):
            self._queue.append(memoryview(frames)[sent:] if sent else frames)
            self._queued_bytes += len(frames) - sent
            self._filled.ring()

    @staticmethod
    def _send_now(plain: socket.socket, frames: bytes) -> int:
        try:
            return plain.send(frames)
        except OSError:
            # Full, or broken: the writing task finds out which.
            return 0

    async def room(self) -> None:
        """Wait, in the order of arrival, until bulk may be pushed; then push without awaiting anything."""
        if self._queued_bytes < FULL_BYTES and not self._turn.locked():
            return
        async with self._turn:
            while self._queued_bytes >= FULL_BYTES:
                await self._drained.heard()

    def hold(self, last: bytes) -> None:
        """Send that, then keep everything back until `release`."""
        self.push(last)
        self._held = []

    def release(self, first: bytes) -> None:
        """Send that, then what was kept back."""
        held, self._held = self._held or [], None
        self._queued_bytes -= sum(map(len, held))
        self.push(b"".join((first, *held)))

    def close(self) -> None:
        """Nothing will be written any more: let everyone go who waits for room."""
        self._closed = True
        self._queue.clear()
        self._queued_bytes = 0
        self._drained.ring()

    async def run(self) -> None:
        """Write what is queued, for ever. Raises what the stream raises."""
        while True:
            while not self._queue:
                await self._filled.heard()
            self._writing = True
            frames = b"".join(self._queue)
            self._queue.clear()
            await self._stream.send(frames)
            self._writing = False
            self._queued_bytes -= len(frames)
            self._drained.ring()
