"""The driver end to end against FirecrackerStandIn: complete sequences, every failure at every step, nothing left."""

from __future__ import annotations

import fcntl
import filecmp
import os
import platform
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from tests.support.contracts import FIRECRACKER, Published, contract
from tests.support.firecracker_standin import FirecrackerStandIn
from tests.support.layers import Image, member, tar, write_layout
from tests.support.machines import Cradle, alive, cradle, prepare, run, settles, store_at, unprepared

from agentkernel.drivers.firecracker import FirecrackerDriver, api
from agentkernel.drivers.firecracker import driver as driver_module
from agentkernel.drivers.firecracker.driver import Place
from agentkernel.drivers.firecracker.jail import PARENT_CGROUP, this_hosts_cgroups
from agentkernel.drivers.vmm.coming_up import NO_ROOT
from agentkernel.drivers.vmm.trials import Trials
from agentkernel.images.store import Store
from agentkernel.model.errors import AgentkernelError, Broken, Busy, NotFound, Unsupported
from agentkernel.model.kinds import Backend, Feature, Isolation, Vmm
from agentkernel.model.spec import BootSpec

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(os.geteuid() != 0, reason="the jailer, and so its stand-in, needs root"),
]

HARDWARE = ["PUT /machine-config", "PUT /boot-source", "PUT /vsock", "PUT /entropy"]
WITH_DISKS = [*HARDWARE[:2], "PUT /drives/root", "PUT /drives/scratch", *HARDWARE[2:]]
BOOT = [*HARDWARE, "PUT /actions"]
SNAPSHOT = ["PATCH /vm", "PUT /snapshot/create"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    made = store_at(tmp_path_factory.mktemp("store"))
    prepare(made)
    return made


@pytest.fixture(params=["standin"])
def standin(request: pytest.FixtureRequest, tmp_path: Path, store: Store) -> FirecrackerStandIn:
    made = FirecrackerStandIn(tmp_path / "standin", str(store.agent(platform.machine())))
    made.folder.mkdir()
    made.install()
    return made


@pytest.fixture
def driver(standin: FirecrackerStandIn, store: Store, tmp_path: Path) -> FirecrackerDriver:
    return driver_of(standin, store, tmp_path)


def driver_of(standin: FirecrackerStandIn, store: Store, place: Path) -> FirecrackerDriver:
    where = Place(str(standin.program), {}, None, hardware=lambda: "")
    return FirecrackerDriver(store, where, Trials(place / "verdicts", place / "trials"))


async def untold(_line: str) -> None:
    """Nobody listens."""


def small(**changes: object) -> BootSpec:
    """A machine that stays in its initramfs: all that the stand-in's guest, which is none, can be asked for."""
    return replace(
        BootSpec(Backend.MICROVM, "base", NO_ROOT, vmm=Vmm.FIRECRACKER, memory_mib=128, disk_mib=0), **changes
    )


def whole(store: Store) -> BootSpec:
    return small(image=store.resolve("base"), disk_mib=64)


@pytest.fixture
def birth(tmp_path: Path) -> Iterator[Cradle]:
    """A birth whose folder is as empty afterwards as the driver found it, and whose processes and cgroups are gone."""
    made = cradle(tmp_path / "sandboxes")
    yield made
    assert list(made.directory.iterdir()) == []
    assert not [pid for name in ("pid", "supervisor_pid") if alive(pid := int(made.facts.get(name, 0) or 1 << 22))]
    assert not [root for root in this_hosts_cgroups().roots if (root / PARENT_CGROUP / made.id).exists()]


async def test_a_machine_boots_runs_a_program_stands_still_goes_on_and_ends(
    standin: FirecrackerStandIn, driver: FirecrackerDriver, birth: Cradle
) -> None:
    async with driver.boot(small(), birth) as guest:
        assert standin.names() == BOOT
        ran = await run(guest, "/bin/echo", "hello", cwd="/")
        assert ran.text == "hello"
        jail = birth.directory / "firecracker" / birth.id / "root"
        status = Path(f"/proc/{birth.facts['pid']}/status").read_text()
        uid = jail.stat().st_uid
        assert uid != 0
        assert f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}" in status
        assert "NoNewPrivs:\t1" in status
        assert "CapEff:\t0000000000000000" in status
        mine, its = (Path(f"/proc/{pid}/ns") for pid in ("self", birth.facts["pid"]))
        assert all((mine / kind).readlink() != (its / kind).readlink() for kind in ("pid", "net", "mnt", "ipc", "uts"))
        groups = Path(f"/proc/{birth.facts['pid']}/cgroup").read_text()
        assert not this_hosts_cgroups().version or f"/{PARENT_CGROUP}/{birth.id}" in groups
        await guest.pause()
        await guest.pause()
        await guest.unpause()
        await guest.ping()
        assert [body for _, path, body in standin.requests() if path == "/vm"] == [
            {"state": "Paused"},
            {"state": "Resumed"},
        ]


