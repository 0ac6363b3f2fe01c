"""Compiles `profile.toml` into the JSON that container engines take. Pure but for reading that file."""

from __future__ import annotations

import errno
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

MACHINES: Mapping[str, str] = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
"""Machine names of uname(2) to libseccomp's. Only the native one goes into a filter: calls by another (32-bit, x32)
end the caller with SIGSYS, because each would need its own numbers and argument rules."""

Rule = dict[str, object]


@cache
def source() -> Mapping[str, Any]:
    """`profile.toml` as it stands."""
    return tomllib.loads((files(__package__) / "profile.toml").read_text("utf-8"))


def profile(machine: str) -> dict[str, object]:
    """The profile for one machine (`x86_64`, `aarch64`).

    It is what Docker and Podman take as `seccomp=`, and an OCI bundle as `linux.seccomp`. Names that an engine's
    libseccomp does not know are skipped by it, and so refused as unknown calls are.

    Raises:
        KeyError: no such machine.

    Source: OCI runtime specification, config-linux.md, "Seccomp"; Docker, "Seccomp security profiles".
    """
    architecture = MACHINES[machine]
    text = source()
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": number_of(text["otherwise"]),
        "architectures": [architecture],
        "syscalls": [
            *(rule for group in text["allow"] for rule in _rules(group, machine)),
            *(rule for group in text["refuse"] for rule in _rules(group, machine)),
        ],
    }


def number_of(name: str) -> int:
    """`EPERM` -> 1. The same on both machines (asm-generic/errno.h)."""
    return int(getattr(errno, name))


def _rules(group: Mapping[str, Any], machine: str) -> Iterator[Rule]:
    if machine not in group.get("machines", MACHINES):
        return
    action: Rule = {"action": "SCMP_ACT_ALLOW"}
    if "errno" in group:
        action = {"action": "SCMP_ACT_ERRNO", "errnoRet": number_of(group["errno"])}
    for case in group.get("cases", [[]]):
        for arguments in _alternatives(case):
            yield {"names": sorted(group["calls"].split()), **action, "args": arguments}


def _alternatives(case: Sequence[Mapping[str, int]]) -> Iterator[list[Rule]]:
    """One case as lists of comparisons. A range is spelled out: runc refuses two comparisons of one argument."""
    if any("above" in condition and "below" in condition for condition in case):
        (span,) = case
        for value in range(span["above"] + 1, span["below"]):
            yield [_comparison({"argument": span["argument"], "is": value})]
    else:
        yield [_comparison(condition) for condition in case]


def _comparison(condition: Mapping[str, int]) -> Rule:
    index = condition["argument"]
    if "mask" in condition:
        return {"index": index, "value": condition["mask"], "valueTwo": condition["is"], "op": "SCMP_CMP_MASKED_EQ"}
    if "above" in condition:
        return {"index": index, "value": condition["above"], "valueTwo": 0, "op": "SCMP_CMP_GT"}
    return {"index": index, "value": condition["is"], "valueTwo": 0, "op": "SCMP_CMP_EQ"}
