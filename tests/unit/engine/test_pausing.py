"""Sandboxes that stand still: for their idleness, or because their caller wants it."""

from __future__ import annotations

import random
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from tests.support.engines import KEY, engine_over, eventually

from agentkernel.drivers.contract import Guest
from agentkernel.drivers.fake import FakeDriver
from agentkernel.drivers.fake.driver import DECLARED
from agentkernel.engine import sandbox as sandboxes
from agentkernel.engine.command import run_command
from agentkernel.engine.sandbox import Sandbox
from agentkernel.model.errors import Broken, NotFound, Refused, Unsupported
from agentkernel.model.execution import ExecRequest
from agentkernel.model.ids import LeaseId, new_sandbox_id
from agentkernel.model.kinds import Feature, Vmm
from agentkernel.model.readiness import Capabilities, Readiness
from agentkernel.pool.events import Limits

pytestmark = pytest.mark.anyio

ECHO = ExecRequest(argv=(b"echo", b"hello"))


async def test_an_idle_sandbox_is_paused_and_lent_awake(tmp_path: Path) -> None:
    driver = FakeDriver(vmm=Vmm.QEMU)
    async with engine_over(driver, tmp_path, warm=Limits(1, 1), idle_pause_s=0.01) as engine:
        await eventually(lambda: any(guest.paused for guest in driver.alive.values()))
        sandbox = await engine.lend(KEY)
        assert sandbox.was_warm
        inside = driver.alive[sandbox.id]
        assert not inside.paused
        assert (await run_command(sandbox.guest, ECHO)).exit_code == 0
        assert inside.greetings == 2, "greeted, and told the time anew"
        await anyio.sleep(0.03)
        assert not inside.paused, "a lent one is nobody's to pause"
        engine.give_back(sandbox)


async def test_a_sandbox_of_a_driver_that_cannot_pause_stays_awake_and_says_so(tmp_path: Path) -> None:
    driver = FakeDriver(vmm=Vmm.QEMU, capabilities=Capabilities(DECLARED - {Feature.PAUSE}))
    async with engine_over(driver, tmp_path, warm=Limits(1, 1), idle_pause_s=0.001) as engine:
        await eventually(lambda: engine.counts().warm == 1)
        await anyio.sleep(0.01)
        assert not any(guest.paused for guest in driver.alive.values())
        lease = await engine.acquire(KEY)
        for act in (engine.pause, engine.resume):
            with pytest.raises(Unsupported):
                await act(lease.id)


async def test_pausing_and_lending_at_the_same_moment_always_ends_awake() -> None:
    dice = random.Random(7)
    driver = FakeDriver()
    for _ in range(5000):
        guest = Stub(dice)
        sandbox = Sandbox(new_sandbox_id(), KEY, driver, Readiness(usable=True), _guest=guest)

        async def lend(sandbox: Sandbox = sandbox) -> None:
            await idle(dice)
            sandbox.lent = True
            await sandbox.wake()
            assert sandbox.guest

        async def rest(sandbox: Sandbox = sandbox) -> None:
            await idle(dice)
            await sandbox.rest()

        async with anyio.create_task_group() as group:
            for act in dice.sample([lend, rest], 2):
                group.start_soon(act)
        assert not guest.paused
        assert not sandbox.still


async def test_a_busy_pool_never_lends_what_is_paused(tmp_path: Path) -> None:
    driver = FakeDriver(vmm=Vmm.QEMU)
    async with engine_over(driver, tmp_path, warm=Limits(2, 3), idle_pause_s=0.002) as engine:
        for number in range(300):
            await anyio.sleep(0.0005 * (number % 7))
            with anyio.fail_after(5):
                sandbox = await engine.lend(KEY)
                assert (await run_command(sandbox.guest, ECHO)).exit_code == 0
            engine.give_back(sandbox)


async def test_a_paused_lease_refuses_commands_until_it_is_resumed(tmp_path: Path) -> None:
    driver = FakeDriver(vmm=Vmm.QEMU)
    async with engine_over(driver, tmp_path) as engine:
        lease = await engine.acquire(KEY)
        await engine.pause(lease.id)
        assert driver.alive[lease.sandbox.id].paused
        with pytest.raises(Refused, match="paused") as refusal:
            await run_command(lease.sandbox.guest, ECHO)
        assert "resume" in refusal.value.hint
        await engine.resume(lease.id)
        await engine.resume(lease.id)
        assert (await run_command(lease.sandbox.guest, ECHO)).exit_code == 0
        engine.release(lease.id)
        for act in (engine.pause, engine.resume):
            with pytest.raises(NotFound):
                await act(LeaseId(lease.id))


async def test_a_paused_sandbox_is_not_pinged_and_its_end_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandboxes, "HEARTBEAT_S", 0.01)
    monkeypatch.setattr(sandboxes, "HEARTBEAT_GRACE_S", 0.02)
    driver = FakeDriver(vmm=Vmm.QEMU)
    async with engine_over(driver, tmp_path) as engine:
        lease = await engine.acquire(KEY)
        await engine.pause(lease.id)
        await anyio.sleep(0.1)
        assert lease.sandbox.id in driver.alive
        driver.kill(lease.sandbox.id)
        await eventually(lambda: lease.sandbox.id not in driver.alive)
        with pytest.raises(Broken):
            await engine.resume(lease.id)


async def test_a_sandbox_that_dies_while_it_is_woken_breaks_its_caller_and_no_other(tmp_path: Path) -> None:
    driver = FakeDriver(vmm=Vmm.QEMU)
    async with engine_over(driver, tmp_path, warm=Limits(1, 1), idle_pause_s=0.01) as engine:
        await eventually(lambda: any(guest.paused for guest in driver.alive.values()))
        (doomed,) = driver.alive
        driver.kill(doomed)
        with anyio.fail_after(5), pytest.raises(Broken):
            await run_command((await engine.lend(KEY)).guest, ECHO)
        await eventually(lambda: doomed not in driver.alive)
        sandbox = await engine.lend(KEY)
        assert (await run_command(sandbox.guest, ECHO)).exit_code == 0
        engine.give_back(sandbox)


async def idle(dice: random.Random) -> None:
    """Let others go first, some times."""
    for _ in range(dice.randint(0, 4)):
        await anyio.lowlevel.checkpoint()


class Stub(Guest):
    """A guest that only pauses, slowly."""

    def __init__(self, dice: random.Random) -> None:
        self.paused = False
        self._dice = dice

    async def pause(self) -> None:
        await idle(self._dice)
        self.paused = True
        await idle(self._dice)

    async def unpause(self) -> None:
        await idle(self._dice)
        self.paused = False
        await idle(self._dice)

    async def refresh(self) -> None:
        assert not self.paused


Stub.__abstractmethods__ = frozenset()
