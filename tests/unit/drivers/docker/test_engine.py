"""What an engine says of itself."""

from __future__ import annotations

from typing import Any

import pytest

from agentkernel.drivers.docker.container import DOCKER, PODMAN
from agentkernel.drivers.docker.engine import facts_of, unheld
from agentkernel.model.errors import Unsupported

VERSION: dict[str, Any] = {
    "ApiVersion": "1.41",
    "Os": "linux",
    "Arch": "amd64",
    "Version": "20.10",
    "KernelVersion": "6",
}
HELD = {"MemoryLimit": True, "SwapLimit": True, "CpuCfsQuota": True, "PidsLimit": True}


def test_an_engine_s_facts_are_told() -> None:
    facts = facts_of(VERSION, HELD | {"Runtimes": {"runc": {}}, "CgroupVersion": "2"}, "here")
    assert (facts.version, facts.machine, facts.architecture, facts.dialect) == ("20.10", "x86_64", "amd64", DOCKER)
    assert (facts.runtimes, facts.rootless, facts.limits.missing()) == ({"runc"}, False, [])


def test_podman_is_known_by_its_component_whatever_it_is_called() -> None:
    named = VERSION | {"Components": [{"Name": "Podman Engine"}]}
    assert facts_of(named, HELD, "here").dialect is PODMAN


def test_limits_that_an_engine_lacks_are_named() -> None:
    facts = facts_of(VERSION, {"MemoryLimit": True, "SecurityOptions": ["name=rootless"]}, "here")
    assert facts.limits.missing() == ["swap", "processors", "processes"]
    assert facts.rootless


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ({}, "no container engine"),
        ("text", "no container engine"),
        (None, "no container engine"),
        (VERSION | {"ApiVersion": "1.40"}, "speaks API 1.40"),
        (VERSION | {"Os": "windows"}, "windows"),
        (VERSION | {"Arch": "s390x"}, "s390x"),
    ],
)
def test_what_cannot_be_used_is_unsupported(version: object, reason: str) -> None:
    with pytest.raises(Unsupported, match=reason):
        facts_of(version, HELD, "here")


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        ("1970-01-01T00:01:00.123456789Z", 60.0),
        ("1970-01-01T01:01:00.5+01:00", 60.0),
        ("1970-01-01T00:01:00Z", 60.0),
        ("soon", 0.0),
        ("", 0.0),
    ],
)
def test_an_engine_s_clock_is_read_in_any_precision(time: str, seconds: float) -> None:
    assert facts_of(VERSION, HELD | {"SystemTime": time}, "here").time_s == seconds


@pytest.mark.parametrize(
    ("stats", "found"),
    [
        ({"memory_stats": {"limit": 64}, "pids_stats": {"current": 1, "limit": 33}}, []),
        ({"memory_stats": {"limit": 64}, "pids_stats": {"current": 1}}, []),
        ({"memory_stats": {"limit": 65}, "pids_stats": {"limit": 33}}, ["memory"]),
        ({"memory_stats": {"limit": 64}, "pids_stats": {"limit": 34}}, ["processes"]),
        ({"memory_stats": {"limit": 1 << 40}, "pids_stats": {}}, ["memory", "processes"]),
        ({"memory_stats": {}, "pids_stats": None}, ["memory", "processes"]),
        ("no stats", ["memory", "processes"]),
    ],
)
def test_limits_that_a_container_is_not_held_to_are_named(stats: object, found: list[str]) -> None:
    assert unheld(stats, 64, 33) == found
