"""A daemon's service over named drivers, without sockets or machines."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from agentkernel.daemon.service import Service
from agentkernel.drivers.contract import Driver
from agentkernel.engine.engine import Engine
from agentkernel.home.places import Places
from agentkernel.journal import Journal
from agentkernel.model.ids import Digest
from agentkernel.policy.layers import load
from agentkernel.pool.events import HostLimits


class BuiltImages:
    """Every runtime is there."""

    def resolve(self, runtime: str) -> Digest:
        return Digest(runtime.ljust(64, "0"))

    def is_built(self, runtime: str) -> bool:
        return True

    def warm_up(self, runtime: str) -> tuple[tuple[str, ...], ...]:
        return ()

    async def ensure(self, runtime: str, progress: Callable[..., None] | None = None) -> Digest:
        return self.resolve(runtime)


@asynccontextmanager
async def service_over(directory: Path, *drivers: Driver, **flags: Any) -> AsyncIterator[tuple[Service, Engine]]:
    """A service whose engine has these drivers. Flags are configuration keys, `__` for the dot."""
    config = load(flags={path.replace("__", "."): value for path, value in flags.items()}).config
    async with Journal.open(directory / "journal.db") as journal:
        engine = Engine(
            drivers={(driver.backend, driver.vmm): driver for driver in drivers},
            journal=journal,
            directory=directory / "sandboxes",
            limits=HostLimits(),
        )
        service = Service(engine, BuiltImages(), config, Places(directory, directory / "daemon.sock"))
        async with engine.running(), service.running():
            yield service, engine
