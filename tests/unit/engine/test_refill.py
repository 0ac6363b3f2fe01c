"""Lending goes on while sandboxes are destroyed and made: neither is in a caller's way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest
from tests.support.engines import KEY, engine_over, eventually

from agentkernel.drivers.contract import Birth, Guest
from agentkernel.drivers.fake import FakeDriver
from agentkernel.model.kinds import Vmm
from agentkernel.model.spec import BootSpec
from agentkernel.pool.events import HostLimits, Limits

pytestmark = pytest.mark.anyio


@dataclass
class Gated(FakeDriver):
    """Boots wait for one gate, ends for the other; `most_booting` is the highest number of boots at the same time."""

    may_boot: anyio.Event = field(default_factory=anyio.Event)
    may_end: anyio.Event = field(default_factory=anyio.Event)
    booting: int = 0
    most_booting: int = 0

    @asynccontextmanager
    async def boot(self, spec: BootSpec, birth: Birth) -> AsyncIterator[Guest]:
        self.booting += 1
        self.most_booting = max(self.most_booting, self.booting)
        try:
            await self.may_boot.wait()
        finally:
            self.booting -= 1
        try:
            async with super().boot(spec, birth) as guest:
                yield guest
        finally:
            with anyio.CancelScope(shield=True):
                await self.may_end.wait()


async def test_nobody_waits_for_a_destruction(tmp_path: Path) -> None:
    driver = Gated(vmm=Vmm.QEMU)
    driver.may_boot.set()
    async with engine_over(driver, tmp_path, limits=HostLimits(max_sandboxes=20, max_booting=2)) as engine:
        for already_ending in range(10):
            with anyio.fail_after(5):
                sandbox = await engine.lend(KEY)
            engine.give_back(sandbox)
            assert engine.counts().dying == already_ending + 1
        driver.may_end.set()
        await eventually(lambda: engine.counts().dying == 0)


async def test_refills_run_beside_each_other_up_to_the_limit_and_while_others_end(tmp_path: Path) -> None:
    driver = Gated(vmm=Vmm.QEMU)
    limits = HostLimits(max_sandboxes=20, max_booting=3)
    async with engine_over(driver, tmp_path, limits=limits, warm=Limits(6, 6)) as engine:
        await eventually(lambda: driver.booting == 3)
        driver.may_boot.set()
        await eventually(lambda: engine.counts().warm == 6)
        lent = [await engine.lend(KEY) for _ in range(6)]
        for sandbox in lent:
            engine.give_back(sandbox)
        await eventually(lambda: engine.counts().warm == 6)
        assert engine.counts().dying == 6, "the new ones did not wait for the old ones' end"
        assert driver.most_booting == 3
        driver.may_end.set()


async def test_a_burst_on_an_empty_pool_is_served_in_the_order_of_arrival_and_loses_nobody(tmp_path: Path) -> None:
    driver = Gated(vmm=Vmm.QEMU)
    driver.may_end.set()
    served: list[int] = []
    async with engine_over(driver, tmp_path, limits=HostLimits(max_sandboxes=8, max_booting=2)) as engine:

        async def caller(number: int) -> None:
            sandbox = await engine.lend(KEY)
            served.append(number)
            engine.give_back(sandbox)

        async with anyio.create_task_group() as group:
            for number in range(50):
                group.start_soon(caller, number)
                await eventually(lambda asked=number + 1: engine.counts().waiting == asked)  # type: ignore[misc]
            driver.may_boot.set()
    assert served == list(range(50))
