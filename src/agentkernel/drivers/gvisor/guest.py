"""A guest whose processes the host can stop, and whose kernel can be told to save itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.to_thread

from agentkernel.drivers.gvisor import snapshot
from agentkernel.drivers.limits import Cgroup
from agentkernel.drivers.link import LinkGuest
from agentkernel.drivers.link.session import Session
from agentkernel.model.errors import Broken, Unsupported

QUIET_DEADLINE_S = 30.0
"""How long a guest may take to fall silent."""


class GvisorGuest(LinkGuest):
    """`Guest` over the guest link, in a group of the host's. After `attach`, tell it which by `live_in`."""

    def __init__(self, session: Session, *, pids: int) -> None:
        super().__init__(session, pids=pids)
        self._group: Cgroup | None = None
        self._pid = 0
        self._inputs: Callable[[], dict[str, object]] = dict

    def live_in(self, group: Cgroup | None, pid: int, inputs: Callable[[], dict[str, object]]) -> None:
        """The group that holds the sentry and all that it started, None where the user wants no limits; the confined
        runsc; and what a sandbox must be to go on from what this one saves.
        """
        self._group, self._pid, self._inputs = group, pid, inputs

    async def pause(self) -> None:
        self._session.check()
        await anyio.to_thread.run_sync(self._held().freeze)

    async def unpause(self) -> None:
        self._session.check()
        await anyio.to_thread.run_sync(self._held().thaw)

    async def save(self, folder: Path) -> None:
        try:
            with anyio.fail_after(QUIET_DEADLINE_S):
                await self.quiesce()
        except TimeoutError as err:
            raise Broken(f"the sandbox did not fall silent within {QUIET_DEADLINE_S:.0f} s") from err
        # A sandbox that stands still must go on, whatever becomes of the caller.
        with anyio.CancelScope(shield=True):
            try:
                await anyio.to_thread.run_sync(snapshot.save, self._pid, folder, self._inputs())
            except OSError as err:
                raise Broken(
                    f"the sandbox could not be saved: {err}", hint="df -h shows whether the disk is full"
                ) from err
            finally:
                self.resume()
        await self.refresh()

    def _held(self) -> Cgroup:
        if self._group is None:
            raise Unsupported("this sandbox cannot be paused", hint="it runs without limits: allow_unlimited")
        return self._group
