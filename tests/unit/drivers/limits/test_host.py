"""Which mode a host has, from its `/proc`, and what is missing. Folders are real, the kernel's files plain."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from agentkernel.drivers.limits import HybridCgroups, LegacyCgroups, Limits, UnifiedCgroups, find
from agentkernel.drivers.limits.group import NoCgroups
from agentkernel.drivers.limits.host import hierarchies
from agentkernel.model.errors import Refused, Unsupported

LIMITS = Limits(1 << 20, 1.0, 10)
ORDINARY_UID = 61_234


@dataclass
class Host:
    """A `/proc` and the folders that it names."""

    root: Path

    @property
    def proc(self) -> Path:
        return self.root / "proc"

    def __post_init__(self) -> None:
        (self.proc / "self").mkdir(parents=True)
        (self.proc / "self/cgroup").touch()
        (self.proc / "self/mountinfo").touch()
        (self.proc / "swaps").write_text("Filename\tType\n")

    def mounted(self, kind: str, name: str, controllers: str, own: str, *, root: str = "/") -> Path:
        """Mount a hierarchy at `name`; version 2 names its controllers in a file."""
        top = self.root / name
        group = top / own.removeprefix(root).strip("/")
        group.mkdir(parents=True)
        number = 0 if kind == "cgroup2" else 3
        options = "rw" if kind == "cgroup2" else f"rw,{controllers}"
        with (self.proc / "self/cgroup").open("a") as stream:
            stream.write(f"{number}:{'' if kind == 'cgroup2' else controllers}:{own}\n")
        with (self.proc / "self/mountinfo").open("a") as stream:
            point = str(top).replace(" ", "\\040")
            stream.write(f"36 35 0:28 {root} {point} rw,relatime shared:9 - {kind} cgroup {options}\n")
        if kind == "cgroup2":
            for folder in {top, group, top / "agentkernel", group / "agentkernel"}:
                folder.mkdir(exist_ok=True)
                (folder / "cgroup.controllers").write_text(controllers)
                (folder / "cgroup.subtree_control").touch()
        return top


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "a host")


def test_one_hierarchy_for_all_is_version_2(host: Host) -> None:
    host.mounted("cgroup2", "unified", "cpu memory pids", "/")
    found = find(host.proc)
    assert isinstance(found, UnifiedCgroups)
    assert found.missing == ()


def test_controllers_of_their_own_are_version_1_and_an_empty_version_2_beside_them_is_the_hybrid(host: Host) -> None:
    for controllers in ("memory", "pids", "cpu,cpuacct", "freezer"):
        host.mounted("cgroup", controllers.replace(",", "-"), controllers, "/a/b")
    found = find(host.proc)
    assert type(found) is LegacyCgroups
    assert found.missing == ()
    assert found.parents["cpuacct"] == host.root / "cpu-cpuacct/a/b/agentkernel"
    host.mounted("cgroup2", "unified", "", "/")
    assert isinstance(find(host.proc), HybridCgroups)


def test_a_controller_that_is_not_mounted_is_said_to_be_missing(host: Host) -> None:
    host.mounted("cgroup", "memory", "memory", "/")
    assert [line.partition(":")[0] for line in find(host.proc).missing] == ["cpu", "pids"]


def test_a_controller_that_version_2_does_not_hand_on_is_missing_and_memory_takes_swap_with_it(host: Host) -> None:
    host.mounted("cgroup2", "unified", "cpu pids", "/")
    assert [line.partition(":")[0] for line in find(host.proc).missing] == ["memory", "swap"]


def test_swap_that_is_there_and_not_counted_is_missing(host: Host) -> None:
    for controller in ("memory", "pids", "cpu"):
        host.mounted("cgroup", controller, controller, "/")
    assert find(host.proc).missing == ()
    (host.proc / "swaps").write_text("Filename\tType\n/dev/sda2 partition 1 0 -2\n")
    assert [line.partition(":")[0] for line in find(host.proc).missing] == ["swap"]


def test_a_hierarchy_of_which_only_a_part_is_mounted_is_read_from_there(host: Host) -> None:
    host.mounted("cgroup", "memory", "memory", "/docker/x/inner", root="/docker/x")
    (one,) = hierarchies(host.proc)
    assert one.own == host.root / "memory/inner"


def test_a_hierarchy_without_controllers_of_ours_is_no_place_for_limits(host: Host) -> None:
    host.mounted("cgroup", "systemd", "name=systemd", "/")
    found = find(host.proc)
    assert isinstance(found, NoCgroups)
    assert [line.partition(":")[0] for line in found.missing] == ["memory", "swap", "cpu", "pids"]
    with pytest.raises(Unsupported, match="no cgroup hierarchy"):
        found.create("a", LIMITS)
    found.reap("a")


def test_a_host_without_proc_has_none(tmp_path: Path) -> None:
    assert len(find(tmp_path).missing) == 4


@pytest.mark.parametrize("name", ["", "..", "a/b", "/a", "a" * 65, "a b", "a\n"])
def test_a_name_that_is_not_one_folders_is_refused(host: Host, name: str) -> None:
    host.mounted("cgroup", "memory", "memory", "/")
    found = find(host.proc)
    with pytest.raises(Refused):
        found.create(name, LIMITS)
    with pytest.raises(Refused):
        found.reap(name)


@pytest.mark.skipif(os.geteuid() != 0, reason="a group of somebody else is made by root")
def test_an_ordinary_user_gets_the_group_that_is_his_and_no_other(host: Host) -> None:
    top = host.mounted("cgroup2", "unified", "cpu memory pids", "/user")
    for folder in (host.root, *host.root.parents[:-2]):
        folder.chmod(folder.stat().st_mode | 0o055)
    refused = missing_for(ORDINARY_UID, host)
    assert len(refused) == 4
    assert "Delegate=yes" in refused[0]
    for path in (top / "user", *(top / "user").rglob("*")):
        os.chown(path, ORDINARY_UID, ORDINARY_UID)
    (top / "user/cgroup.procs").touch()
    os.chown(top / "user/cgroup.procs", ORDINARY_UID, ORDINARY_UID)
    assert missing_for(ORDINARY_UID, host) == []


def missing_for(uid: int, host: Host) -> list[str]:
    """What a process of that user is told, in a process of its own."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setresuid(uid, uid, uid)
            os.write(writer, "\n".join(find(host.proc).missing).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with open(reader, encoding="utf-8") as stream:
        return stream.read().splitlines()


def test_a_quota_is_never_less_than_the_kernel_takes() -> None:
    assert Limits(1, 0.5, 1).quota_us == 50_000
    assert Limits(1, 0.0001, 1).quota_us == 1000
