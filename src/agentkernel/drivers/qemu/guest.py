"""A guest whose QEMU takes orders: pause, go on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from agentkernel.drivers.link import LinkGuest
from agentkernel.drivers.link.session import Session
from agentkernel.drivers.qemu.files import connect_below
from agentkernel.drivers.qemu.qmp import Monitor, command
from agentkernel.model.errors import Broken

ORDER_DEADLINE_S = 30.0
"""How long QEMU may take to obey; it takes a millisecond unless the host is out of breath."""


class QemuGuest(LinkGuest):
    """`Guest` over the guest link and QEMU's monitor. After `attach`, tell it where by `live_in`."""

    def __init__(self, session: Session, *, pids: int) -> None:
        super().__init__(session, pids=pids)
        self._directory = Path()
        self._ordering = anyio.Lock()

    def live_in(self, directory: Path) -> None:
        """The folder that holds its monitor's socket."""
        self._directory = directory

    async def pause(self) -> None:
        async with self._monitor(ORDER_DEADLINE_S) as monitor:
            await monitor.execute(command("stop"))

    async def unpause(self) -> None:
        async with self._monitor(ORDER_DEADLINE_S) as monitor:
            await monitor.execute(command("cont"))

    @asynccontextmanager
    async def _monitor(self, deadline_s: float) -> AsyncIterator[Monitor]:
        """A conversation with QEMU, which has one at a time. Raises Broken for one that has ended or hangs."""
        self._session.check()
        try:
            async with self._ordering:
                with anyio.fail_after(deadline_s), Monitor(connect_below(self._directory, "qmp")) as monitor:
                    yield monitor
        except TimeoutError as err:
            raise Broken(f"QEMU did not obey within {deadline_s:.0f} s") from err
        except (FileNotFoundError, ConnectionError, BlockingIOError) as err:
            raise Broken("QEMU has ended") from err
