"""SECURITY.md 9: the QEMU of a real sandbox is confined: who breaks out of the guest is not yet on the host.

Looked at from outside, on two sandboxes that run. What a confined program cannot do is tried out by a program of its
own, in the supervisor's tests.
"""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.machines import Machine, booted, prepare, qemu_driver, qemu_spec, shell, store_at

from agentkernel.drivers.confine import confinement_of
from agentkernel.drivers.limits import find
from agentkernel.drivers.limits.group import NoCgroups
from agentkernel.drivers.qemu import driver as driver_module
from agentkernel.drivers.qemu.limits import limits
from agentkernel.images.store import Store

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

AS_ROOT = os.geteuid() == 0


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Everything that a microVM boots from."""
    made = store_at(tmp_path_factory.mktemp("state"))
    prepare(made)
    return made


@pytest.fixture(scope="module")
async def machines(
    anyio_backend: str, store: Store, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Machine, Machine]]:
    """Two sandboxes side by side. The backend is named for the tests that are not asynchronous themselves."""
    driver, place = qemu_driver(store), tmp_path_factory.mktemp("sandboxes")
    async with booted(driver, qemu_spec(store), place) as one, booted(driver, qemu_spec(store), place) as other:
        yield one, other


def status(pid: int | str) -> dict[str, str]:
    """Fields of a process's status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def descriptors(pid: int | str) -> dict[int, str]:
    """What each descriptor of a process is open on."""
    found = {}
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found[int(link.name)] = str(link.readlink())
        except FileNotFoundError:
            continue  # of the listing itself, where that process is us
    return found


def mounts(pid: int | str) -> dict[str, tuple[set[str], str]]:
    """Mount point to its options and its kind of file system, as a process sees them."""
    found = {}
    for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        found[fields.split()[4]] = (set(fields.split()[5].split(",")), rest.split()[0])
    return found


def test_it_is_nobody_who_may_do_nothing_in_namespaces_of_its_own(machines: tuple[Machine, Machine]) -> None:
    host = confinement_of("self")
    for machine in machines:
        facts = confinement_of(machine.pid)
        allowed = [] if AS_ROOT else ["runs as root"]
        assert [each for each in facts.weaknesses(host) if each not in allowed] == []
        found = status(machine.pid)
        assert (found["CapEff"], found["CapPrm"], found["CapBnd"]) == ("0" * 16,) * 3
        assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
        assert int(found.get("Seccomp_filters", "2")) >= 2, "ours, and QEMU's own on top of it"
    assert len(host.weaknesses(host)) >= 7, "the control: what looks for weaknesses finds them in us"


def test_each_has_a_uid_and_namespaces_that_the_other_has_not(machines: tuple[Machine, Machine]) -> None:
    one, other = (confinement_of(machine.pid) for machine in machines)
    ours = confinement_of("self")
    for kind, name in one.namespaces.items():
        assert len({name, other.namespaces[kind], ours.namespaces[kind]}) == 3, kind
    if AS_ROOT:
        assert not {*one.uids, *one.gids} & {*other.uids, *other.gids, 0}
    else:
        assert set(one.uids) == set(other.uids) == {os.geteuid()}
    assert one.groups == other.groups == ()


