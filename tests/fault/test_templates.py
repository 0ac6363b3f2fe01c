"""Templates and clones when QEMU is killed, files are cut short, disks are full: nobody waits for ever, nobody gets a
wrong machine.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import pytest

from agentkernel.drivers.contract import Guest
from agentkernel.drivers.qemu import QemuDriver
from agentkernel.drivers.qemu import driver as driver_module
from agentkernel.drivers.qemu.template import MEMORY, STATE, load, save
from agentkernel.engine.command import run_command
from agentkernel.engine.engine import Engine
from agentkernel.images.store import Store
from agentkernel.model.errors import Broken
from agentkernel.model.execution import Started
from agentkernel.model.kinds import Mode
from agentkernel.model.spec import BootSpec
from agentkernel.pool.events import HostLimits, Key, Limits
from tests.fault.template_child import MEMORY_MIB
from tests.support.engines import engine_over
from tests.support.machines import alive, cradle, qemu_spec, request, run, settles, unprepared
from tests.support.processes import naming, processes_of

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

ROOT = Path(__file__).parents[2]
CHILD = Path(__file__).with_name("template_child.py")
PROMPT_S = 30.0
SCENE_S = 120.0
TMPFS_MIB = 8


@pytest.fixture(scope="module")
def spec(store: Store) -> BootSpec:
    """Of a size that nobody else uses."""
    return qemu_spec(store, memory_mib=MEMORY_MIB - 8, disk_mib=16)


@pytest.fixture(scope="module")
async def template(driver: QemuDriver, spec: BootSpec, place: Path) -> AsyncIterator[Path]:
    """A whole one, which tests leave as it is, or copy; removed at the end."""
    folder = await driver.template(spec, cradle(place / "births"), unprepared)
    yield folder
    await driver.discard(folder)


@pytest.fixture(scope="module")
async def cloning(driver: QemuDriver, spec: BootSpec, template: Path, place: Path) -> AsyncIterator[Engine]:
    """An engine whose sandboxes are clones."""
    limits = HostLimits(max_sandboxes=4, recent_use_s=0)
    own, key = place / "cloning", Key(spec, Mode.NATIVE)
    own.mkdir()
    async with engine_over(driver, own, key=key, limits=limits, warm=Limits(0, 4)) as running:
        yield running
    assert list((own / "sandboxes").iterdir()) == []


async def nothing_runs(word: str) -> bool:
    """Whether every process of that sandbox is gone soon."""

    async def gone() -> bool:
        return not any(alive(pid) for pid in naming(word))

    return await settles(gone)


async def serves(engine: Engine, spec: BootSpec, *, cold: bool = False) -> None:
    """Somebody asks, and gets one that works."""
    with anyio.fail_after(PROMPT_S):
        lent = await engine.lend(Key(spec, Mode.NATIVE))
    assert (lent.template is None) == cold
    assert (await run_command(lent.guest, request("/bin/true"))).exit_code == 0
    engine.give_back(lent)
    assert await settles(lambda: nobody_is_left(engine))


async def nobody_is_left(engine: Engine) -> bool:
    """Whether none is lent, nor under way, nor being destroyed."""
    counts = engine.counts()
    return not (counts.in_use or counts.booting or counts.dying)


def stamp(template: Path) -> tuple[int, int]:
    """Tells a template from one that was made in its place."""
    facts = (template / MEMORY).stat()
    return facts.st_ino, facts.st_mtime_ns


async def fails(driver: QemuDriver, folder: Path, spec: BootSpec, place: Path) -> Broken:
    """Clone, and return what is said about it; nothing is left of it."""
    birth = cradle(place)
    with anyio.fail_after(PROMPT_S), pytest.raises(Broken) as caught:
        async with driver.clone(folder, spec, birth):
            """Never reached."""
    assert await nothing_runs(birth.id)
    return caught.value


# --- QEMU is killed ---------------------------------------------------------------------------------------------------


async def test_killed_while_its_guest_is_prepared_no_template_appears(
    driver: QemuDriver, store: Store, tmp_path: Path
) -> None:
    birth = cradle(tmp_path)

    async def prepare(guest: Guest) -> None:
        os.kill(int(birth.facts["pid"]), signal.SIGKILL)
        await guest.ping()

    before = set((store.data / "templates").iterdir())
    with anyio.fail_after(PROMPT_S), pytest.raises(Broken):
        await driver.template(qemu_spec(store, memory_mib=MEMORY_MIB + 8, disk_mib=16), birth, prepare)
    assert set((store.data / "templates").iterdir()) == before
    assert await nothing_runs(birth.id)


async def test_killed_while_it_is_saved_its_caller_gets_a_cold_boot(
    driver: QemuDriver,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def killed(directory: Path, state: int) -> None:
        os.kill(processes_of(directory.name)["program"], signal.SIGKILL)
        await save(directory, state)

    monkeypatch.setattr(driver_module, "save", killed)
    spec = qemu_spec(store, memory_mib=MEMORY_MIB + 16, disk_mib=16)
    before = set((store.data / "templates").iterdir())
    async with engine_over(driver, tmp_path, key=Key(spec, Mode.NATIVE), limits=HostLimits(recent_use_s=0)) as engine:
        await serves(engine, spec, cold=True)
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "booting cold: no template"
    ]
    assert set((store.data / "templates").iterdir()) == before


async def test_killed_while_a_clone_loads_it_is_a_failed_clone(
    driver: QemuDriver, spec: BootSpec, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def killed(directory: Path, state: int) -> None:
        os.kill(processes_of(directory.name)["program"], signal.SIGKILL)
        await load(directory, state)

    monkeypatch.setattr(driver_module, "load", killed)
    said = await fails(driver, template, spec, tmp_path)
    assert "did not come up" in said.message
    assert said.hint


async def test_killed_while_warm_it_is_replaced_by_another_clone_of_the_same_template(
    driver: QemuDriver, spec: BootSpec, template: Path, tmp_path: Path
) -> None:
    key = Key(spec, Mode.NATIVE)
    before = stamp(template)
    limits = HostLimits(max_sandboxes=4, recent_use_s=0)
    async with engine_over(driver, tmp_path, key=key, limits=limits, warm=Limits(1, 1)) as engine:

        async def warm() -> bool:
            return engine.counts().warm == 1

        assert await settles(warm)
        (doomed,) = (path.name for path in (tmp_path / "sandboxes").iterdir())
        os.kill(processes_of(doomed)["program"], signal.SIGKILL)

        async def replaced() -> bool:
            return await warm() and not (tmp_path / "sandboxes" / doomed).exists()

        assert await settles(replaced)
        await serves(engine, spec)
    assert stamp(template) == before


async def test_killed_under_a_command_it_breaks_that_one_and_the_next_is_served(
    cloning: Engine, spec: BootSpec, template: Path
) -> None:
    before = stamp(template)
    lent = await cloning.lend(Key(spec, Mode.NATIVE))

    def kill(event: object) -> None:
        if isinstance(event, Started):
            os.kill(processes_of(lent.id)["program"], signal.SIGKILL)

    with anyio.fail_after(PROMPT_S), pytest.raises(Broken):
        await run_command(lent.guest, request("sleep", "1000"), sink=kill)
    cloning.give_back(lent)
    assert await nothing_runs(lent.id)
    await serves(cloning, spec)
    assert stamp(template) == before


# --- its files are not what they were ---------------------------------------------------------------------------------


def cut(path: Path) -> None:
    """Half of it."""
    os.truncate(path, path.stat().st_size // 2)


def rubbish(path: Path) -> None:
    """Other bytes, of which neither size nor time tell."""
    facts = path.stat()
    with path.open("r+b") as file:
        file.write(os.urandom(facts.st_size))
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (facts.st_size, facts.st_mtime_ns)


def empty(path: Path) -> None:
    """Nothing of it."""
    os.truncate(path, 0)


def zeros(path: Path) -> None:
    """As large, and nothing in it."""
    size = path.stat().st_size
    os.truncate(path, 0)
    os.truncate(path, size)


DAMAGE = {
    "state cut short": (STATE, cut),
    "state empty": (STATE, empty),
    "state of rubbish": (STATE, rubbish),
    "memory cut short": (MEMORY, cut),
    "memory of zeros": (MEMORY, zeros),
    "state gone": (STATE, Path.unlink),
    "memory gone": (MEMORY, Path.unlink),
}


@pytest.mark.parametrize("what", DAMAGE)
async def test_a_damaged_template_is_a_failed_clone_and_never_a_machine(
    driver: QemuDriver, spec: BootSpec, template: Path, tmp_path: Path, what: str
) -> None:
    name, damage = DAMAGE[what]
    copy = tmp_path / "copy"
    await anyio.run_process(["cp", "-a", "--sparse=always", template, copy])
    (copy / name).chmod(0o600)
    damage(copy / name)
    said = await fails(driver, copy, spec, tmp_path / "births")
    assert said.hint


@pytest.mark.parametrize("damage", [cut, rubbish], ids=["cut short", "of rubbish, size and time as before"])
async def test_a_damaged_state_file_is_made_anew_once_and_its_callers_are_served(
    cloning: Engine, spec: BootSpec, template: Path, caplog: pytest.LogCaptureFixture, damage: object
) -> None:
    await serves(cloning, spec)
    before = stamp(template)
    damage(template / STATE)  # type: ignore[operator]
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(serves, cloning, spec)
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "template discarded: a clone did not come up"
    ]
    assert stamp(template) != before
    await serves(cloning, spec)


# --- no room, and company ---------------------------------------------------------------------------------------------


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk in a mount namespace of its own needs root")
def test_where_templates_have_no_room_everybody_boots_and_the_log_says_why(store: Store, tmp_path: Path) -> None:
    script = f'mount -t tmpfs -o size={TMPFS_MIB}m,mode=700 none "$0" && exec "$@"'
    (store.data / "templates").mkdir(exist_ok=True)
    done = subprocess.run(
        [
            "unshare",
            "--mount",
            "sh",
            "-c",
            script,
            store.data / "templates",
            sys.executable,
            CHILD,
            "no-room",
            tmp_path,
        ],
        capture_output=True,
        env=environment(),
        timeout=SCENE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    *used, end = map(json.loads, done.stdout.splitlines())
    assert used == [{"exit_code": 0, "cold": True}] * 3
    assert [line.partition(":")[0] for line in end["warnings"]] == ["booting cold"]
    assert end["left"] == []


@pytest.fixture
def theirs(store: Store) -> Iterator[None]:
    """Whatever templates a test's children make goes with the test."""
    folder = store.data / "templates"
    before = set(folder.iterdir()) if folder.is_dir() else set()
    yield
    for made in set(folder.iterdir()) - before:
        shutil.rmtree(made)


