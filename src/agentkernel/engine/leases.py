"""Leases: sandboxes that outlive the connection that asked for them, until released or left unused too long."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import anyio

from agentkernel.engine.sandbox import Sandbox
from agentkernel.model.errors import NotFound
from agentkernel.model.ids import LeaseId, new_lease_id
from agentkernel.model.spec import LeaseSpec

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Lease:
    """One caller's right to one sandbox.

    Attributes:
        spec: what holds for every command that does not say otherwise.
        users: how many requests use it right now; it does not expire meanwhile.
        used_s: monotonic time of its last use.
    """

    id: LeaseId
    sandbox: Sandbox
    spec: LeaseSpec
    used_s: float
    users: int = 0


class Leases:
    """The live leases. `ended` is called with the sandbox of each that ends, and once per lease.

    Args:
        ttl_s: seconds after its last use at which a lease ends.
    """

    def __init__(self, ttl_s: float, ended: Callable[[Sandbox], None]) -> None:
        self.ttl_s = ttl_s
        self._ended = ended
        self._leases: dict[LeaseId, Lease] = {}
        self._on_end: dict[LeaseId, list[Callable[[], None]]] = {}

    def add(self, sandbox: Sandbox, spec: LeaseSpec) -> Lease:
        """A new lease of a sandbox that was just lent."""
        lease = Lease(new_lease_id(), sandbox, spec, time.monotonic())
        self._leases[lease.id] = lease
        return lease

    def get(self, lease_id: LeaseId) -> Lease:
        """The live lease of that name; counts as a use.

        Raises:
            NotFound: there is none, or it has ended.
        """
        lease = self._leases.get(lease_id)
        if lease is None:
            raise NotFound("no such lease, or it has ended", hint="acquire a new sandbox")
        lease.used_s = time.monotonic()
        return lease

    @contextmanager
    def used(self, lease_id: LeaseId) -> Iterator[Lease]:
        """Hold a lease open for the length of a block.

        Raises:
            NotFound: there is none, or it has ended.
        """
        lease = self.get(lease_id)
        lease.users += 1
        try:
            yield lease
        finally:
            lease.users -= 1
            lease.used_s = time.monotonic()

    def when_ended(self, lease_id: LeaseId, action: Callable[[], None]) -> None:
        """Call `action` when that lease ends (a socket that belongs to it is closed, say)."""
        self._on_end.setdefault(self.get(lease_id).id, []).append(action)

    def end(self, lease_id: LeaseId) -> None:
        """End it now; nothing happens when there is none."""
        lease = self._leases.pop(lease_id, None)
        if lease is None:
            return
        for action in self._on_end.pop(lease_id, []):
            action()
        self._ended(lease.sandbox)

    def __len__(self) -> int:
        return len(self._leases)

    async def expire_forever(self) -> None:
        """End each lease whose time has come."""
        while True:
            await anyio.sleep(min(self.ttl_s / 4, 5.0))
            now_s = time.monotonic()
            for lease in list(self._leases.values()):
                if not lease.users and now_s - lease.used_s > self.ttl_s:
                    log.info("lease expired", extra={"sandbox": lease.sandbox.id, "unused_s": round(self.ttl_s)})
                    self.end(lease.id)
