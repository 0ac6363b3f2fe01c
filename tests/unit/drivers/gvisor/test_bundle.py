"""What runsc is told."""

from __future__ import annotations

import json
from typing import Any

from agentkernel.drivers.gvisor import bundle
from agentkernel.drivers.gvisor.memory import OWN_MIB, limits, threads
from agentkernel.model.ids import Digest
from agentkernel.model.kinds import Backend
from agentkernel.model.spec import BootSpec

SPEC = BootSpec(Backend.GVISOR, "base", Digest("d"), memory_mib=256, disk_mib=64, pids=100, vcpus=2)


def document(spec: BootSpec = SPEC, *, holds_image: bool = True) -> Any:
    return json.loads(bundle.config(spec, holds_image=holds_image))


def test_the_agent_is_the_process_and_nothing_of_the_hosts_environment_comes_along() -> None:
    process = document()["process"]
    assert process["args"] == ["/.agentkernel/agent", "--run-directory", "/run/agentkernel", "--stdio"]
    assert (process["env"], process["cwd"], process["terminal"]) == ([], "/", False)
    assert process["noNewPrivileges"] is True


def test_the_agent_holds_nothing_that_talks_to_devices_or_networks() -> None:
    for held in document()["process"]["capabilities"].values():
        assert {"CAP_SYS_ADMIN", "CAP_SETUID"} <= set(held)
        refused = {
            f"CAP_{name}" for name in ("NET_RAW", "NET_ADMIN", "SYS_MODULE", "SYS_RAWIO", "SYS_BOOT", "SYS_TIME")
        }
        assert not refused & set(held)


def test_what_is_in_memory_and_everybodys_has_a_size() -> None:
    sizes = {
        mount["destination"]: [option for option in mount["options"] if option.startswith("size=")]
        for mount in document()["mounts"]
        if mount["type"] == "tmpfs" and mount["destination"] != "/.agentkernel/disks/scratch"
    }
    assert sizes == {"/tmp": ["size=128m"], "/dev/shm": ["size=128m"], "/run": ["size=128m"]}


def test_a_restore_differs_from_a_start_by_what_it_goes_on_from() -> None:
    start, restore = bundle.command("/runsc"), bundle.command("/runsc", restores=True)
    at = start.index("run")
    assert restore == (*start[:at], "restore", "--image-path", "/saved", *start[at + 1 :])


def test_no_setting_is_given_twice() -> None:
    names = [setting.split("=")[0] for setting in bundle.SETTINGS if setting.startswith("--")]
    assert len(names) == len(set(names))


def test_the_image_is_mounted_by_the_sentry_below_a_layer_in_memory() -> None:
    assert document()["annotations"] == {
        "dev.gvisor.spec.rootfs.source": "/image",
        "dev.gvisor.spec.rootfs.type": "erofs",
        "dev.gvisor.spec.rootfs.overlay": "memory",
    }
    assert document(holds_image=False)["annotations"] == {}


def test_nothing_of_the_host_is_mounted_but_the_agent_read_only() -> None:
    binds = [mount for mount in document()["mounts"] if mount["type"] == "bind"]
    assert [(mount["source"], mount["destination"]) for mount in binds] == [("/agent", "/.agentkernel/agent")]
    assert "ro" in binds[0]["options"]


def test_the_disk_has_the_size_asked_for_and_is_roots_alone() -> None:
    disk = next(mount for mount in document()["mounts"] if mount["destination"] == "/.agentkernel/disks/scratch")
    assert (disk["type"], set(disk["options"]) & {"size=64m", "mode=0700"}) == ("tmpfs", {"size=64m", "mode=0700"})


def test_a_sandbox_without_a_disk_has_none() -> None:
    none = BootSpec(Backend.GVISOR, "base", Digest("d"), disk_mib=0)
    assert "/.agentkernel/disks/scratch" not in [mount["destination"] for mount in document(none)["mounts"]]


def test_every_namespace_is_new() -> None:
    kinds = document()["linux"]["namespaces"]
    assert kinds == [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "network")]


def test_what_decides_isolation_is_on_the_command_line_and_not_left_to_defaults() -> None:
    argv = bundle.command("/usr/bin/runsc")
    assert argv[0] == "/usr/bin/runsc"
    assert {"--network=none", "--host-uds=none", "--host-fifo=none", "--net-raw=false", "--platform=systrap"} <= {*argv}
    assert argv[-4:] == ("run", "--bundle", "/bundle", "sandbox")


def test_the_memory_that_a_sandbox_is_told_is_its_own() -> None:
    assert bundle.meminfo(SPEC).splitlines()[0] == b"MemTotal: 262144 kB"


def test_its_group_holds_memory_and_disk_and_what_the_sentry_takes() -> None:
    held = limits(SPEC)
    assert held.memory_bytes == (256 + 64 + OWN_MIB) << 20
    assert held.cpus == 2.0
    assert held.pids == threads(SPEC) > 100
