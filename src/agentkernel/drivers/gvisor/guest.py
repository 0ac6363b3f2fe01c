"""A guest whose processes the host can stop."""

from __future__ import annotations

import anyio.to_thread

from agentkernel.drivers.limits import Cgroup
from agentkernel.drivers.link import LinkGuest
from agentkernel.drivers.link.session import Session
from agentkernel.model.errors import Unsupported


class GvisorGuest(LinkGuest):
    """`Guest` over the guest link, in a group of the host's. After `attach`, tell it which by `live_in`."""

    def __init__(self, session: Session, *, pids: int) -> None:
        super().__init__(session, pids=pids)
        self._group: Cgroup | None = None

    def live_in(self, group: Cgroup | None) -> None:
        """The group that holds the sentry and all that it started; None where the user wants no limits."""
        self._group = group

    async def pause(self) -> None:
        self._session.check()
        await anyio.to_thread.run_sync(self._held().freeze)

    async def unpause(self) -> None:
        self._session.check()
        await anyio.to_thread.run_sync(self._held().thaw)

    def _held(self) -> Cgroup:
        if self._group is None:
            raise Unsupported("this sandbox cannot be paused", hint="it runs without limits: allow_unlimited")
        return self._group
