"""Disks that outlive their sandboxes, and hosts that have no room for one more machine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agentkernel.drivers.qemu import QemuDriver
from agentkernel.images.store import Store
from agentkernel.model.errors import Broken, Busy
from tests.support.machines import Machine, cradle, qemu_spec, run, unprepared

pytestmark = [pytest.mark.vm, pytest.mark.anyio]


@asynccontextmanager
async def clone_with(driver: QemuDriver, store: Store, place: Path, disk: Path) -> AsyncIterator[Machine]:
    """A clone that has a lasting disk."""
    spec = qemu_spec(store)
    template = await driver.template(spec, cradle(place), unprepared)
    birth = cradle(place)
    birth.disk = disk
    async with driver.clone(template, spec, birth) as guest:
        yield Machine(guest, birth, spec)


async def test_a_lasting_disk_keeps_its_files_between_sandboxes_and_a_private_one_does_not(
    driver: QemuDriver, store: Store, tmp_path: Path
) -> None:
    disk = tmp_path / "named.ext4"
    async with clone_with(driver, store, tmp_path, disk) as first:
        await first.guest.write_file("/workspace/kept", b"still here")
        await first.guest.shut_down()
    async with clone_with(driver, store, tmp_path, disk) as second:
        assert (await run(second.guest, "cat", "/workspace/kept")).text == "still here"
        assert await second.guest.read_file("/workspace/kept") == b"still here"
    async with clone_with(driver, store, tmp_path, tmp_path / "another.ext4") as third:
        assert (await run(third.guest, "cat", "/workspace/kept")).code == 1


async def test_a_lasting_disk_is_of_one_sandbox_at_a_time_and_free_when_that_has_ended(
    driver: QemuDriver, store: Store, tmp_path: Path
) -> None:
    disk = tmp_path / "named.ext4"
    async with clone_with(driver, store, tmp_path, disk) as holder:
        with pytest.raises(Busy, match="another sandbox uses this disk"):
            async with clone_with(driver, store, tmp_path, disk):
                pytest.fail("two machines wrote to one disk")
        await holder.guest.ping()
    async with clone_with(driver, store, tmp_path, disk) as next_one:
        await next_one.guest.ping()


async def test_a_machine_that_the_host_has_no_memory_for_says_so_and_others_go_on(
    driver: QemuDriver, store: Store, tmp_path: Path
) -> None:
    async with clone_with(driver, store, tmp_path, tmp_path / "a.ext4") as neighbour:
        enormous = qemu_spec(store, memory_mib=1 << 30)
        with pytest.raises(Broken, match=r"(?i)memory|allocate"):
            async with driver.boot(enormous, cradle(tmp_path)):
                pytest.fail("a machine of a pebibyte came up")
        await neighbour.guest.ping()
