"""Reads from `/proc` how a running process is confined: for `doctor`, and for the tests that hold us to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agentkernel.drivers.confine.reap import PROC

NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
CAPABILITY_SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
SECCOMP_FILTER = 2


@dataclass(frozen=True, slots=True)
class ConfinementFacts:
    """How one process stands.

    Attributes:
        uids, gids: real, effective, saved and file system id, as the reader's user namespace sees them.
        capabilities: all capabilities in any of its sets.
        seccomp: 0 none, 1 strict, 2 filter.
        namespaces: kind to the kernel's name for it, `net:[4026531840]`.
    """

    uids: tuple[int, ...]
    gids: tuple[int, ...]
    groups: tuple[int, ...]
    capabilities: int
    no_new_privileges: bool
    seccomp: int
    namespaces: dict[str, str]

    def weaknesses(self, host: ConfinementFacts) -> list[str]:
        """What is missing, one phrase each; empty when it is confined as promised. `host` is the daemon."""
        shared = [kind for kind in NAMESPACES if self.namespaces[kind] == host.namespaces[kind]]
        found = [f"shares the {kind} namespace with the daemon" for kind in shared]
        if 0 in self.uids or 0 in self.gids:
            found.append("runs as root")
        if self.capabilities:
            found.append(f"has capabilities {self.capabilities:#x}")
        if not self.no_new_privileges:
            found.append("may gain privileges")
        if self.seccomp != SECCOMP_FILTER:
            found.append("has no seccomp filter")
        return found


def confinement_of(pid: int | str, proc: Path = PROC) -> ConfinementFacts:
    """Facts of a process, `self` for one's own.

    Raises:
        OSError: it is gone, or another user's.
    """
    place = proc / str(pid)
    lines = (line.partition(":") for line in (place / "status").read_text("utf-8", "replace").splitlines())
    status = {name: value.strip() for name, _, value in lines}
    capabilities = 0
    for name in CAPABILITY_SETS:
        capabilities |= int(status[name], 16)
    return ConfinementFacts(
        uids=_numbers(status["Uid"]),
        gids=_numbers(status["Gid"]),
        groups=_numbers(status["Groups"]),
        capabilities=capabilities,
        no_new_privileges=status["NoNewPrivs"] == "1",
        seccomp=int(status["Seccomp"]),
        namespaces={kind: str((place / "ns" / kind).readlink()) for kind in NAMESPACES},
    )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split())
