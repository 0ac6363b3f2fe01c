"""Limits of the host's kernel hold in every mode of cgroups: version 1 and the hybrid here, version 2 in our microVM.

One scenario (`limits_scenario.py`) runs once in each mode as a program; the tests look at what it saw. Each bomb stands
beside the same program where there is room for it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.support.machines import ENVIRONMENT, booted, prepare, qemu_driver, run, store_at

from agentkernel.drivers.limits.host import hierarchies
from agentkernel.model.errors import AgentkernelError
from agentkernel.model.kinds import Backend, Vmm
from agentkernel.model.spec import BootSpec

SCENARIO = Path(__file__).with_name("limits_scenario.py")
SOURCES = Path(__file__).parents[2] / "src"
NEEDED = ("__init__.py", "drivers/__init__.py", "drivers/limits", "model/__init__.py", "model/errors.py")
DEADLINE_S = 240
MIB = 1 << 20
SEEN: dict[str, Any] = {}


def on_this_host(*prefix: str) -> Any:
    """The scenario as a program of this host; its folder has a name of its own."""
    if os.geteuid() != 0:
        pytest.skip("only root may make groups here")
    if not any({"memory", "pids", "cpu"} & one.controllers for one in hierarchies(Path("/proc"))):
        pytest.skip("this host has no controllers of version 1")
    environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
    command = [*prefix, sys.executable, str(SCENARIO), f"ak-test-{os.getpid()}"]
    done = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def in_a_microvm(state: Path) -> Any:
    """The same in a sandbox, where it is root and the kernel has version 2 alone."""
    store = store_at(state)
    try:
        prepare(store, "python")
    except AgentkernelError as error:
        pytest.skip(f"no microVM here: {error}")
    spec = BootSpec(
        Backend.MICROVM, "python", store.resolve("python"), vmm=Vmm.QEMU, memory_mib=384, disk_mib=64, pids=512
    )

    async def scenario() -> Any:
        async with booted(qemu_driver(store), spec, state / "sandboxes") as machine:
            for name in NEEDED:
                place = SOURCES / "agentkernel" / name
                for path in sorted(place.glob("*.py")) if place.is_dir() else [place]:
                    target = f"/opt/src/{path.relative_to(SOURCES)}"
                    await machine.guest.make_directory(str(Path(target).parent), parents=True)
                    await machine.guest.write_file(target, path.read_bytes())
            await machine.guest.write_file("/opt/scenario.py", SCENARIO.read_bytes())
            env = (*ENVIRONMENT, b"PYTHONPATH=/opt/src", b"PYTHONDONTWRITEBYTECODE=1")
            ran = await run(machine.guest, "python3", "/opt/scenario.py", "ak-test", user="root", env=env)
            assert ran.code == 0, ran.stderr.decode()
            return json.loads(ran.text)

    return anyio.run(scenario)


@pytest.fixture(scope="module", params=["hybrid", "legacy", pytest.param("unified", marks=pytest.mark.vm)])
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the scenario saw in one mode."""
    if request.param == "unified":
        return in_a_microvm(tmp_path_factory.mktemp("state"))
    if request.param == "hybrid":
        return on_this_host()
    without = 'umount -t cgroup2 -a; exec "$@"'  # in a mount namespace of its own
    return on_this_host("unshare", "--mount", "sh", "-c", without, "sh")


def test_the_mode_is_found_and_nothing_is_missing(seen: Any, request: pytest.FixtureRequest) -> None:
    wanted = request.node.callspec.params["seen"]
    if wanted == "hybrid" and seen["mode"] == "LegacyCgroups":
        pytest.skip("this host has no version 2 hierarchy beside version 1")
    assert seen["mode"] == f"{wanted.capitalize()}Cgroups"
    assert seen["missing"] == []


def test_a_memory_bomb_is_killed_in_its_group_and_the_same_program_runs_where_there_is_room(seen: Any) -> None:
    small, roomy = seen["memory"]["small"], seen["memory"]["roomy"]
    assert (small["status"], roomy["status"]) == (-9, 0)
    assert small["oom_kills"] >= 1
    assert roomy["oom_kills"] == 0
    assert small["peak"] <= 32 * MIB < 64 * MIB <= roomy["peak"]


def test_a_fork_bomb_fills_its_group_and_no_other_and_is_killed_at_once(seen: Any) -> None:
    assert seen["processes"] == {"full": True, "most": 20, "neighbour": 0, "status": -9, "emptied": True}


def test_processor_time_is_rationed(seen: Any) -> None:
    assert seen["processor"]["tenth"]["busy"]
    assert seen["processor"]["tenth"]["throttled"] > 0
    assert seen["processor"]["plenty"] == {"busy": True, "throttled": 0}


def test_what_is_frozen_takes_no_time_goes_on_when_thawed_and_dies_frozen(seen: Any) -> None:
    assert seen["standing_still"] == {"moved": True, "stood": True, "went_on": True, "status": -9}


def test_limits_can_be_raised_and_lowered_and_leave_no_swap(seen: Any) -> None:
    for name, mib, pids in (("roomy", 128, 200), ("small", 32, 20)):
        said = seen["changing"][name]
        memory = {said.get("memory.max"), said.get("memory.limit_in_bytes")} - {None}
        assert memory == {str(mib * MIB)}
        assert said["pids.max"] == str(pids)
        assert said.get("memory.memsw.limit_in_bytes", str(mib * MIB)) == str(mib * MIB)
        assert said.get("memory.swap.max", "0") == "0"


def test_destroying_ends_daemonised_children_too_and_the_next_daemon_reaps_what_is_left(seen: Any) -> None:
    assert seen["ending"] == {"several": True, "status": -9, "gone": True, "reaped": -9, "left": []}


def test_names_that_are_no_name_and_processes_that_are_not_there_are_refused(seen: Any) -> None:
    assert seen["refusals"] == {"parent": "invalid", "empty": "invalid", "nobody": "broken"}
