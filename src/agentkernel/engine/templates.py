"""Templates by specification: each made once, for all who wait, by a task of the engine; given up when it fails."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.abc

from agentkernel.drivers.contract import Driver
from agentkernel.engine.groups import task_group
from agentkernel.engine.timings import Stage, Timings
from agentkernel.model.errors import AgentkernelError
from agentkernel.model.kinds import Feature
from agentkernel.model.spec import BootSpec

log = logging.getLogger(__name__)

MOST_FAILURES = 2
"""Clones in a row that do not come up until the specification is booted cold."""
GIVEN_UP_S = 60.0
"""How long machines of a specification are booted cold after its template could not be made or used."""

Make = Callable[[BootSpec, Driver], Awaitable[Path]]
"""Makes a template, or finds it."""


@dataclass(slots=True, eq=False)
class _Making:
    """A template under way, or there, or given up."""

    over: anyio.Event = field(default_factory=anyio.Event)
    folder: Path | None = None
    given_up_until_s: float = 0.0

    def give_up(self) -> None:
        """No template for a while."""
        self.given_up_until_s = time.monotonic() + GIVEN_UP_S

    def may_be_tried_again(self) -> bool:
        """Whether it is over without a template, and long enough ago."""
        return self.over.is_set() and self.folder is None and time.monotonic() >= self.given_up_until_s


class Templates:
    """What clones are copied from. Enter `running` first.

    Args:
        make: makes one, in the engine's surroundings.
        enabled: whether there are to be any.
    """

    def __init__(self, make: Make, timings: Timings, *, enabled: bool) -> None:
        self._make = make
        self._timings = timings
        self._enabled = enabled
        self._known: dict[BootSpec, _Making] = {}
        self._failures: Counter[BootSpec] = Counter()
        self._group: anyio.abc.TaskGroup

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Templates are made for the length of a block; one under way at its end is given up."""
        async with task_group() as self._group:
            yield
            self._group.cancel_scope.cancel()

    async def get(self, spec: BootSpec, driver: Driver) -> Path | None:
        """The template to clone; None where it is a cold boot: the driver has none, or this one failed lately."""
        if not self._enabled or Feature.TEMPLATE not in driver.capabilities:
            return None
        making = self._known.get(spec)
        if making is None or making.may_be_tried_again():
            making = self._known[spec] = _Making()
            self._group.start_soon(self._run, spec, driver, making)
        await making.over.wait()
        return making.folder

    async def _run(self, spec: BootSpec, driver: Driver, making: _Making) -> None:
        try:
            with self._timings.measure(Stage.TEMPLATE):
                making.folder = await self._make(spec, driver)
        except (AgentkernelError, OSError) as err:
            making.give_up()
            log.warning("booting cold: no template", extra={"runtime": spec.runtime, "reason": str(err)})
        except Exception:  # a fault of the driver's costs speed, not the daemon
            making.give_up()
            log.exception("booting cold: no template", extra={"runtime": spec.runtime})
        finally:
            making.over.set()

    def proved(self, spec: BootSpec) -> None:
        """A clone of it came up."""
        del self._failures[spec]

    async def suspect(self, spec: BootSpec, driver: Driver, folder: Path) -> None:
        """A clone of it did not come up. The first time it is made anew, then it is given up for a while."""
        making = self._known.get(spec)
        if making is None or making.folder is not folder:
            return  # somebody else was as unlucky, and quicker; what is there now has the same name, but is another
        self._failures[spec] += 1
        log.warning("template discarded: a clone did not come up", extra={"runtime": spec.runtime})
        making.folder = None
        if self._failures[spec] >= MOST_FAILURES:
            making.give_up()
        else:
            del self._known[spec]
        try:
            await driver.discard(folder)
        except (AgentkernelError, OSError) as err:
            log.warning("template kept", extra={"runtime": spec.runtime, "reason": str(err)})
