"""What an earlier daemon left, where one of its drivers does not answer any more."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentkernel.drivers.fake import FakeDriver
from agentkernel.engine import reaping
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
