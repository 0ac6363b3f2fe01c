"""What a container is made with."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, cast

import pytest

from agentkernel.drivers.docker.container import (
    DOCKER,
    LABEL,
    PODMAN,
    TRIAL_LABEL,
    Container,
    Dialect,
    Limits,
    LocalFiles,
    creation,
    shares,
)
from agentkernel.drivers.hardening import MASKED, READ_ONLY
from agentkernel.model.ids import Digest, SandboxId
from agentkernel.model.kinds import Backend
from agentkernel.model.spec import BootSpec

SPEC = BootSpec(Backend.DOCKER, "base", Digest("0" * 64), vcpus=2, memory_mib=512, disk_mib=1024, pids=100)
ONE = Container(SandboxId("ab" * 16), "sandbox-01234567", SPEC, "sha256:1", "agent-volume", "x86_64")


def host(container: Container) -> dict[str, Any]:
    return cast(dict[str, Any], creation(container)["HostConfig"])


def test_a_container_may_have_nothing_that_it_does_not_need() -> None:
    body = creation(ONE)
    assert body["User"] == "1000:1000"
    assert body["Entrypoint"] == ["/.agentkernel/agent"]
    assert body["Hostname"] == "sandbox-01234567"
    held = host(ONE)
    assert (held["CapDrop"], held["NetworkMode"], held["ReadonlyRootfs"]) == (["ALL"], "none", True)
    assert (held["IpcMode"], held["CgroupnsMode"], held["AutoRemove"]) == ("private", "private", True)
    assert held["LogConfig"]["Type"] == "none"
    assert "no-new-privileges" in held["SecurityOpt"]
    assert not {"Privileged", "CapAdd", "Devices", "Binds", "PidMode"} & set(held)


def test_its_limits_are_its_specification_with_the_disk_in_memory_and_no_swap() -> None:
    held = host(ONE)
    assert held["Memory"] == held["MemorySwap"] == (512 + 1024) << 20
    assert (held["NanoCpus"], held["PidsLimit"]) == (2_000_000_000, 101)


def test_a_limit_that_an_engine_cannot_hold_is_not_asked_for() -> None:
    held = host(replace(ONE, limits=Limits(memory=False, swap=False, cpu=False, pids=False)))
    assert not {"Memory", "MemorySwap", "NanoCpus", "PidsLimit"} & set(held)


@pytest.mark.parametrize("memory_mib", [64, 128, 512, 4096])
@pytest.mark.parametrize("disk_mib", [4, 64, 1024])
def test_file_systems_in_memory_leave_half_of_it_to_programs(memory_mib: int, disk_mib: int) -> None:
    sizes = shares(replace(SPEC, memory_mib=memory_mib, disk_mib=disk_mib))
    assert sizes["/workspace"] + sizes["/scratch"] == disk_mib
    assert sum(sizes.values()) - disk_mib <= memory_mib // 2


def test_every_file_system_in_memory_is_bounded_and_has_no_devices() -> None:
    mounts = host(replace(ONE, volumes=("/data/", "/tmp")))["Tmpfs"]
    assert {"/workspace", "/scratch", "/tmp", "/data", "/run"} <= set(mounts)
    for options in mounts.values():
        assert {"nosuid", "nodev"} <= set(options.split(","))
        assert "size=" in options
        assert "nr_inodes=" in options
    assert f"nr_inodes={768 * 512}" in mounts["/workspace"].split(",")
    assert "uid=1000" in mounts["/workspace"]
    assert "uid=1000" not in mounts["/run"]
    assert "mode=1777" in mounts["/tmp"]


def test_docker_is_told_profile_and_paths_in_the_request() -> None:
    held = host(ONE)
    (told,) = [word.partition("=")[2] for word in held["SecurityOpt"] if word.startswith("seccomp=")]
    assert json.loads(told)["defaultAction"] == "SCMP_ACT_ERRNO"
    assert (held["MaskedPaths"], held["ReadonlyPaths"]) == (list(MASKED), list(READ_ONLY))


def test_podman_is_told_the_same_as_options_and_files() -> None:
    told = replace(ONE, dialect=PODMAN, files=LocalFiles("/p.json", "/hosts"))
    held = host(told)
    assert "seccomp=/p.json" in held["SecurityOpt"]
    assert f"mask={':'.join(MASKED)}" in held["SecurityOpt"]
    assert {"Type": "bind", "Source": "/hosts", "Target": "/etc/hosts", "ReadOnly": True} in held["Mounts"]
    assert held["Tmpfs"]["/workspace"].endswith(",U")
    assert "nr_inodes" not in held["Tmpfs"]["/workspace"]


def test_neither_has_a_network_and_docker_names_the_sandbox_in_its_hosts_file() -> None:
    docker, podman = host(ONE), host(replace(ONE, dialect=PODMAN))
    assert docker["NetworkMode"] == podman["NetworkMode"] == "none"
    assert docker["ExtraHosts"] == ["sandbox-01234567:127.0.1.1"]
    assert "ExtraHosts" not in podman


def test_a_trial_s_container_is_labelled_so() -> None:
    assert creation(replace(ONE, trial=True))["Labels"] == {LABEL: ONE.sandbox, TRIAL_LABEL: ""}
    assert creation(ONE)["Labels"] == {LABEL: ONE.sandbox}


@pytest.mark.parametrize("dialect", [DOCKER, PODMAN])
def test_the_agent_s_volume_cannot_be_written(dialect: Dialect) -> None:
    (mount,) = [each for each in host(replace(ONE, dialect=dialect))["Mounts"] if each["Type"] == "volume"]
    assert (mount["Source"], mount["Target"], mount["ReadOnly"]) == ("agent-volume", "/.agentkernel", True)


def test_an_oci_runtime_is_named_where_one_is_wanted() -> None:
    assert host(replace(ONE, runtime="runsc"))["Runtime"] == "runsc"
    assert "Runtime" not in host(ONE)