def test_it_sees_no_process_but_its_own(machines: tuple[Machine, Machine]) -> None:
    for machine in machines:
        inside = Path(f"/proc/{machine.pid}/root/proc")
        assert [entry.name for entry in inside.iterdir() if entry.name.isdecimal()] == ["1"]
        assert (inside / "1/cmdline").read_bytes() == Path(f"/proc/{machine.pid}/cmdline").read_bytes()
        assert not (inside / "sys").exists()
        assert status(machine.pid)["NSpid"].split()[-1] == "1"
    pids = [entry.name for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    assert {str(machine.pid) for machine in machines} <= set(pids), "the control: we see both"


async def test_it_has_open_what_it_was_given_and_nothing_else(machines: tuple[Machine, Machine], store: Store) -> None:
    kernel = await store.kernel()
    unix_sockets = {line.split()[6] for line in Path("/proc/net/unix").read_text().splitlines()[1:]}
    for machine in machines:
        given = {
            "/dev/null",
            "/memfd:log (deleted)",
            str(kernel.image),
            str(kernel.initramfs),
            str(await store.root(machine.spec.image)),
            str(machine.birth.directory / "scratch.ext4"),
        }
        found = descriptors(machine.pid)
        files = {to for to in found.values() if to.startswith("/")}
        assert files == given
        sockets = [to for to in found.values() if to.startswith("socket:")]
        assert len(sockets) == 3, "link and monitor, which listen, and the link's connection"
        assert all(to.removeprefix("socket:[").removesuffix("]") in unix_sockets for to in sockets)
        others = {to for to in found.values() if not to.startswith(("/", "socket:"))}
        assert others <= {f"anon_inode:[{kind}]" for kind in ("eventpoll", "eventfd", "signalfd", "timerfd")}
        assert (found[0], found[1], found[2]) == ("/dev/null", "/memfd:log (deleted)", "/memfd:log (deleted)")
    assert not set(descriptors("self").values()) <= given, "the control: we have more open than that"


def test_images_are_open_for_reading_only(machines: tuple[Machine, Machine]) -> None:
    writable = {}
    for machine in machines:
        for number, to in descriptors(machine.pid).items():
            info = Path(f"/proc/{machine.pid}/fdinfo/{number}").read_text()
            flags = int(next(line for line in info.splitlines() if line.startswith("flags")).split()[1], 8)
            if to.startswith("/") and flags & os.O_ACCMODE != os.O_RDONLY:
                writable.setdefault(machine.pid, set()).add(Path(to).name)
    expected = {"null", "memfd:log (deleted)", "scratch.ext4"}
    assert writable == {machine.pid: expected for machine in machines}


def test_it_sees_no_file_system_of_the_host(machines: tuple[Machine, Machine], store: Store) -> None:
    for machine in machines:
        root = Path(f"/proc/{machine.pid}/root")
        supervised = Path(f"/proc/{machine.birth.facts['supervisor_pid']}/cmdline").read_bytes().split(b"\0")
        tree = Path(os.fsdecode(supervised[supervised.index(b"--tree") + 1])) if b"--tree" in supervised else None
        system = {"usr", "lib", "lib32", "lib64", "bin", "sbin", "etc"}
        brought = {path.name for path in tree.iterdir()} if tree else system
        assert {path.name for path in root.iterdir()} <= brought | {"dev", "proc", "tmp"}
        assert {path.name for path in (root / "dev").iterdir()} <= {"full", "null", "random", "urandom", "zero", "kvm"}
        assert list((root / "tmp").iterdir()) == []
        for hidden in (Path.home(), store.data, machine.birth.directory, Path("/etc/shadow"), Path("/sys/kernel")):
            assert not (root / hidden.relative_to("/")).exists(), hidden
    for there in (Path.home(), store.data, machines[0].birth.directory):
        assert Path("/proc/self/root", there.relative_to("/")).exists(), "the control: from here they are seen"


def test_everything_it_sees_is_read_only_but_a_small_folder_of_its_own(machines: tuple[Machine, Machine]) -> None:
    for machine in machines:
        found = mounts(machine.pid)
        assert [at for at, (options, _) in found.items() if "rw" in options] == ["/tmp"]
        assert all("nosuid" in options for options, _ in found.values())
        assert found["/tmp"][1] == "tmpfs"
        assert {"nosuid", "nodev", "noexec"} <= found["/tmp"][0]
        assert os.statvfs(f"/proc/{machine.pid}/root/tmp").f_blocks * 4096 <= 4 << 20
    assert [at for at, (options, _) in mounts("self").items() if "rw" in options] != ["/tmp"], "the control"


def test_its_resources_are_bounded(machines: tuple[Machine, Machine]) -> None:
    for machine in machines:
        lines = Path(f"/proc/{machine.pid}/limits").read_text().splitlines()
        hard = {line[:26].strip(): line[26:].split()[1] for line in lines[1:]}
        assert (hard["Max core file size"], hard["Max open files"], hard["Max processes"]) == ("0", "256", "64")
        assert int(Path(f"/proc/{machine.pid}/oom_score_adj").read_text()) == 500
        assert Path(f"/proc/{machine.pid}/environ").read_bytes() == b""


def groups_of(sandbox: str) -> list[Path]:
    """Its cgroups, wherever they are mounted."""
    return [home / sandbox for home in find().homes() if (home / sandbox).is_dir()]


def test_it_is_held_to_its_limits_with_all_its_threads(machines: tuple[Machine, Machine]) -> None:
    if find().missing:
        pytest.skip(f"this host holds nobody to limits: {find().missing[0]}")
    for machine in machines:
        for thread in Path(f"/proc/{machine.pid}/task").iterdir():
            assert machine.birth.id in (thread / "cgroup").read_text()
        supervisor = Path(f"/proc/{machine.birth.facts['supervisor_pid']}/cgroup").read_text()
        assert machine.birth.id not in supervisor, "which must act while the sandbox stands still"
        wanted = limits(machine.spec)
        said = {
            (folder / name).read_text().strip()
            for folder in groups_of(machine.birth.id)
            for name in ("memory.limit_in_bytes", "memory.max", "pids.max", "cpu.cfs_quota_us", "cpu.max")
            if (folder / name).exists()
        }
        assert {str(wanted.memory_bytes), str(wanted.pids)} <= said
        assert said & {str(wanted.quota_us), f"{wanted.quota_us} 100000"}
    assert machines[0].birth.id not in Path("/proc/self/cgroup").read_text(), "the control: we are not in it"


async def test_its_group_goes_with_it(store: Store, tmp_path: Path) -> None:
    if find().missing:
        pytest.skip(f"this host holds nobody to limits: {find().missing[0]}")
    async with booted(qemu_driver(store), qemu_spec(store), tmp_path) as machine:
        assert groups_of(machine.birth.id), "the control: there is something to leave behind"
    assert not groups_of(machine.birth.id)


async def test_where_nobody_is_held_to_limits_it_runs_without_a_group(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_module, "find", lambda: NoCgroups("the test has none"))
    async with booted(qemu_driver(store), qemu_spec(store), tmp_path) as machine:
        assert (await shell(machine.guest, "echo here")).text == "here"
        assert machine.birth.id not in Path(f"/proc/{machine.pid}/cgroup").read_text()


def test_what_it_leaves_on_the_host_is_private(machines: tuple[Machine, Machine]) -> None:
    for machine in machines:
        assert stat.S_IMODE(machine.birth.directory.stat().st_mode) == 0o700
        scratch = (machine.birth.directory / "scratch.ext4").stat()
        assert (stat.S_IMODE(scratch.st_mode), scratch.st_uid) == (0o600, os.geteuid())


def test_the_supervisor_has_kept_what_it_needs_to_end_it(machines: tuple[Machine, Machine]) -> None:
    for machine in machines:
        facts = confinement_of(int(machine.birth.facts["supervisor_pid"]))
        kill = 1 << 5
        assert facts.capabilities == (kill if AS_ROOT else facts.capabilities)
        assert facts.no_new_privileges
        assert len(descriptors(machine.birth.facts["supervisor_pid"])) <= 5


async def test_root_inside_cannot_write_to_the_image_but_to_its_private_disk(machines: tuple[Machine, Machine]) -> None:
    """The device below the root file system is read-only in QEMU, whatever its kernel would let root do."""
    guest = machines[0].guest
    assert (await shell(guest, "cat /sys/block/vda/ro /sys/block/vdb/ro", user="root")).text.split() == ["1", "0"]
    assert (await shell(guest, "dd if=/dev/zero of=/dev/vda count=1 2>/dev/null", user="root")).code != 0
    control = "dd if=/dev/vdb of=/tmp/head count=1 && dd if=/tmp/head of=/dev/vdb count=1 conv=notrunc"
    assert (await shell(guest, control, user="root")).code == 0
