"""The engine's own process is killed, or its disk is full."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from agentkernel.drivers.qemu import QemuDriver
from agentkernel.engine.reaping import reap_leftovers
from agentkernel.images.store import Store
from agentkernel.journal import Journal
from agentkernel.model.kinds import Backend, Vmm
from tests.support.machines import alive
from tests.support.processes import processes_of

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

ROOT = Path(__file__).parents[2]
CHILD = Path(__file__).with_name("engine_child.py")
GONE_WITHIN_S = 2.0
SCENE_S = 120.0
TMPFS_MIB = 8


def command(scene: str, folder: Path) -> list[str]:
    return [sys.executable, str(CHILD), scene, str(folder)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@contextmanager
def engine_process(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], list[str]]]:
    """An engine with two lent sandboxes in a process of its own, and their ids."""
    with subprocess.Popen(command("waiting", folder), stdout=subprocess.PIPE, env=environment()) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())["sandboxes"]
        finally:
            process.kill()


def comes_to_hold(condition: Callable[[], bool], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return condition()


async def rows(folder: Path) -> list[str]:
    async with Journal.open(folder / "journal.db") as journal:
        return [leftover.id for leftover in await journal.leftovers()]


def test_a_killed_engine_takes_its_sandboxes_along_and_the_next_start_forgets_them(
    driver: QemuDriver, tmp_path: Path
) -> None:
    """One sandbox, which has stopped, is ended by its supervisor. The other's supervisor dies as well, so that the next
    start finds its folder."""
    folder = tmp_path
    with engine_process(folder) as (process, (ordinary, orphaned)):
        before = {each: processes_of(each) for each in (ordinary, orphaned)}
        assert all(alive(pid) for pids in before.values() for pid in pids.values())
        assert {path.name for path in (folder / "sandboxes").iterdir()} == {ordinary, orphaned}
        os.kill(before[ordinary]["program"], signal.SIGSTOP)
        os.kill(before[orphaned]["supervisor"], signal.SIGKILL)
        process.kill()
        pids = [pid for each in before.values() for pid in each.values()]
        assert comes_to_hold(lambda: not any(map(alive, pids)), GONE_WITHIN_S)
        assert comes_to_hold(lambda: not (folder / "sandboxes" / ordinary).exists(), GONE_WITHIN_S)
    assert sorted(anyio.run(rows, folder)) == sorted((ordinary, orphaned))

    async def start_again() -> int:
        async with Journal.open(folder / "journal.db") as journal:
            return await reap_leftovers(journal, {(Backend.MICROVM, Vmm.QEMU): driver}, folder / "sandboxes")

    assert anyio.run(start_again) == 2
    assert anyio.run(rows, folder) == []
    assert list((folder / "sandboxes").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk in a mount namespace of its own needs root")
def test_on_a_full_disk_one_caller_is_told_and_the_engine_goes_on(store: Store, tmp_path: Path) -> None:
    script = f'mount -t tmpfs -o size={TMPFS_MIB}m,mode=700 none "$0" && exec "$@"'
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, str(folder), *command("full-disk", folder)],
        capture_output=True,
        env=environment(),
        timeout=SCENE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    nothing, little, all_of_it, later = map(json.loads, done.stdout.splitlines())
    assert nothing["code"] == "internal"
    assert "journal" in nothing["message"]
    assert "full" in nothing["message"]
    assert little["code"] == "broken", little
    assert "No space left on device" in little["message"]
    for step in (nothing, little):
        assert step["hint"]
        assert step["left"] == []
    assert (all_of_it["code"], all_of_it["exit_code"]) == ("lent", 0)
    assert later["exit_code"] != 0
    assert later["answers"]