def test_two_processes_that_want_the_same_template_make_one(store: Store, tmp_path: Path, theirs: None) -> None:
    ones = [
        subprocess.Popen(
            [sys.executable, CHILD, "make", tmp_path / str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
        )
        for number in range(2)
    ]
    try:
        for one in ones:
            assert one.stdout is not None
            assert json.loads(one.stdout.readline())["ready"]
        said = []
        for one in ones:
            assert one.stdin is not None
            one.stdin.write(b"\n")
            one.stdin.flush()
        for one in ones:
            out, _ = one.communicate(timeout=SCENE_S)
            said.append(json.loads(out))
    finally:
        for one in ones:
            one.kill()
            one.wait()
    assert sorted(each.pop("recorded") for each in said) == [False, True]
    assert said[0] == said[1], "the same files"


async def test_an_older_qemus_way_a_sealed_copy_of_the_memory_works_too(
    driver: QemuDriver, spec: BootSpec, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QEMU before 8.2 opens the memory for writing. Here a newer one is made to."""
    monkeypatch.setattr(driver_module, "maps_files_read_only", lambda _tool: False)
    before = (template / MEMORY).read_bytes()
    ids = set()
    for _ in range(2):
        birth = cradle(tmp_path)
        async with driver.clone(template, spec, birth) as guest:
            maps = Path(f"/proc/{birth.facts['pid']}/maps").read_text()
            assert any("memfd:template" in line and " rw-p " in line for line in maps.splitlines())
            assert str(template) not in maps
            ids.add((await run(guest, "cat", "/proc/sys/kernel/random/uuid")).text)
    driver._templates.forget(template)
    assert len(ids) == 2
    assert (template / MEMORY).read_bytes() == before
