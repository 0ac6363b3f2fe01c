"""The profile's source says what it must, and compiles to the shape that engines take."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from agentkernel.drivers.hardening import MACHINES, MASKED, READ_ONLY, profile
from agentkernel.drivers.hardening.seccomp import number_of, source

GROUPS = [*source()["allow"], *source()["refuse"]]


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group["name"])
def test_every_group_has_a_reason_a_source_and_calls(group: dict[str, Any]) -> None:
    assert len(group["reason"]) > 8
    assert group["source"]
    assert group["calls"].split()
    assert set(group) <= {"name", "reason", "source", "calls", "cases", "machines", "errno"}


def test_names_of_groups_are_unique() -> None:
    assert len({group["name"] for group in GROUPS}) == len(GROUPS)


def test_a_call_stands_once_unless_its_arguments_decide() -> None:
    always = Counter(name for group in GROUPS if "cases" not in group for name in group["calls"].split())
    by_argument = {name for group in GROUPS if "cases" in group for name in group["calls"].split()}
    assert [name for name, times in always.items() if times > 1] == []
    assert by_argument.isdisjoint(always)


def test_allowed_groups_name_no_errno_and_refused_ones_a_known_one() -> None:
    assert [group["name"] for group in source()["allow"] if "errno" in group] == []
    assert {number_of(group["errno"]) for group in source()["refuse"]} == {1, 38, 93, 97}


@pytest.mark.parametrize("machine", MACHINES)
def test_it_compiles_to_the_shape_of_the_runtime_specification(machine: str) -> None:
    made: Any = json.loads(json.dumps(profile(machine)))
    assert (made["defaultAction"], made["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 38)
    assert made["architectures"] == [MACHINES[machine]]
    for rule in made["syscalls"]:
        assert rule["action"] in {"SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"}
        assert ("errnoRet" in rule) == (rule["action"] == "SCMP_ACT_ERRNO")
        indexes = [argument["index"] for argument in rule["args"]]
        assert len(indexes) == len(set(indexes)), "runc takes one comparison of each argument"
        assert all(set(argument) == {"index", "value", "valueTwo", "op"} for argument in rule["args"])


def test_what_is_of_one_machine_stands_in_its_profile_only() -> None:
    named = {machine: names_in(profile(machine)) for machine in MACHINES}
    assert named["x86_64"] - named["aarch64"] == {"arch_prctl"}


def names_in(made: dict[str, Any]) -> set[str]:
    """Every call that a profile names."""
    return {name for rule in made["syscalls"] for name in rule["names"]}


def test_no_machine_but_those_two_has_a_profile() -> None:
    with pytest.raises(KeyError):
        profile("mips")


def test_paths_are_absolute_distinct_and_not_hidden_twice() -> None:
    assert len(set(MASKED) | set(READ_ONLY)) == len(MASKED) + len(READ_ONLY)
    assert all(path.startswith(("/proc/", "/sys")) for path in (*MASKED, *READ_ONLY))
    below = [path for path in MASKED for other in MASKED if path.startswith(f"{other}/")]
    assert below == []
