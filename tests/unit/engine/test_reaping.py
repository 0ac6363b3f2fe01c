"""What an earlier daemon left, where one of its drivers does not answer any more."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from agentkernel.drivers.contract import Driver
from agentkernel.drivers.fake import FakeDriver
from agentkernel.engine import reaping
from agentkernel.engine.sandbox import conceived, new_identity
from agentkernel.journal import Journal
from agentkernel.model.ids import new_sandbox_id
from agentkernel.model.kinds import Backend, Vmm

pytestmark = pytest.mark.anyio


async def test_a_driver_that_does_not_answer_keeps_its_rows_and_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaping, "REAP_S", 0.05)
    microvm, docker = FakeDriver(vmm=Vmm.QEMU), FakeDriver(backend=Backend.DOCKER)
    docker.faults.reap_hangs = True
    drivers = {(driver.backend, driver.vmm): driver for driver in (microvm, docker)}
    ended, kept = new_sandbox_id(), new_sandbox_id()
    async with Journal.open(tmp_path / "journal.db") as journal:
        await journal.intend(ended, Backend.MICROVM, Vmm.QEMU, tmp_path / "sandboxes" / ended)
        await journal.intend(kept, Backend.DOCKER, None, tmp_path / "sandboxes" / kept)
        (tmp_path / "sandboxes" / kept).mkdir(parents=True)
        assert await reaping.reap_leftovers(journal, drivers, tmp_path / "sandboxes") == 1
        assert [row.id for row in await journal.leftovers()] == [kept]
        assert (tmp_path / "sandboxes" / kept).exists()
        docker.faults.reap_hangs = False
        assert await reaping.reap_leftovers(journal, drivers, tmp_path / "sandboxes") == 1
        assert await journal.leftovers() == []


async def test_what_a_driver_says_is_left_keeps_its_row_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside one of which nothing is left, and one that goes on."""
    monkeypatch.setattr(reaping, "AGAIN_S", 0.01)
    docker = FakeDriver(backend=Backend.DOCKER)
    left, gone, going_on = new_sandbox_id(), new_sandbox_id(), new_sandbox_id()
    async with (
        Journal.open(tmp_path / "journal.db") as journal,
        anyio.create_task_group() as group,
        conceived(going_on, docker, new_identity(), journal, tmp_path) as other,
    ):
        await other.record(container="c")
        async with conceived(gone, docker, new_identity(), journal, tmp_path):
            pass
        async with conceived(left, docker, new_identity(), journal, tmp_path) as birth:
            await birth.record(left="the engine does not answer")
        assert {row.id for row in await journal.leftovers()} == {left, going_on}
        group.start_soon(reaping.reap_again_forever, journal, {(docker.backend, docker.vmm): docker})
        with anyio.fail_after(20):
            while len(await journal.leftovers()) > 1:  # noqa: ASYNC110  # a row just goes
                await anyio.sleep(0.01)
        assert [sandbox for sandbox, _ in docker.reaped] == [left]
        group.cancel_scope.cancel()


async def test_a_row_that_could_not_be_reaped_at_start_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaping, "REAP_S", 0.02)
    monkeypatch.setattr(reaping, "AGAIN_S", 0.02)
    docker, sandbox = FakeDriver(backend=Backend.DOCKER), new_sandbox_id()
    drivers: dict[reaping.DriverKey, Driver] = {(docker.backend, docker.vmm): docker}
    docker.faults.reap_hangs = True
    async with Journal.open(tmp_path / "journal.db") as journal, anyio.create_task_group() as group:
        await journal.intend(sandbox, Backend.DOCKER, docker.vmm, tmp_path / sandbox)
        assert await reaping.reap_leftovers(journal, drivers, tmp_path) == 0
        group.start_soon(reaping.reap_again_forever, journal, drivers)
        await anyio.sleep(0.1)
        assert [row.id for row in await journal.leftovers()] == [sandbox]
        docker.faults.reap_hangs = False
        with anyio.fail_after(20):
            while await journal.leftovers():  # noqa: ASYNC110  # a row just goes
                await anyio.sleep(0.01)
        group.cancel_scope.cancel()


async def test_a_sandbox_that_is_tried_anew_after_something_of_it_was_left_is_not_reaped_meanwhile(
    tmp_path: Path,
) -> None:
    docker, sandbox = FakeDriver(backend=Backend.DOCKER), new_sandbox_id()
    async with Journal.open(tmp_path / "journal.db") as journal:
        async with conceived(sandbox, docker, new_identity(), journal, tmp_path) as birth:
            await birth.record(container="c", left="the engine does not answer")
        async with conceived(sandbox, docker, new_identity(), journal, tmp_path):
            (row,) = await journal.leftovers()
            assert row.facts == {"container": "c"}
        assert await journal.leftovers() == []