async def test_a_template_is_made_and_clones_map_it_each_with_a_link_of_its_own(
    standin: FirecrackerStandIn, driver: FirecrackerDriver, birth: Cradle, store: Store, tmp_path: Path
) -> None:
    prepared = []

    async def prepare_it(guest: object) -> None:
        prepared.append(guest)

    template = await driver.template(small(), birth, prepare_it)
    try:
        assert len(prepared) == 1
        assert standin.names() == [*BOOT, *SNAPSHOT]
        assert {path.name for path in template.iterdir()} >= {"state", "memory", "made-for.json"}
        facts = (template / "memory").stat()
        assert (facts.st_uid, facts.st_mode & 0o777) == (0, 0o444)
        standin.forget()
        assert await driver.template(small(), cradle(tmp_path / "sandboxes"), unprepared) == template
        assert standin.names() == [], "it was there"
        births = [cradle(tmp_path / "clones") for _ in range(2)]
        async with AsyncExitStack() as stack:
            guests = [await stack.enter_async_context(driver.clone(template, small(), one)) for one in births]
            for guest, one in zip(guests, births, strict=True):
                mapped = one.directory / "firecracker" / one.id / "root" / "memory"
                if one.directory.stat().st_dev == facts.st_dev:
                    assert mapped.stat().st_ino == facts.st_ino, "shared, not copied"
                assert (await run(guest, "/bin/echo", "x", cwd="/")).text == "x"
        assert standin.names() == ["PUT /snapshot/load"] * 2
        assert [list(one.directory.iterdir()) for one in births] == [[], []]
        with pytest.raises(Broken, match="made for another"):
            async with driver.clone(template, small(memory_mib=256), cradle(tmp_path / "clones")):
                pass
    finally:
        await driver.discard(template)
    assert not template.exists()


async def test_a_machine_with_its_disks_is_asked_for_whole_and_its_disk_mounted_by_the_serial_that_it_has(
    standin: FirecrackerStandIn, driver: FirecrackerDriver, birth: Cradle, store: Store
) -> None:
    """The stand-in's agent is no machine and mounts nothing: the refusal shows that it was asked, and cleaned up."""
    with pytest.raises(Unsupported, match="mount"):
        async with driver.boot(whole(store), birth):
            pass
    assert standin.names() == [*WITH_DISKS, "PUT /actions"]


async def test_an_image_by_name_is_unpacked_and_becomes_the_machines_root(
    standin: FirecrackerStandIn, driver: FirecrackerDriver, birth: Cradle, store: Store, tmp_path: Path
) -> None:
    name = write_layout(Image([tar(member("hello", b"of the image"))], {"Cmd": ["/hello"]}), tmp_path / "layout")
    facts = await driver.image(name, untold)
    try:
        assert facts.command == ("/hello",)
        spec = small(runtime="", image=facts.digest, image_name=name)
        async with driver.boot(spec, birth):
            asked = {path: body for _, path, body in standin.requests()}["/drives/root"]
            assert asked is not None
            assert (asked["is_root_device"], asked["is_read_only"]) == (False, True)
            given = birth.directory / "firecracker" / birth.id / "root" / str(asked["path_on_host"])
            assert filecmp.cmp(given, await store.root(facts.digest), shallow=False)
    finally:
        await store.library.remove(name)
    with pytest.raises(NotFound):
        await driver.image(f"oci:{tmp_path / 'none'}", untold)


