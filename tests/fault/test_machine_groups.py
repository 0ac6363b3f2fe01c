"""A daemon is killed: the groups of its microVMs hold nobody any more, and the next daemon removes them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from agentkernel.drivers.limits import find
from agentkernel.model.ids import SandboxId
from tests.support.machines import alive, booted, prepare, qemu_driver, qemu_spec, settles, store_at

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

ROOT = Path(__file__).parents[2]
CHILD = Path(__file__).with_name("machine_child.py")


def groups_of(sandbox: str) -> list[Path]:
    """Its cgroups, wherever they are mounted."""
    return [home / sandbox for home in find().homes() if (home / sandbox).is_dir()]


async def killed_daemon(place: Path) -> dict[str, str | int]:
    """What the daemon's stand-in had recorded of its machine when it was killed."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, CHILD, place], stdout=subprocess.PIPE, text=True, env=environ
    ) as daemon:
        assert daemon.stdout is not None
        try:
            facts: dict[str, str | int] = json.loads(await anyio.to_thread.run_sync(daemon.stdout.readline))
        finally:
            daemon.kill()
    return facts


async def test_the_next_daemon_removes_the_group_of_a_killed_one_and_nobody_elses(tmp_path: Path) -> None:
    if find().missing:
        pytest.skip(f"this host holds nobody to limits: {find().missing[0]}")
    store = store_at(tmp_path)
    await anyio.to_thread.run_sync(prepare, store)
    async with booted(qemu_driver(store), qemu_spec(store), tmp_path / "neighbours") as neighbour:
        facts = await killed_daemon(tmp_path)
        sandbox = SandboxId(str(facts["id"]))
        assert groups_of(sandbox), "the control: it was there"

        async def is_over() -> bool:
            gone = not [name for name in ("pid", "supervisor_pid") if alive(int(facts[name]))]
            return gone and not Path(str(facts["folder"])).exists()

        assert await settles(is_over)
        recorded = {name: value for name, value in facts.items() if name not in {"id", "folder"}}
        await qemu_driver(store).reap(sandbox, recorded)
        assert not groups_of(sandbox)
        assert groups_of(neighbour.birth.id)
        await neighbour.guest.ping()
    assert not groups_of(neighbour.birth.id)
