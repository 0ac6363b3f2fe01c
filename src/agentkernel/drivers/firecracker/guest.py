"""A guest whose Firecracker takes orders: pause, go on."""

from __future__ import annotations

from pathlib import Path

from agentkernel.drivers.firecracker.api import Api
from agentkernel.drivers.firecracker.machine import PAUSE, RESUME, Request
from agentkernel.drivers.link import LinkGuest
from agentkernel.drivers.link.session import Session
from agentkernel.model.errors import Broken, Unsupported


class FirecrackerGuest(LinkGuest):
    """`Guest` over the guest link and Firecracker's API. After `attach`, tell it whom to order by `obey`.

    It cannot be saved while it runs: a snapshot resets the vsock device of the machine that it is taken of, and the
    commands under way would end with the link (docs/adr/0014-firecracker-and-apple.md).
    """

    def __init__(self, session: Session, *, pids: int) -> None:
        super().__init__(session, pids=pids)
        self._api: Api | None = None
        self._stands = False

    def obey(self, api: Api) -> None:
        """Whom to ask for a pause."""
        self._api = api

    async def pause(self) -> None:
        await self._order(PAUSE, stands=True)

    async def unpause(self) -> None:
        await self._order(RESUME, stands=False)

    async def save(self, folder: Path) -> None:
        raise Unsupported(
            "Firecracker cuts a machine's connections when it is saved, and the commands under way would end",
            hint="for forks and snapshots, set [microvm] vmm to qemu, or send vmm qemu",
        )

    async def _order(self, request: Request, *, stands: bool) -> None:
        self._session.check()
        if self._api is None:
            raise Broken("this machine takes no orders yet")
        if self._stands is stands:
            return
        await self._api.ask(request)
        self._stands = stands
