"""The engine over a driver without machines: what is lent, when, and what happens when it goes wrong."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from tests.support.engines import KEY, engine_over, eventually

from agentkernel.drivers.fake import FakeDriver, Faults
from agentkernel.engine.command import run_command
from agentkernel.journal import Journal
from agentkernel.model.errors import Broken, Busy, NotFound
from agentkernel.model.execution import ExecRequest
from agentkernel.model.ids import LeaseId, new_sandbox_id
from agentkernel.model.kinds import Backend, Vmm
from agentkernel.pool.events import HostLimits, Limits

pytestmark = pytest.mark.anyio

ECHO = ExecRequest(argv=(b"echo", b"hello"))


async def test_a_lent_sandbox_runs_a_command_and_is_destroyed_after(tmp_path: Path) -> None:
    driver = FakeDriver(vmm=Vmm.QEMU)
    async with engine_over(driver, tmp_path) as engine:
        sandbox = await engine.lend(KEY)
        outcome = await run_command(sandbox.guest, ECHO)
        assert outcome.exit_code == 0
        engine.give_back(sandbox)
        await eventually(lambda: sandbox.id not in driver.alive)


async def test_no_sandbox_is_lent_twice_however_many_ask(tmp_path: Path) -> None:
    driver = FakeDriver(vmm=Vmm.QEMU)
    seen: list[str] = []
    async with engine_over(driver, tmp_path, warm=Limits(2, 3)) as engine:

        async def use() -> None:
            sandbox = await engine.lend(KEY)
            seen.append(sandbox.id)
            await run_command(sandbox.guest, ECHO)
            engine.give_back(sandbox)

        async with anyio.create_task_group() as group:
            for _ in range(40):
                group.start_soon(use)
    assert len(seen) == len(set(seen)) == 40


async def test_leaving_the_engine_leaves_no_sandbox_no_folder_and_no_row(tmp_path: Path) -> None:
    driver = FakeDriver(vmm=Vmm.QEMU)
    async with engine_over(driver, tmp_path, warm=Limits(2, 2)) as engine:
        await engine.lend(KEY)
        await eventually(lambda: engine.counts().warm == 2)
    assert driver.alive == {}
    assert list((tmp_path / "sandboxes").iterdir()) == []
    async with Journal.open(tmp_path / "journal.db") as journal:
        assert await journal.leftovers() == []


async def test_a_boot_that_fails_reaches_its_caller_with_the_cause_and_the_next_boot_may_succeed(
    tmp_path: Path,
) -> None:
    driver = FakeDriver(vmm=Vmm.QEMU, faults=Faults(boot_error="no memory left"))
    async with engine_over(driver, tmp_path) as engine:
        with pytest.raises(Broken, match="no memory left"):
            await engine.lend(KEY)
        driver.faults.boot_error = ""
        engine.give_back(await engine.lend(KEY))


async def test_a_sandbox_that_dies_while_warm_is_replaced_and_never_lent(tmp_path: Path) -> None:
    driver = FakeDriver(vmm=Vmm.QEMU)
    async with engine_over(driver, tmp_path, warm=Limits(1, 1)) as engine:
        await eventually(lambda: engine.counts().warm == 1)
        (doomed,) = driver.alive
        driver.kill(doomed)
        await eventually(lambda: doomed not in driver.alive and engine.counts().warm == 1)
        sandbox = await engine.lend(KEY)
        assert sandbox.id != doomed
        engine.give_back(sandbox)


async def test_a_sandbox_that_dies_under_a_command_breaks_that_command_only(tmp_path: Path) -> None:
    driver = FakeDriver(vmm=Vmm.QEMU)
    async with engine_over(driver, tmp_path) as engine:
        one, other = await engine.lend(KEY), await engine.lend(KEY)

        async def die_soon() -> None:
            await anyio.sleep(0.01)
            driver.kill(one.id)

        async with anyio.create_task_group() as group:
            group.start_soon(die_soon)
            with pytest.raises(Broken):
                await run_command(one.guest, ExecRequest(argv=(b"sleep", b"60")))
        assert (await run_command(other.guest, ECHO)).exit_code == 0
        engine.give_back(one)
        engine.give_back(other)


async def test_a_full_host_makes_callers_wait_then_says_busy(tmp_path: Path) -> None:
    driver = FakeDriver(vmm=Vmm.QEMU)
    limits = HostLimits(max_sandboxes=1)
    async with engine_over(driver, tmp_path, limits=limits, queue_timeout_s=0.05) as engine:
        first = await engine.lend(KEY)
        with pytest.raises(Busy) as refusal:
            await engine.lend(KEY)
        assert "max_sandboxes" in refusal.value.hint
        engine.give_back(first)
        engine.give_back(await engine.lend(KEY))


async def test_a_caller_that_gives_up_while_waiting_leaves_its_turn_to_the_next(tmp_path: Path) -> None:
    driver = FakeDriver(vmm=Vmm.QEMU)
    async with engine_over(driver, tmp_path, limits=HostLimits(max_sandboxes=1)) as engine:
        first = await engine.lend(KEY)
        with anyio.move_on_after(0.01):
            await engine.lend(KEY)
        engine.give_back(first)
        with anyio.fail_after(5):
            engine.give_back(await engine.lend(KEY))


async def test_prewarm_counts_what_it_made_and_a_second_call_makes_nothing(tmp_path: Path) -> None:
    driver = FakeDriver(vmm=Vmm.QEMU)
    async with engine_over(driver, tmp_path) as engine:
        engine.configure(KEY, Limits(2, 3))
        assert await engine.prewarm((KEY,)) == 2
        assert await engine.prewarm((KEY,)) == 0


async def test_a_lease_ends_when_nobody_uses_it_for_its_time(tmp_path: Path) -> None:
    driver = FakeDriver(vmm=Vmm.QEMU)
    async with engine_over(driver, tmp_path, lease_ttl_s=0.05) as engine:
        lease = await engine.acquire(KEY)
        with engine.leases.used(lease.id):
            await anyio.sleep(0.15)
            assert lease.sandbox.id in driver.alive, "a lease in use does not expire"
        await eventually(lambda: lease.sandbox.id not in driver.alive)
        with pytest.raises(NotFound):
            engine.leases.get(lease.id)


async def test_releasing_twice_or_an_unknown_lease_is_fine(tmp_path: Path) -> None:
    driver = FakeDriver(vmm=Vmm.QEMU)
    async with engine_over(driver, tmp_path) as engine:
        lease = await engine.acquire(KEY)
        engine.release(lease.id)
        engine.release(lease.id)
        engine.release(LeaseId("nonsense"))
        await eventually(lambda: lease.sandbox.id not in driver.alive)


async def test_what_a_crash_left_is_reaped_at_the_next_start_by_row_and_by_folder(tmp_path: Path) -> None:
    left, stray = new_sandbox_id(), new_sandbox_id()
    folder = tmp_path / "sandboxes"
    for name in (left, stray):
        (folder / name).mkdir(parents=True)
    async with Journal.open(tmp_path / "journal.db") as journal:
        await journal.intend(left, Backend.MICROVM, Vmm.QEMU, folder / left)
        await journal.record(left, {"pid": 7})
    driver = FakeDriver(vmm=Vmm.QEMU)
    async with engine_over(driver, tmp_path):
        assert driver.reaped == [(left, {"pid": 7})]
        assert list(folder.iterdir()) == []


async def test_a_leftover_that_resists_is_kept_for_later_and_does_not_stop_the_start(tmp_path: Path) -> None:
    class Resisting(FakeDriver):
        async def reap(self, sandbox, facts):  # type: ignore[no-untyped-def]
            raise Broken("does not die")

    left = new_sandbox_id()
    async with Journal.open(tmp_path / "journal.db") as journal:
        await journal.intend(left, Backend.MICROVM, Vmm.QEMU, tmp_path / "sandboxes" / left)
    async with engine_over(Resisting(vmm=Vmm.QEMU), tmp_path) as engine:
        engine.give_back(await engine.lend(KEY))
    async with Journal.open(tmp_path / "journal.db") as journal:
        assert [row.id for row in await journal.leftovers()] == [left]


async def test_each_sandbox_has_an_identity_of_its_own(tmp_path: Path) -> None:
    driver = FakeDriver(vmm=Vmm.QEMU)
    async with engine_over(driver, tmp_path) as engine:
        sandboxes = [await engine.lend(KEY) for _ in range(5)]
        assert len({sandbox.identity.hostname for sandbox in sandboxes}) == 5
        assert len({sandbox.identity.machine_id for sandbox in sandboxes}) == 5
        for sandbox in sandboxes:
            engine.give_back(sandbox)