async def test_a_template_with_disks_is_made_without_mounting_them(
    standin: FirecrackerStandIn, driver: FirecrackerDriver, birth: Cradle, store: Store
) -> None:
    template = await driver.template(whole(store), birth, unprepared)
    try:
        assert standin.names() == [*WITH_DISKS, "PUT /actions", *SNAPSHOT]
    finally:
        await driver.discard(template)


async def test_every_request_of_whole_sequences_is_one_that_firecracker_publishes(
    standin: FirecrackerStandIn, driver: FirecrackerDriver, birth: Cradle, store: Store, tmp_path: Path
) -> None:
    published = Published(contract(FIRECRACKER))
    template = await driver.template(whole(store), birth, unprepared)
    try:
        with pytest.raises(Unsupported, match="mount"):
            async with driver.clone(template, whole(store), cradle(tmp_path / "clones")):
                pass
    finally:
        await driver.discard(template)
    async with driver.boot(small(), cradle(tmp_path / "clones")) as guest:
        await guest.pause()
        await guest.unpause()
    made = standin.requests()
    assert {f"{method} {path}" for method, path, _ in made} >= {
        *WITH_DISKS,
        "PUT /actions",
        *SNAPSHOT,
        "PUT /snapshot/load",
    }
    for method, path, body in made:
        schema = published.schema(method, path)
        assert schema is not None
        assert published.faults(schema, body, f"{method} {path}") == []
    assert published.faults(published.schema("PUT", "/vsock") or {}, {"guest_cid": 2}, "") != [], "the control"


TROUBLES = [(step, trouble) for step in ["GET /", *BOOT] for trouble in ("refuse go away", "die", "nonsense")]


@pytest.mark.parametrize(("step", "trouble"), TROUBLES, ids=[f"{step}-{what.split()[0]}" for step, what in TROUBLES])
async def test_trouble_at_any_step_is_an_error_that_names_it_and_leaves_nothing(
    standin: FirecrackerStandIn, driver: FirecrackerDriver, birth: Cradle, step: str, trouble: str
) -> None:
    standin.trouble = {step: trouble}
    standin.install()
    with pytest.raises(Broken) as caught:
        async with driver.boot(small(), birth):
            pass
    assert step in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("step", [*SNAPSHOT])
@pytest.mark.parametrize("trouble", ["refuse no", "die"])
async def test_a_template_that_cannot_be_saved_is_none(  # noqa: PLR0917
    standin: FirecrackerStandIn, driver: FirecrackerDriver, birth: Cradle, store: Store, step: str, trouble: str
) -> None:
    standin.trouble = {step: trouble}
    standin.install()
    before = sorted((store.data / "templates").glob("*"))
    with pytest.raises(Broken, match=step):
        await driver.template(small(), birth, unprepared)
    assert sorted((store.data / "templates").glob("*")) == before


