"""The `vsock_path` of a lease: the original guest protocol, translated to the sandbox behind it.

`protocol/guest_json.py` has the shapes; each socket lives as long as its lease.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
import socket
from pathlib import Path

import anyio
import anyio.abc

from agentkernel.daemon.listener import check_peer
from agentkernel.engine.command import run_command
from agentkernel.engine.leases import Lease, Leases
from agentkernel.home.places import SOCKET_PATH_LIMIT
from agentkernel.model.errors import AgentkernelError
from agentkernel.model.execution import Started, Stderr, Stdout
from agentkernel.policy.environment import exec_request
from agentkernel.protocol import guest_json
from agentkernel.protocol.guest_json import GUEST_PORT, GuestReply, GuestRequest, GuestStream
from agentkernel.protocol.output import Capture

log = logging.getLogger(__name__)

READ_BYTES = 262_144
MOST_FILE_BYTES = 7 * 1024 * 1024
"""What fits into one frame as base64."""
BACKLOG = 8


class GuestDoor:
    """One listening socket per lease, in `directory`, named by 128 random bits: the path is the right to use it."""

    def __init__(self, directory: Path, leases: Leases) -> None:
        self._directory = directory
        self._leases = leases

    def clear(self) -> None:
        """Remove the sockets that a crash left; leases do not outlive their daemon."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def open(self, lease: Lease, group: anyio.abc.TaskGroup) -> Path | None:
        """Listen for that lease until it ends; None where the path would be too long for a socket."""
        path = self._directory / secrets.token_urlsafe(16)
        if len(os.fsencode(path)) > SOCKET_PATH_LIMIT:
            return None
        self._directory.mkdir(mode=0o700, exist_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(BACKLOG)
        listener.setblocking(False)
        scope = anyio.CancelScope()
        self._leases.when_ended(lease.id, scope.cancel)
        group.start_soon(self._serve, listener, path, lease, scope)
        return path

    async def _serve(self, listener: socket.socket, path: Path, lease: Lease, scope: anyio.CancelScope) -> None:
        loop = asyncio.get_running_loop()
        try:
            with scope:
                async with anyio.create_task_group() as clients:
                    while True:
                        client, _ = await loop.sock_accept(listener)
                        clients.start_soon(self._serve_client, client, lease)
        finally:
            path.unlink(missing_ok=True)
            listener.close()

    async def _serve_client(self, client: socket.socket, lease: Lease) -> None:
        with client:
            client.setblocking(False)
            try:
                check_peer(client)
                await self._converse(client, lease)
            except (AgentkernelError, ConnectionError) as err:
                log.info("guest conversation ended", extra={"reason": str(err)})
            except Exception:
                log.exception("a guest conversation failed")

    async def _converse(self, client: socket.socket, lease: Lease) -> None:
        loop = asyncio.get_running_loop()
        stream = GuestStream()
        while data := await loop.sock_recv(client, READ_BYTES):
            for event in stream.feed(data):
                match event:
                    case guest_json.Connected():
                        await loop.sock_sendall(client, guest_json.handshake_reply(GUEST_PORT))
                    case guest_json.Hangup():
                        return
                    case GuestReply():
                        await loop.sock_sendall(client, guest_json.encode_guest_reply(event))
                    case _:
                        reply = await self._answer(event, lease)
                        await loop.sock_sendall(client, guest_json.encode_guest_reply(reply))

    async def _answer(self, request: GuestRequest, lease: Lease) -> GuestReply:
        try:
            with self._leases.used(lease.id):
                if isinstance(request, guest_json.Shutdown):
                    self._leases.end(lease.id)
                    return GuestReply(id=request.id, exit_code=0)
                return await answer(request, lease)
        except (AgentkernelError, OSError) as err:
            return GuestReply(id=request.id, error=str(err))


async def answer(request: GuestRequest, lease: Lease) -> GuestReply:
    """Carry one request out in the sandbox."""
    guest = lease.sandbox.guest
    done = GuestReply(id=request.id, exit_code=0)
    match request:
        case guest_json.Run():
            return await _run(request, lease)
        case guest_json.Ping():
            await guest.ping()
            return done
        case guest_json.WriteFile(path=path, content=content):
            await guest.write_file(path, content, make_parents=True)
            return done
        case guest_json.ReadFile(path=path):
            content = await guest.read_file(path, limit=MOST_FILE_BYTES)
            return GuestReply(id=request.id, exit_code=0, content=content)
        case guest_json.RemoveFile(path=path):
            await guest.remove(path)
            return done
        case guest_json.Mkdir(path=path, recursive=recursive):
            await guest.make_directory(path, parents=bool(recursive))
            return done
        case _:
            return guest_json.unsupported(request, "terminals are not part of this version; use run")


async def _run(request: guest_json.Run, lease: Lease) -> GuestReply:
    stdout, stderr = Capture(), Capture()

    def keep(event: Started | Stdout | Stderr) -> None:
        if isinstance(event, Stdout):
            stdout.feed(event.data)
        elif isinstance(event, Stderr):
            stderr.feed(event.data)

    spec = lease.spec
    command = exec_request(
        request.command,
        env={**spec.env, **(request.env or {})},
        cwd=request.cwd or spec.cwd,
        user=spec.user,
    )
    outcome = await run_command(lease.sandbox.guest, command, sink=keep)
    problem = f"agentkernel: {outcome.problem}\n" if outcome.problem else ""
    return GuestReply(
        id=request.id, exit_code=outcome.exit_code, stdout=stdout.text().text, stderr=problem + stderr.text().text
    )
