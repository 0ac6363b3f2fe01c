"""How much of the host one sandbox may take, and the group that holds it to that."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass

import anyio
import anyio.to_thread

from agentkernel.drivers.limits import Cgroup, Cgroups, Limits
from agentkernel.model.errors import Unsupported
from agentkernel.model.ids import SandboxId
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


def limits(spec: BootSpec, *, booting: bool = False) -> Limits:
    """Of one sandbox. Its disk is in memory too, so that comes on top: who fills it has the rest still. A boot is
    runsc's own work on all processors and may take one more: held to one it took three times as long.
    """
    memory_mib = spec.memory_mib + spec.disk_mib + OWN_MIB
    return Limits(memory_bytes=memory_mib << 20, cpus=float(spec.vcpus + booting), pids=threads(spec))


def check(groups: Cgroups) -> None:
    """Raises Unsupported where a sandbox could not be held to its limits."""
    if groups.missing:
        raise Unsupported(f"sandboxes cannot be held to their limits here: {groups.missing[0]}", hint=REMEDY)


@dataclass(frozen=True, slots=True)
class Held:
    """A group with limits, and the descriptors by which a process moves itself in; none where there are no limits."""

    group: Cgroup | None = None
    fds: tuple[int, ...] = ()

    def has_booted(self, spec: BootSpec) -> None:
        """From now on it has what was asked for."""
        if self.group is not None:
            self.group.set(limits(spec))


@asynccontextmanager
async def held(groups: Cgroups | None, sandbox: SandboxId, spec: BootSpec) -> AsyncIterator[Held]:
    """The group of one sandbox; leaving the block ends all that is in it and removes it. None makes none."""
    if groups is None:
        yield Held()
        return
    group = groups.create(sandbox, limits(spec, booting=True))
    try:
        with ExitStack() as files:
            fds = tuple(os.open(folder / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC) for folder in group.folders)
            for number in fds:
                files.callback(os.close, number)
            yield Held(group, fds)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(group.destroy)
