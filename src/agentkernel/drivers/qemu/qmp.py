"""The little of QEMU's machine protocol (QMP) that we speak: commands in order, their returns, waiting for an event.

QEMU is under the guest's thumb once the guest has broken out of its processor, so what it says is bounded, and never
trusted beyond the machine that it is.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections import deque
from types import TracebackType
from typing import Any, Self

from agentkernel.model.errors import Broken

LINE_BYTES = 1 << 20
EVENTS_KEPT = 64
READ_BYTES = 65_536


class Monitor:
    """A connection to one QEMU's monitor; closed with its block. For one task at a time.

    Args:
        connected: to a `-mon mode=control` socket. QEMU greets on it once its main loop runs.
    """

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        self._socket = connected
        self._received = b""
        self._greeted = False
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS_KEPT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    async def execute(self, *commands: dict[str, Any]) -> list[Any]:
        """Send commands in one write, negotiation included when it is the first; what each returned.

        Raises:
            Broken: one of them failed, or QEMU ended.
        """
        batch = list(commands) if self._greeted else [{"execute": "qmp_capabilities"}, *commands]
        await self._send(b"".join(json.dumps(command).encode() + b"\n" for command in batch))
        if not self._greeted:
            await self._line()
            self._greeted = True
        returned: list[Any] = []
        while len(returned) < len(batch):
            line = await self._line()
            if "error" in line:
                name = batch[len(returned)]["execute"]
                raise Broken(f"QEMU refused {name}: {str(line['error'].get('desc', line['error']))[:200]}")
            if "return" in line:
                returned.append(line["return"])
            else:
                self._events.append(line)
        return returned[-len(commands) :]

    async def lend_descriptor(self, name: str, descriptor: int) -> None:
        """Give QEMU a descriptor that `fd:NAME` means from then on. Raises Broken."""
        await self.execute(command("query-status"))  # the buffer is empty now: the descriptor goes with its own command
        line = json.dumps(command("getfd", fdname=name)).encode() + b"\n"
        socket.send_fds(self._socket, [line], [descriptor])
        while "return" not in (said := await self._line()):
            if "error" in said:
                raise Broken(f"QEMU refused a descriptor: {said['error']}")
            self._events.append(said)

    async def migration_ended(self) -> str:
        """Wait for the end of a migration: `completed`, `failed` or `cancelled`. Its `events` capability must be on."""
        while True:
            said = self._events.popleft() if self._events else await self._line()
            status = str(said.get("data", {}).get("status", ""))
            if said.get("event") == "MIGRATION" and status in {"completed", "failed", "cancelled"}:
                return status

    async def _send(self, content: bytes) -> None:
        try:
            await asyncio.get_running_loop().sock_sendall(self._socket, content)
        except OSError as err:
            raise Broken("QEMU has ended") from err

    async def _line(self) -> dict[str, Any]:
        while b"\n" not in self._received:
            try:
                some = await asyncio.get_running_loop().sock_recv(self._socket, READ_BYTES)
            except OSError as err:
                raise Broken("QEMU has ended") from err
            if not some or len(self._received) > LINE_BYTES:
                raise Broken("QEMU has ended" if not some else "QEMU's monitor talks nonsense")
            self._received += some
        line, _, self._received = self._received.partition(b"\n")
        try:
            said: dict[str, Any] = json.loads(line)
        except ValueError as err:
            raise Broken("QEMU's monitor talks nonsense") from err
        return said


def command(name: str, **arguments: Any) -> dict[str, Any]:
    """One command as QMP wants it."""
    return {"execute": name, "arguments": arguments} if arguments else {"execute": name}


def leave_memory_out() -> dict[str, Any]:
    """Of what is saved and loaded: memory is in its own file. And tell of the end by an event."""
    wanted = ("x-ignore-shared", "events")
    capabilities = [{"capability": name, "state": True} for name in wanted]
    return command("migrate-set-capabilities", capabilities=capabilities)
