"""What runs a sandbox in gVisor is killed, hangs, or loses its daemon: it is told, and nothing is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from agentkernel.drivers.gvisor import GvisorDriver
from agentkernel.drivers.gvisor import driver as driver_module
from agentkernel.drivers.limits import find
from agentkernel.images.store import Store
from agentkernel.model.errors import Broken, Unsupported
from agentkernel.model.ids import SandboxId
from tests.support.gvisor import gvisor_driver, gvisor_ready, gvisor_spec
from tests.support.machines import alive, booted, cradle, run, settles, store_at
from tests.support.processes import naming
from tests.support.tampered import Tampered, compiled

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

ROOT = Path(__file__).parents[2]
CHILD = Path(__file__).with_name("gvisor_child.py")
PROMPT_S = 30.0


@pytest.fixture(scope="module")
def sandboxes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Everything that a sandbox is made from."""
    made = store_at(tmp_path_factory.mktemp("state"))
    with gvisor_ready(made):
        verdict = anyio.run(gvisor_driver(made).probe)
        if not verdict.usable:
            pytest.skip(verdict.reason)
        yield made


def groups_of(sandbox: str) -> list[Path]:
    """Its cgroups, wherever they are mounted."""
    return [home / sandbox for home in find().homes() if (home / sandbox).is_dir()]


def sentry_of(pid: int) -> int:
    """The kernel of a sandbox among what runsc has started."""
    children = [each for path in Path(f"/proc/{pid}/task").glob("*/children") for each in path.read_text().split()]
    return next(
        int(each) for each in children if Path(f"/proc/{each}/cmdline").read_bytes().startswith(b"runsc-sandbox")
    )


async def nothing_is_left(sandbox: SandboxId) -> bool:
    """No process that names it, and no group."""
    return not [pid for pid in naming(sandbox) if alive(pid)] and not groups_of(sandbox)


async def test_a_killed_sentry_is_noticed_and_leaves_nothing(sandboxes: Store, tmp_path: Path) -> None:
    driver = gvisor_driver(sandboxes)
    async with booted(driver, gvisor_spec(sandboxes), tmp_path) as neighbour:
        async with booted(driver, gvisor_spec(sandboxes), tmp_path) as victim:
            assert groups_of(victim.birth.id), "the control: there is something to leave behind"
            os.kill(sentry_of(victim.pid), signal.SIGKILL)
            with anyio.fail_after(PROMPT_S):
                assert await victim.guest.wait_broken()
        assert await nothing_is_left(victim.birth.id)
        assert (await run(neighbour.guest, "/bin/true")).code == 0


async def test_an_agent_that_says_nothing_is_a_failed_boot_at_its_deadline(
    sandboxes: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "silent.c"
    source.write_text("#include <unistd.h>\nint main(void) { for (;;) pause(); }\n")
    compiled(source, tmp_path / "silent")
    monkeypatch.setattr(driver_module, "BOOT_DEADLINE_S", 2.0)
    silent = GvisorDriver(Tampered(sandboxes, agent_binary=tmp_path / "silent"), gvisor_driver(sandboxes)._trials)
    birth = cradle(tmp_path / "place")
    with anyio.fail_after(PROMPT_S), pytest.raises(Broken, match="did not come up within 2 s"):
        async with silent.boot(gvisor_spec(sandboxes), birth):
            """Never reached."""
    assert await nothing_is_left(birth.id)


async def test_a_root_image_of_rubbish_is_a_failed_boot_with_runscs_words(sandboxes: Store, tmp_path: Path) -> None:
    image = tmp_path / "rubbish"
    image.write_bytes(os.urandom(1 << 20))
    driver = GvisorDriver(Tampered(sandboxes, root_image=image), gvisor_driver(sandboxes)._trials)
    birth = cradle(tmp_path / "place")
    with anyio.fail_after(PROMPT_S), pytest.raises(Broken, match="its last words: ") as caught:
        async with driver.boot(gvisor_spec(sandboxes), birth):
            """Never reached."""
    assert caught.value.hint
    assert await nothing_is_left(birth.id)


async def test_a_disk_that_lasts_is_refused(sandboxes: Store, tmp_path: Path) -> None:
    birth = cradle(tmp_path / "place")
    birth.disk = tmp_path / "disk"
    with pytest.raises(Unsupported, match="outlives"):
        async with gvisor_driver(sandboxes).boot(gvisor_spec(sandboxes), birth):
            """Never reached."""
    assert await nothing_is_left(birth.id)


@dataclass(frozen=True, slots=True)
class NoCgroups:
    """A host that holds nobody to anything."""

    missing: tuple[str, ...] = ("memory: this kernel has no memory controller mounted",)


async def test_where_limits_cannot_be_held_it_is_unusable_until_the_user_wants_it_so(
    sandboxes: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await gvisor_driver(sandboxes).probe()).usable, "the control"
    monkeypatch.setattr(driver_module, "find", NoCgroups)
    verdict = await gvisor_driver(sandboxes).probe()
    assert (verdict.usable, "no memory controller" in verdict.reason) == (False, True)
    assert "allow_unlimited" in verdict.remedy
    wanted = GvisorDriver(sandboxes, gvisor_driver(sandboxes)._trials, allow_unlimited=True)
    async with booted(wanted, gvisor_spec(sandboxes), tmp_path) as machine:
        assert (await run(machine.guest, "/bin/true")).code == 0
        with pytest.raises(Unsupported):
            await machine.guest.pause()


async def test_a_daemon_that_is_killed_leaves_no_process_and_the_next_one_no_group(
    sandboxes: Store, tmp_path: Path
) -> None:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, CHILD, tmp_path], stdout=subprocess.PIPE, text=True, env=environ
    ) as daemon:
        assert daemon.stdout is not None
        try:
            facts = json.loads(await anyio.to_thread.run_sync(daemon.stdout.readline))
        finally:
            daemon.kill()
    sandbox = SandboxId(facts["id"])
    assert groups_of(sandbox), "the control: it was there"

    async def is_over() -> bool:
        gone = not [pid for pid in (*naming(sandbox), facts["pid"], facts["supervisor_pid"]) if alive(int(pid))]
        return gone and not Path(facts["folder"]).exists()

    assert await settles(is_over)
    recorded = {name: value for name, value in facts.items() if name not in {"id", "folder"}}
    await gvisor_driver(sandboxes).reap(sandbox, recorded)
    assert await nothing_is_left(sandbox)
