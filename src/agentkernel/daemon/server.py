"""Accepts clients and serves each in a task of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.abc

from agentkernel.daemon.connection import Connection
from agentkernel.daemon.listener import check_peer
from agentkernel.daemon.service import Service
from agentkernel.model.errors import Denied
from agentkernel.protocol.codec import encode_reply, error_reply

log = logging.getLogger(__name__)

OUT_OF_DESCRIPTORS_S = 0.1
TURN_AWAY_S = 0.5
"""How long somebody who is not served may take to read why."""
TURNED_AWAY_BYTES = 65536


@asynccontextmanager
async def accepting(
    listener: socket.socket, service: Service, clients: anyio.abc.TaskGroup, *, line_cap_bytes: int
) -> AsyncIterator[None]:
    """Accept for the length of a block; those who were accepted live on in `clients`."""
    async with anyio.create_task_group() as group:
        group.start_soon(_accept, listener, service, clients, line_cap_bytes)
        yield
        group.cancel_scope.cancel()


async def _accept(listener: socket.socket, service: Service, clients: anyio.abc.TaskGroup, line_cap_bytes: int) -> None:
    loop = asyncio.get_running_loop()
    while True:
        try:
            client, _ = await loop.sock_accept(listener)
        except OSError as err:
            # Out of descriptors, most likely: those who are connected go on, and this passes.
            log.warning("cannot accept", extra={"reason": str(err)})
            await anyio.sleep(OUT_OF_DESCRIPTORS_S)
        else:
            clients.start_soon(_serve_client, client, service, line_cap_bytes)


async def _serve_client(client: socket.socket, service: Service, line_cap_bytes: int) -> None:
    with client:
        client.setblocking(False)
        try:
            check_peer(client)
            await Connection(client, service, line_cap_bytes=line_cap_bytes).serve()
        except Denied as err:
            log.warning("refused a peer", extra={"reason": err.message})
            await _turn_away(client, err)
        except Exception:
            log.exception("a connection failed")


async def _turn_away(client: socket.socket, err: Denied) -> None:
    """Say why, and hang up only when the client has read it, so that its own sending does not fail first."""
    loop = asyncio.get_running_loop()
    with anyio.move_on_after(TURN_AWAY_S), contextlib.suppress(OSError):
        await loop.sock_sendall(client, encode_reply(error_reply(err)))
        client.shutdown(socket.SHUT_WR)
        while await loop.sock_recv(client, TURNED_AWAY_BYTES):
            """Whatever it asks is not looked at."""
