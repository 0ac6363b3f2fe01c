"""Whether a container is held as we asked for it, by what its kernel does and not by what its engine says. Pure.

An engine may not know an option, may not be able to read our seccomp profile, or may be told by its own configuration
to hold nothing. The agent, started once more as a program in a trial container, says what it finds.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

from agentkernel.drivers.docker.container import AGENT_PLACE
from agentkernel.drivers.hardening import MASKED

QUESTION = (f"{AGENT_PLACE}/agent", "--confinement", *MASKED)
"""The program that answers."""
ANSWERS = {
    "io_uring_setup": errno.ENOSYS,
    "kcmp": errno.EPERM,
    "keyctl": errno.EPERM,
    "name_to_handle_at": errno.EPERM,
    "process_vm_readv": errno.ENOSYS,
    "socket-vsock": errno.EAFNOSUPPORT,
    "unshare": errno.EPERM,
    "userfaultfd": errno.ENOSYS,
    "vmsplice": errno.ENOSYS,
}
"""What our filter, and no engine's own, says to all of these calls; see `hardening/profile.toml`."""
CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
FILTERED = "2"
HIDDEN = frozenset({"absent", "empty", "closed"})
MOST_NAMED = 5


def weaknesses(report: str) -> list[str]:
    """What of our confinement is not in force, in words; empty when all of it is. What is not told is not in force.

    Args:
        report: what `agent --confinement` wrote.
    """
    told = {(kind, name): value for kind, name, value in map(_words, report.splitlines())}
    found: list[str] = []
    if told.get(("status", "NoNewPrivs")) != "1":
        found.append("programs can gain privileges (no_new_privs is off)")
    if held := [name for name in CAPABILITIES if (told.get(("status", name)) or "1").strip("0")]:
        found.append(f"programs have capabilities ({', '.join(held)})")
    if told.get(("status", "Seccomp")) != FILTERED:
        found.append("no system calls are filtered")
    elif wrong := [name for name, answer in ANSWERS.items() if told.get(("call", name)) != str(answer)]:
        found.append(f"the filter of system calls is not ours ({_some(wrong)})")
    if open_ := [path for path in MASKED if told.get(("path", path)) not in HIDDEN]:
        found.append(f"paths of the host are not hidden ({_some(open_)})")
    return found


def _words(line: str) -> tuple[str, str, str]:
    kind, _, rest = line.partition(" ")
    name, _, value = rest.rpartition(" ")
    return kind, name, value


def _some(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
