"""How much of the host one sandbox may take."""

from __future__ import annotations

from agentkernel.drivers.limits import Cgroups, Limits
from agentkernel.model.errors import Unsupported
from agentkernel.model.spec import BootSpec

OWN_MIB = 128
"""What runsc, its gofer and the sentry take beside what they hold for programs: 45 MB for an idle one."""
OWN_THREADS = 512
THREADS_PER_PROCESS = 12
"""The sentry makes a tracee and some threads for each process inside; 250 in a fork bomb took 3500."""
REMEDY = "run the daemon as root, or where a cgroup is delegated to you; or set [security] allow_unlimited"


def threads(spec: BootSpec) -> int:
    """Most threads of the host that a sandbox takes."""
    return OWN_THREADS + THREADS_PER_PROCESS * (spec.pids or OWN_THREADS)


def limits(spec: BootSpec) -> Limits:
    """Of one sandbox. Its disk is in memory too, so that comes on top: who fills it has the rest still."""
    memory_mib = spec.memory_mib + spec.disk_mib + OWN_MIB
    return Limits(memory_bytes=memory_mib << 20, cpus=float(spec.vcpus), pids=threads(spec))


def check(groups: Cgroups) -> None:
    """Raises Unsupported where a sandbox could not be held to its limits."""
    if groups.missing:
        raise Unsupported(f"sandboxes cannot be held to their limits here: {groups.missing[0]}", hint=REMEDY)
