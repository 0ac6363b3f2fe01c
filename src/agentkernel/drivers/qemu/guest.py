"""A guest whose QEMU takes orders: pause, go on, save."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from agentkernel.drivers.link import LinkGuest
from agentkernel.drivers.link.session import Session
from agentkernel.drivers.qemu import snapshot
from agentkernel.drivers.qemu.qmp import Monitor, command
from agentkernel.drivers.vmm.files import SCRATCH, connect_below
from agentkernel.model.errors import Broken

ORDER_DEADLINE_S = 30.0
"""How long QEMU may take to obey; it takes a millisecond unless the host is out of breath."""
QUIET_DEADLINE_S = 30.0
"""How long a guest may take to fall silent."""
SAVE_DEADLINE_S = 300.0
"""How long writing all memory and copying the disk may take."""


class QemuGuest(LinkGuest):
    """`Guest` over the guest link and QEMU's monitor. After `attach`, tell it where by `live_in`."""

    def __init__(self, session: Session, *, pids: int) -> None:
        super().__init__(session, pids=pids)
        self._directory = Path()
        self._inputs: Callable[[], dict[str, object]] = dict
        self._ordering = anyio.Lock()

    def live_in(self, directory: Path, inputs: Callable[[], dict[str, object]]) -> None:
        """The folder that holds its monitor's socket and its disk, and what a machine must be to load its state."""
        self._directory, self._inputs = directory, inputs

    async def pause(self) -> None:
        async with self._monitor(ORDER_DEADLINE_S) as monitor:
            await monitor.execute(command("stop"))

    async def unpause(self) -> None:
        async with self._monitor(ORDER_DEADLINE_S) as monitor:
            await monitor.execute(command("cont"))

    async def save(self, folder: Path) -> None:
        try:
            with anyio.fail_after(QUIET_DEADLINE_S):
                await self.quiesce()
        except TimeoutError as err:
            raise Broken(f"the sandbox did not fall silent within {QUIET_DEADLINE_S:.0f} s") from err
        # A machine that stands still must go on, whatever becomes of the caller.
        with anyio.CancelScope(shield=True):
            try:
                async with self._monitor(SAVE_DEADLINE_S) as monitor:
                    await snapshot.save(monitor, folder, self._directory / SCRATCH, self._inputs())
            except OSError as err:
                raise Broken(
                    f"the sandbox could not be saved: {err}", hint="df -h shows whether the disk is full"
                ) from err
            finally:
                self.resume()
        await self.refresh()

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
