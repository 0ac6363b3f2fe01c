"""Tell a peer that closed its socket from one that only finished sending."""

from __future__ import annotations

import select
import socket

import anyio


async def hung_up(connection: socket.socket) -> None:
    """Return when the peer has closed both directions; never on a half-close.

    A read returns end of file for both. The kernel reports EPOLLHUP only for the full close, and an epoll descriptor
    that
    asks for nothing else becomes readable exactly then, so that the event loop can wait for it.
    """
    with select.epoll() as watcher:
        watcher.register(connection, 0)
        await anyio.wait_readable(watcher.fileno())
