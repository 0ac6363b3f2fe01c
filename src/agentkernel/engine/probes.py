"""Which drivers work here: each is tried when somebody asks for it, once for all who do, and never before."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import anyio
import anyio.abc

from agentkernel.drivers.contract import Driver
from agentkernel.engine.groups import task_group
from agentkernel.model.kinds import Backend, Vmm
from agentkernel.model.readiness import Readiness

log = logging.getLogger(__name__)

DriverKey = tuple[Backend, Vmm | None]

STALE_S = 30.0
"""How old a verdict against a driver may be before the next who asks has it tried anew: an engine may have been started
since. A verdict for one stands: what has become of it shows when it is used.
"""


class Probes:
    """The verdicts. Enter `running` first.

    Attributes:
        known: those that are in.
    """

    def __init__(self, drivers: Mapping[DriverKey, Driver]) -> None:
        self.known: dict[DriverKey, Readiness] = {}
        self._drivers = drivers
        self._told_s: dict[DriverKey, float] = {}
        self._under_way: dict[DriverKey, anyio.Event] = {}
        self._group: anyio.abc.TaskGroup

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Drivers are tried for the length of a block; a probe under way at its end is given up."""
        async with task_group() as self._group:
            yield
            self._group.cancel_scope.cancel()

    async def verdicts(self, *keys: DriverKey) -> dict[DriverKey, Readiness]:
        """What is known of these drivers, tried at the same time where it is not. Unknown keys are left out."""
        for over in [over for key in keys if (over := self.begin(key))]:
            await over.wait()
        return {key: self.known[key] for key in keys if key in self.known}

    def begin(self, key: DriverKey) -> anyio.Event | None:
        """Try a driver unless its verdict stands; the event is set when there is one."""
        if key not in self._under_way and key in self._drivers and not self._stands(key):
            self._under_way[key] = anyio.Event()
            self._group.start_soon(self._probe, key, self._drivers[key])
        return self._under_way.get(key)

    def _stands(self, key: DriverKey) -> bool:
        verdict = self.known.get(key)
        return verdict is not None and (verdict.usable or time.monotonic() - self._told_s[key] < STALE_S)

    async def _probe(self, key: DriverKey, driver: Driver) -> None:
        try:
            try:
                verdict = await driver.probe()
            except Exception as err:
                log.exception("probe failed", extra={"driver": str(key)})
                verdict = Readiness(usable=False, reason=f"the probe failed: {err}", remedy="see the daemon's log")
            self.known[key], self._told_s[key] = verdict, time.monotonic()
        finally:
            self._under_way.pop(key).set()
