"""A connected socket as a byte stream, by the event loop's own socket calls.

anyio's Unix stream sets a result on a future that may just have been cancelled, which the loop reports as an error of
its own; the loop's `sock_recv` and `sock_sendall` look first. They also try at once before they wait, which is what a
short round trip wants.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from typing import Any

import anyio
from anyio.abc import ByteStream, SocketAttribute


class PlainSocket(ByteStream):
    """Owns the socket: it is closed with the stream."""

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        self._socket = connected

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Raises EndOfStream or BrokenResourceError."""
        try:
            data = await asyncio.get_running_loop().sock_recv(self._socket, max_bytes)
        except OSError as err:
            raise anyio.BrokenResourceError from err
        if not data:
            raise anyio.EndOfStream
        return data

    async def send(self, item: bytes) -> None:
        """Raises BrokenResourceError."""
        try:
            await asyncio.get_running_loop().sock_sendall(self._socket, item)
        except OSError as err:
            raise anyio.BrokenResourceError from err

    async def send_eof(self) -> None:
        """No more from this side."""
        self._socket.shutdown(socket.SHUT_WR)

    async def aclose(self) -> None:
        """Close; nobody may be reading or writing."""
        self._socket.close()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The socket itself, for who wants to write without waiting."""
        return {SocketAttribute.raw_socket: lambda: self._socket}
