"""What an engine says of itself: its version, its processor, its dialect, and which limits it can hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from agentkernel.drivers.docker.container import DOCKER, PODMAN, Dialect, Limits
from agentkernel.model.errors import Unsupported

LEAST_API = (1, 41)
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """One engine.

    Attributes:
        architecture: as images call it, `amd64`.
        machine: the same as `uname -m` calls it.
        runtimes: names of the OCI runtimes that it can be asked for.
        time_s: its clock when it was asked, in seconds since 1970; 0 when it does not say.
    """

    version: str
    architecture: str
    machine: str
    kernel: str
    dialect: Dialect
    limits: Limits
    runtimes: frozenset[str]
    rootless: bool
    cgroup_version: str
    time_s: float = 0.0


def facts_of(version: object, info: object, where: str) -> EngineFacts:
    """From the answers of `/version` and `/info`.

    Raises:
        Unsupported: it is no engine, or none that we can use.
    """
    if not isinstance(version, dict) or not isinstance(info, dict) or "ApiVersion" not in version:
        raise Unsupported(f"what listens on {where} is no container engine", hint="name the engine's own socket")
    if _numbers(str(version["ApiVersion"])) < LEAST_API:
        raise Unsupported(
            f"the engine on {where} speaks API {version['ApiVersion']}, and 1.41 is needed",
            hint="Docker 20.10 or Podman 4, or later",
        )
    architecture = str(version.get("Arch", ""))
    if version.get("Os") != "linux" or architecture not in MACHINES:
        raise Unsupported(
            f"the engine on {where} runs {version.get('Os')} containers on {architecture or 'nothing known'}"
        )
    names = {str(part.get("Name")) for part in version.get("Components") or []}
    security = " ".join(map(str, info.get("SecurityOptions") or []))
    return EngineFacts(
        version=str(version.get("Version", "")),
        architecture=architecture,
        machine=MACHINES[architecture],
        kernel=str(version.get("KernelVersion", "")),
        dialect=PODMAN if "Podman Engine" in names else DOCKER,
        limits=limits_of(info),
        runtimes=frozenset(map(str, info.get("Runtimes") or {})),
        rootless="rootless" in security,
        cgroup_version=str(info.get("CgroupVersion") or "1"),
        time_s=_seconds(str(info.get("SystemTime") or "")),
    )


def limits_of(info: Mapping[str, object]) -> Limits:
    """Which limits it says that it can hold."""
    return Limits(
        memory=bool(info.get("MemoryLimit")),
        swap=bool(info.get("SwapLimit")),
        cpu=bool(info.get("CpuCfsQuota")),
        pids=bool(info.get("PidsLimit")),
    )


def unheld(stats: object, memory_bytes: int, pids: int) -> list[str]:
    """Limits that a running container is not held to, as the host's control groups have it; a runtime may ignore those,
    whatever its engine says.

    Args:
        stats: the answer of `/containers/ID/stats`.
    """
    told = stats if isinstance(stats, dict) else {}
    memory = (told.get("memory_stats") or {}).get("limit") or 0
    processes = told.get("pids_stats") or {}
    # Podman counts processes and does not tell their limit.
    counted = "current" in processes and "limit" not in processes
    return [
        *(["memory"] if not 0 < memory <= memory_bytes else []),
        *(["processes"] if not counted and not 0 < processes.get("limit", 0) <= pids else []),
    ]


def _seconds(time: str) -> float:
    """Of RFC 3339, whose fractions may have more digits than Python takes."""
    try:
        return datetime.fromisoformat(re.sub(r"\.\d+", "", time)).timestamp()
    except ValueError:
        return 0.0


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(word) for word in version.split(".") if word.isdigit())
