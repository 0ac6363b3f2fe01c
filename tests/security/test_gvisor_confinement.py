"""SECURITY.md 14: who breaks out of the sentry is a user without rights, in a prison of ours.

Looked at from outside, on two sandboxes that run.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.support.gvisor import gvisor_driver, gvisor_ready, gvisor_spec
from tests.support.machines import Machine, booted, run, shell, store_at

from agentkernel.drivers.confine import confinement_of
from agentkernel.images.store import Store

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

AS_ROOT = os.geteuid() == 0
OVER_THE_MACHINE = {
    "sys_module": 16,
    "sys_rawio": 17,
    "sys_boot": 22,
    "sys_time": 25,
    "net_raw": 13,
    "syslog": 34,
    "bpf": 39,
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Everything that a sandbox is made from."""
    made = store_at(tmp_path_factory.mktemp("state"))
    with gvisor_ready(made):
        yield made


@pytest.fixture(scope="module")
async def machines(
    anyio_backend: str, store: Store, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Machine, Machine]]:
    """Two sandboxes side by side. The backend is named for the tests that are not asynchronous themselves."""
    driver, place = gvisor_driver(store), tmp_path_factory.mktemp("sandboxes")
    verdict = await driver.probe()
    if not verdict.usable:
        pytest.skip(verdict.reason)
    async with booted(driver, gvisor_spec(store), place) as one, booted(driver, gvisor_spec(store), place) as other:
        yield one, other


def family(pid: int) -> list[int]:
    """A process and all that came from it."""
    lists = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return [pid, *(each for children in lists for child in children for each in family(int(child)))]


def sentry(pid: int) -> int:
    """The kernel of a sandbox, by what runsc calls it."""
    return next(each for each in family(pid) if Path(f"/proc/{each}/cmdline").read_bytes().startswith(b"runsc-sandbox"))


def test_every_process_of_it_is_a_user_of_its_own_in_namespaces_of_its_own(machines: tuple[Machine, Machine]) -> None:
    host = confinement_of("self")
    uids = []
    for machine in machines:
        found = family(machine.pid)
        assert len(found) >= 3, "runsc, its gofer, the sentry"
        for pid in found:
            facts = confinement_of(pid)
            inside = f"has capabilities {facts.capabilities:#x}"
            allowed = {inside} if AS_ROOT else {inside, "runs as root"}
            assert set(facts.weaknesses(host)) <= allowed
            assert facts.groups == () or not AS_ROOT
        uids.append({uid for pid in found for uid in confinement_of(pid).uids})
    assert len(uids[0]) == len(uids[1]) == 1
    assert (uids[0] != uids[1]) == AS_ROOT
    assert len(host.weaknesses(host)) >= 7, "the control: what looks for weaknesses finds them in us"


def test_its_capabilities_are_over_one_uid_and_none_is_over_the_machine(machines: tuple[Machine, Machine]) -> None:
    """They count in a user namespace whose only inhabitant is the sandbox's own uid."""
    for machine in machines:
        for pid in family(machine.pid):
            facts = confinement_of(pid)
            assert not [name for name, bit in OVER_THE_MACHINE.items() if facts.capabilities >> bit & 1]
        first, outside, count = Path(f"/proc/{machine.pid}/uid_map").read_text().split()
        assert (first, int(outside), count) == ("0", confinement_of(machine.pid).uids[0], "1")
        assert Path(f"/proc/{machine.pid}/setgroups").read_text().strip() == "deny"
    assert len(Path("/proc/self/uid_map").read_text().split()) % 3 == 0, "the control: ours can be read, too"


def test_the_sentry_sees_no_file_of_the_host(machines: tuple[Machine, Machine], store: Store) -> None:
    for machine in machines:
        kernel = Path(f"/proc/{sentry(machine.pid)}/root")
        assert {path.name for path in kernel.iterdir()} <= {"etc", "proc"}
        prison = Path(f"/proc/{machine.pid}/root")
        brought = {
            "agent",
            "bundle",
            "image",
            "dev",
            "proc",
            "tmp",
            "usr",
            "etc",
            "lib",
            "lib32",
            "lib64",
            "bin",
            "sbin",
        }
        assert {path.name for path in prison.iterdir()} <= brought
        for hidden in (Path.home(), store.data, machine.birth.directory, Path("/etc/shadow")):
            assert not (prison / hidden.relative_to("/")).exists(), hidden
    for there in (Path.home(), store.data, machines[0].birth.directory):
        assert Path("/proc/self/root", there.relative_to("/")).exists(), "the control: from here they are seen"


def test_settings_of_the_host_cannot_be_written_from_the_prison(machines: tuple[Machine, Machine]) -> None:
    """Its /proc is writable for its own maps of ids; what is the machine's belongs to root."""
    for machine in machines:
        prison = Path(f"/proc/{machine.pid}/root/proc")
        assert list((prison / "sys/net").iterdir()) == []
        for name in ("kernel/core_pattern", "kernel/hostname", "vm/overcommit_memory"):
            facts = (prison / "sys" / name).stat()
            assert facts.st_uid == 0
            assert not facts.st_mode & 0o002


async def test_what_runs_inside_sees_the_sandboxs_kernel_and_memory(machines: tuple[Machine, Machine]) -> None:
    for machine in machines:
        assert (await run(machine.guest, "uname", "-r")).text == "4.4.0"
        total = (await shell(machine.guest, "grep MemTotal /proc/meminfo")).text.split()[1]
        assert int(total) == machine.spec.memory_mib * 1024
    assert os.uname().release != "4.4.0", "the control"


def test_it_is_held_to_its_limits(machines: tuple[Machine, Machine]) -> None:
    for machine in machines:
        for pid in family(machine.pid):
            groups = Path(f"/proc/{pid}/cgroup").read_text()
            assert machine.birth.id in groups
        supervisor = Path(f"/proc/{machine.birth.facts['supervisor_pid']}/cgroup").read_text()
        assert machine.birth.id not in supervisor, "which must act while the sandbox stands still"


async def test_a_program_cannot_leave_the_group_by_which_its_command_is_killed(
    machines: tuple[Machine, Machine],
) -> None:
    """Nor as root of a namespace of its own, which may mount the same hierarchy."""
    leave = "echo 0 > /sys/fs/cgroup/job/cgroup.procs; sed -n s/.*:job://p /proc/self/cgroup"
    mounted = "mkdir -p /tmp/m && mount -t cgroup -o job none /tmp/m && echo mounted; "
    for machine in machines:
        stayed = (await shell(machine.guest, leave)).text.strip()
        assert stayed.strip("/").isdigit(), stayed
        script = mounted + leave.replace("/sys/fs/cgroup/job", "/tmp/m")
        said = (await run(machine.guest, "unshare", "-Urm", "sh", "-c", script)).text.split()
        assert said[0] == "mounted", "the control: it gets that far"
        assert said[1].strip("/").isdigit(), said
        left = (await shell(machine.guest, leave, user="root")).text.strip()
        assert left == "/", "the control: root leaves"