@pytest.mark.parametrize("trouble", ["refuse Failed to restore from snapshot: no", "die", "nonsense", "late 60"])
async def test_a_template_that_does_not_load_is_an_error_and_leaves_nothing(  # noqa: PLR0917
    standin: FirecrackerStandIn,
    driver: FirecrackerDriver,
    birth: Cradle,
    trouble: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(api, "ORDER_DEADLINE_S", 3.0)
    standin.trouble = {"PUT /snapshot/load": trouble}
    standin.install()
    template = await driver.template(small(), cradle(tmp_path / "templates"), unprepared)
    try:
        with pytest.raises(Broken, match="PUT /snapshot/load"):
            async with driver.clone(template, small(), birth):
                pass
    finally:
        await driver.discard(template)


async def test_a_lasting_disk_is_lent_to_one_machine_at_a_time(
    standin: FirecrackerStandIn, driver: FirecrackerDriver, birth: Cradle, store: Store, tmp_path: Path
) -> None:
    """The stand-in mounts no disk, so it is another process that holds this one."""
    birth.disk = tmp_path / "lasting.ext4"
    with pytest.raises(Unsupported, match="mount"):
        async with driver.boot(whole(store), birth):
            pass
    assert birth.disk.stat().st_size == 64 << 20
    with birth.disk.open("r+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Busy, match="another sandbox uses this disk"):
            async with driver.boot(whole(store), birth):
                pass


async def test_an_answer_that_does_not_come_is_an_error_at_its_deadline(
    standin: FirecrackerStandIn, driver: FirecrackerDriver, birth: Cradle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "ORDER_DEADLINE_S", 3.0)
    standin.trouble = {"PUT /entropy": "late 60"}
    standin.install()
    with pytest.raises(Broken, match="did not answer PUT /entropy within 3 s"):
        async with driver.boot(small(), birth):
            pass


async def test_a_late_answer_within_the_deadline_is_waited_for(
    standin: FirecrackerStandIn, driver: FirecrackerDriver, birth: Cradle
) -> None:
    standin.trouble = {"PUT /entropy": "late 0.5"}
    standin.install()
    async with driver.boot(small(), birth) as guest:
        await guest.ping()


async def test_a_guest_that_never_listens_is_an_error_at_the_boots_deadline(
    standin: FirecrackerStandIn, driver: FirecrackerDriver, birth: Cradle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_module, "BOOT_DEADLINE_S", 4.0)
    standin.agent = ""
    standin.install()
    with pytest.raises(Broken, match="did not come up within 4 s"):
        async with driver.boot(small(), birth):
            pass


async def test_a_connection_that_is_cut_by_a_late_reset_is_made_again(
    standin: FirecrackerStandIn, driver: FirecrackerDriver, birth: Cradle
) -> None:
    standin.trouble = {"vsock": "drop 2"}
    standin.install()
    async with driver.boot(small(), birth) as guest:
        assert (await run(guest, "/bin/echo", "x", cwd="/")).text == "x"


async def test_connections_that_are_cut_again_and_again_are_an_error(
    standin: FirecrackerStandIn, driver: FirecrackerDriver, birth: Cradle
) -> None:
    standin.trouble = {"vsock": "drop 9"}
    standin.install()
    with pytest.raises(Broken, match="did not come up"):
        async with driver.boot(small(), birth):
            pass


async def test_saving_a_machine_that_runs_is_refused_with_the_reason(
    standin: FirecrackerStandIn, driver: FirecrackerDriver, birth: Cradle, tmp_path: Path
) -> None:
    async with driver.boot(small(), birth) as guest:
        with pytest.raises(Unsupported, match="cuts a machine's connections") as caught:
            await guest.save(tmp_path)
    assert "qemu" in caught.value.hint
    assert Feature.SNAPSHOT not in driver.capabilities


@pytest.mark.parametrize("where", ["jailer", "firecracker"])
async def test_a_program_that_ends_at_once_is_quoted(
    standin: FirecrackerStandIn, driver: FirecrackerDriver, birth: Cradle, where: str
) -> None:
    if where == "jailer":
        standin.jailer_fails = "jailer: Failed to create cgroup"
    else:
        standin.trouble = {"start": "firecracker: cannot do this"}
    standin.install()
    with pytest.raises(Broken, match=r"Failed to create cgroup|cannot do this"):
        async with driver.boot(small(), birth):
            pass


async def test_the_death_of_firecracker_breaks_the_guest_and_its_orders(
    standin: FirecrackerStandIn, driver: FirecrackerDriver, birth: Cradle
) -> None:
    with pytest.raises(Broken):
        async with driver.boot(small(), birth) as guest:
            os.kill(int(birth.facts["pid"]), 9)
            await guest.wait_broken()
            await guest.pause()


async def test_reaping_ends_what_a_crash_left(
    standin: FirecrackerStandIn, driver: FirecrackerDriver, birth: Cradle
) -> None:
    with pytest.raises(Broken):
        async with driver.boot(small(), birth) as guest:
            await driver.reap(birth.id, birth.facts)
            await guest.wait_broken()
            await guest.ping()


async def test_a_killed_supervisor_leaves_no_machine(
    standin: FirecrackerStandIn, driver: FirecrackerDriver, birth: Cradle
) -> None:
    """The jailer's change of ids clears the parent death signal, so the driver looks itself."""
    async with driver.boot(small(), birth) as guest:
        os.kill(int(birth.facts["supervisor_pid"]), 9)
        with anyio.move_on_after(1):
            await guest.ping()


async def test_the_probe_boots_a_machine_once_and_remembers(
    standin: FirecrackerStandIn, driver: FirecrackerDriver, tmp_path: Path
) -> None:
    verdict = await driver.probe()
    assert (verdict.usable, verdict.isolation, verdict.version) == (True, Isolation.VM, standin.version), verdict
    assert standin.names() == BOOT
    assert (await driver.probe()).usable
    assert standin.names() == BOOT
    assert list((tmp_path / "trials").iterdir()) == []


async def test_the_probe_says_what_kept_a_machine_from_booting(
    standin: FirecrackerStandIn, driver: FirecrackerDriver
) -> None:
    standin.trouble = {"PUT /actions": "refuse Error creating KVM object: /dev/kvm: Permission denied"}
    standin.install()
    verdict = await driver.probe()
    assert not verdict.usable
    assert "/dev/kvm: Permission denied" in verdict.reason
    assert "kvm module" in verdict.remedy
    tried = standin.names()
    assert await driver.probe() == verdict
    assert standin.names() == tried, "it was kept"
    standin.trouble = {}
    standin.install()
    assert (await driver.probe()).usable, "another program, another trial"


async def test_a_verdict_against_it_is_tried_again_when_it_is_old(
    standin: FirecrackerStandIn, driver: FirecrackerDriver, tmp_path: Path
) -> None:
    assert (await driver.probe()).usable
    (kept,) = (tmp_path / "verdicts").iterdir()
    kept.write_text('{"reason": "the disk was full", "remedy": ""}')
    assert (await driver.probe()).reason == "the disk was full"
    os.utime(kept, (1, 1))
    assert (await driver.probe()).usable


async def test_a_crash_of_the_daemon_leaves_neither_machine_nor_folder(
    standin: FirecrackerStandIn, store: Store, tmp_path: Path
) -> None:
    birth = cradle(tmp_path / "sandboxes")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:

        async def live() -> None:
            async with driver_of(standin, store, tmp_path).boot(small(), birth):
                os.write(writer, f"{birth.facts['pid']} {birth.facts['supervisor_pid']}\n".encode())
                await anyio.sleep_forever()

        try:
            anyio.run(live)
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader) as stream:
        pids = [int(word) for word in (await anyio.to_thread.run_sync(stream.readline)).split()]
    assert len(pids) == 2
    os.kill(child, 9)
    await anyio.to_thread.run_sync(os.waitpid, child, 0)

    async def gone() -> bool:
        return not any(map(alive, pids)) and not birth.directory.exists()

    assert await settles(gone)
    await driver_of(standin, store, tmp_path).reap(birth.id, birth.facts)


async def test_errors_are_all_of_ours(standin: FirecrackerStandIn, driver: FirecrackerDriver, birth: Cradle) -> None:
    with pytest.raises(AgentkernelError, match="at most 32 processors"):
        async with driver.boot(small(vcpus=33), birth):
            pass
    assert standin.names() == []
