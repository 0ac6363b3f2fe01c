"""Forks and snapshots over a driver without machines: who gets what, what is kept, and what a failure leaves."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from tests.support.engines import KEY, engine_over, eventually

from agentkernel.drivers.fake import FakeDriver, Faults
from agentkernel.drivers.fake.driver import DECLARED
from agentkernel.engine.command import run_command
from agentkernel.engine.engine import Engine
from agentkernel.engine.leases import Lease
from agentkernel.engine.snapshots import FACTS, Snapshots
from agentkernel.model.errors import Broken, Busy, NotFound, Refused, Unsupported
from agentkernel.model.execution import ExecRequest
from agentkernel.model.ids import LeaseId, SnapshotId
from agentkernel.model.kinds import Feature, Vmm
from agentkernel.model.readiness import Capabilities
from agentkernel.model.spec import LeaseSpec
from agentkernel.pool.events import HostLimits, Key, Limits

pytestmark = pytest.mark.anyio

ECHO = ExecRequest(argv=(b"echo", b"hello"))
SPEC = LeaseSpec({"WHO": "me"}, "/tmp", "1234", command=("/entry", "serve"))


@asynccontextmanager
async def parent(driver: FakeDriver, place: Path, **settings: object) -> AsyncIterator[tuple[Engine, Lease]]:
    """A lease with a file in it."""
    async with engine_over(driver, place, **settings) as engine:
        lease = await engine.acquire(KEY, SPEC)
        await lease.sandbox.guest.write_file("/workspace/f", b"parent")
        yield engine, lease


def kept(place: Path) -> list[str]:
    """What stands in the folder of snapshots."""
    return [path.name for path in (place / "snapshots").iterdir()]


async def test_children_have_their_parents_files_and_then_go_their_own_ways(tmp_path: Path) -> None:
    async with parent(FakeDriver(vmm=Vmm.QEMU), tmp_path) as (engine, lease):
        children = await engine.fork(lease.id, 3)
        everyone = [lease, *children]
        assert len({each.id for each in everyone}) == len({each.sandbox.id for each in everyone}) == 4
        assert len({each.sandbox.identity.machine_id for each in everyone}) == 4
        for number, child in enumerate(children):
            assert child.spec == SPEC
            assert await child.sandbox.guest.read_file("/workspace/f") == b"parent"
            await child.sandbox.guest.write_file("/workspace/f", b"%d" % number)
        assert await lease.sandbox.guest.read_file("/workspace/f") == b"parent"
        assert await children[0].sandbox.guest.read_file("/workspace/f") == b"0"
        assert engine.counts().in_use == 4
        engine.release(lease.id)
        assert (await run_command(children[2].sandbox.guest, ECHO)).exit_code == 0
        assert kept(tmp_path) == []


async def test_a_forked_sandbox_is_used_once_and_nothing_of_it_is_kept_warm(tmp_path: Path) -> None:
    driver = FakeDriver(vmm=Vmm.QEMU)
    async with parent(driver, tmp_path) as (engine, lease):
        (child,) = await engine.fork(lease.id, 1)
        engine.release(child.id)
        await eventually(lambda: child.sandbox.id not in driver.alive)
        assert await engine.fork(lease.id, 1) != [child]
        assert engine.counts().warm <= 1, "at most one new sandbox of the parent's own key"


async def test_forks_count_against_the_host_and_take_the_room_of_idle_sandboxes(tmp_path: Path) -> None:
    driver = FakeDriver(vmm=Vmm.QEMU)
    limits = HostLimits(max_sandboxes=4)
    async with parent(driver, tmp_path, limits=limits, warm=Limits(2, 2), queue_timeout_s=0.2) as (engine, lease):
        with pytest.raises(Refused, match="more than the 4"):
            await engine.fork(lease.id, 4)
        children = await engine.fork(lease.id, 3)
        assert len(driver.alive) == 4
        with pytest.raises(Busy):
            await engine.fork(lease.id, 1)
        engine.release(children[0].id)
        assert len(await engine.fork(lease.id, 1)) == 1
        assert kept(tmp_path) == []


async def test_there_are_all_forks_or_none(tmp_path: Path) -> None:
    driver = FakeDriver(vmm=Vmm.QEMU)
    async with parent(driver, tmp_path) as (engine, lease):
        driver.faults = Faults(boot_error="no memory left", boots_left=2)
        with pytest.raises(Broken, match="no memory left"):
            await engine.fork(lease.id, 3)
        driver.faults = Faults()
        await eventually(lambda: engine.counts().in_use == 1)
        assert (await run_command(lease.sandbox.guest, ECHO)).exit_code == 0
        assert len(await engine.fork(lease.id, 2)) == 2
        assert kept(tmp_path) == []


async def test_a_fork_that_is_given_up_leaves_its_parent_and_nothing_else(tmp_path: Path) -> None:
    driver = FakeDriver(vmm=Vmm.QEMU)
    async with parent(driver, tmp_path) as (engine, lease):
        driver.faults = Faults(boot_hangs=True)
        with anyio.move_on_after(0.05) as scope:
            await engine.fork(lease.id, 2)
        assert scope.cancelled_caught
        driver.faults = Faults()
        assert kept(tmp_path) == []
        assert (await run_command(lease.sandbox.guest, ECHO)).exit_code == 0


async def test_a_sandbox_that_cannot_be_saved_says_so_and_goes_on(tmp_path: Path) -> None:
    driver = FakeDriver(vmm=Vmm.QEMU, faults=Faults(save_error="the disk is full"))
    async with parent(driver, tmp_path) as (engine, lease):
        for act in (engine.fork(lease.id, 1), engine.snapshot(lease.id)):
            with pytest.raises(Broken, match="disk is full"):
                await act
        assert (await run_command(lease.sandbox.guest, ECHO)).exit_code == 0
        assert kept(tmp_path) == []
        assert engine.snapshots.all() == []


async def test_a_paused_sandbox_is_neither_forked_nor_saved(tmp_path: Path) -> None:
    async with parent(FakeDriver(vmm=Vmm.QEMU), tmp_path) as (engine, lease):
        await engine.pause(lease.id)
        for act in (engine.fork(lease.id, 1), engine.snapshot(lease.id)):
            with pytest.raises(Refused, match="paused"):
                await act
        await engine.resume(lease.id)
        await engine.fork(lease.id, 1)


async def test_a_driver_without_snapshots_says_so(tmp_path: Path) -> None:
    declared = Capabilities(DECLARED - {Feature.FORK, Feature.SNAPSHOT})
    async with parent(FakeDriver(vmm=Vmm.QEMU, capabilities=declared), tmp_path) as (engine, lease):
        for act in (engine.fork(lease.id, 1), engine.snapshot(lease.id)):
            with pytest.raises(Unsupported):
                await act


async def test_unknown_leases_and_snapshots_are_not_found(tmp_path: Path) -> None:
    async with engine_over(FakeDriver(vmm=Vmm.QEMU), tmp_path) as engine:
        for act in (engine.fork(LeaseId("x"), 1), engine.snapshot(LeaseId("x"))):
            with pytest.raises(NotFound):
                await act
        for name in ("", ".", "..", "../sandboxes", "0" * 32, "0" * 31 + "\n"):
            for act in (engine.restore(SnapshotId(name)), engine.snapshots.remove(SnapshotId(name))):
                with pytest.raises(NotFound):
                    await act


async def test_a_snapshot_outlives_its_engine_and_is_restored_any_number_of_times(tmp_path: Path) -> None:
    driver = FakeDriver(vmm=Vmm.QEMU)
    async with parent(driver, tmp_path) as (engine, lease):
        taken = await engine.snapshot(lease.id)
        await lease.sandbox.guest.write_file("/workspace/f", b"later")
    async with engine_over(driver, tmp_path) as engine:
        assert engine.snapshots.all() == [taken]
        assert engine.snapshots.get(taken.id) == taken
        restored = [await engine.restore(taken.id) for _ in range(2)]
        await restored[0].sandbox.guest.write_file("/workspace/f", b"mine")
        assert await restored[1].sandbox.guest.read_file("/workspace/f") == b"parent"
        assert restored[0].spec == SPEC
        await engine.snapshots.remove(taken.id)
        assert (await run_command(restored[0].sandbox.guest, ECHO)).exit_code == 0
        with pytest.raises(NotFound):
            await engine.restore(taken.id)
        assert engine.snapshots.all() == []
        assert kept(tmp_path) == []


async def test_a_snapshot_keeps_the_whole_specification_of_its_sandbox(tmp_path: Path) -> None:
    spec = replace(KEY.spec, runtime="", image_name="debian:12", warm_up=(("a", "b"), ("c",)))
    key = Key(spec, KEY.mode)
    async with engine_over(FakeDriver(vmm=Vmm.QEMU), tmp_path, key=key) as engine:
        lease = await engine.acquire(key)
        taken = await engine.snapshot(lease.id)
        assert engine.snapshots.get(taken.id).spec == spec
        assert hash(engine.snapshots.get(taken.id).spec) == hash(spec)


async def test_snapshots_are_their_owners_alone(tmp_path: Path) -> None:
    async with parent(FakeDriver(vmm=Vmm.QEMU), tmp_path) as (engine, lease):
        taken = await engine.snapshot(lease.id)
        folder = engine.snapshots.folder(taken.id)
        assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, folder.parent)] == [0o700, 0o700]


async def test_what_a_crash_left_unfinished_is_removed_and_what_is_damaged_is_not_restored(tmp_path: Path) -> None:
    driver = FakeDriver(vmm=Vmm.QEMU)
    async with parent(driver, tmp_path) as (engine, lease):
        taken = await engine.snapshot(lease.id)
    (tmp_path / "snapshots" / ".unfinished").mkdir()
    (tmp_path / "snapshots" / taken.id / FACTS).write_text("{}")
    async with engine_over(driver, tmp_path) as engine:
        assert kept(tmp_path) == [taken.id]
        assert engine.snapshots.all() == []
        with pytest.raises(Refused, match="damaged"):
            await engine.restore(taken.id)
        await engine.snapshots.remove(taken.id)
        assert kept(tmp_path) == []


@pytest.mark.parametrize("bounds", [{"most": 2}, {"most_bytes": (KEY.spec.memory_mib << 20) + 4096}])
async def test_there_is_an_end_to_snapshots_that_says_what_to_do(tmp_path: Path, bounds: dict[str, int]) -> None:
    snapshots = Snapshots(tmp_path / "snapshots", **bounds)
    async with parent(FakeDriver(vmm=Vmm.QEMU), tmp_path, snapshots=snapshots) as (engine, lease):
        taken = [await engine.snapshot(lease.id) for _ in range(2)]
        with pytest.raises(Refused, match="no room") as refusal:
            await engine.snapshot(lease.id)
        assert "snapshot_remove" in refusal.value.hint
        assert len(engine.snapshots.all()) == 2
        for snapshot in taken:
            await engine.snapshots.remove(snapshot.id)
        await engine.snapshot(lease.id)


async def test_a_disk_without_room_refuses_before_it_stops_anybody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with parent(FakeDriver(vmm=Vmm.QEMU), tmp_path) as (engine, lease):
        monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1 << 20})())
        for act in (engine.fork(lease.id, 1), engine.snapshot(lease.id)):
            with pytest.raises(Refused, match="no room"):
                await act
        assert kept(tmp_path) == []
