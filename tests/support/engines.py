"""An engine over one driver, the fake one in unit tests of the engine and the daemon."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio

from agentkernel.drivers.contract import Driver
from agentkernel.engine.engine import Engine
from agentkernel.journal import Journal
from agentkernel.model.ids import Digest
from agentkernel.model.kinds import Backend, Mode, Vmm
from agentkernel.model.spec import BootSpec
from agentkernel.pool.events import HostLimits, Key, Limits

KEY = Key(BootSpec(Backend.MICROVM, "base", Digest("0" * 64), vmm=Vmm.QEMU), Mode.NATIVE)


@asynccontextmanager
async def engine_over(
    driver: Driver,
    directory: Path,
    *,
    key: Key = KEY,
    limits: HostLimits | None = None,
    warm: Limits | None = None,
    **settings: Any,
) -> AsyncIterator[Engine]:
    """An engine that runs, knows the key, and lends sandboxes of `driver`."""
    async with Journal.open(directory / "journal.db") as journal:
        engine = Engine(
            drivers={(Backend.MICROVM, Vmm.QEMU): driver},
            journal=journal,
            directory=directory / "sandboxes",
            limits=limits or HostLimits(),
            **settings,
        )
        async with engine.running():
            await engine.readiness(*engine.drivers)
            engine.configure(key, warm or Limits(0, 2), fill=warm is not None)
            yield engine


async def eventually(condition: Callable[[], bool]) -> None:
    """Let other tasks run until the condition holds; a test that would wait for ever fails."""
    with anyio.fail_after(5):
        while not condition():
            await anyio.lowlevel.checkpoint()
