"""Sandboxes in gVisor for tests: the driver, a specification, and what has to be there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import anyio

from agentkernel.drivers.gvisor import GvisorDriver
from agentkernel.drivers.vmm.trials import Trials
from agentkernel.images.store import Store
from agentkernel.model.kinds import Backend
from agentkernel.model.spec import BootSpec


def gvisor_driver(store: Store) -> GvisorDriver:
    """The driver as the daemon makes it."""
    return GvisorDriver(store, Trials(store.data / "readiness", store.state / "trials"))


def gvisor_spec(store: Store, **changes: int) -> BootSpec:
    """A small sandbox of the base runtime."""
    sizes = {"memory_mib": 256, "disk_mib": 64, "pids": 256} | changes
    return BootSpec(Backend.GVISOR, "base", store.resolve("base"), **sizes)


@contextmanager
def gvisor_ready(store: Store) -> Iterator[None]:
    """runsc and a root file system; nothing of it runs."""

    async def fetch() -> None:
        await store.ensure("base")
        await store.tool("runsc")

    anyio.run(fetch)
    yield
