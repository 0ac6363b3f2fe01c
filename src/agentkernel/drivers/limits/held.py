"""The group of one sandbox as a block."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass

import anyio
import anyio.to_thread

from agentkernel.drivers.limits.group import Cgroup, Cgroups, Limits
from agentkernel.model.ids import SandboxId


@dataclass(frozen=True, slots=True)
class Held:
    """A group with limits, and the descriptors by which a process moves itself in; none where there are no limits."""

    group: Cgroup | None = None
    fds: tuple[int, ...] = ()


@asynccontextmanager
async def held(groups: Cgroups | None, sandbox: SandboxId, limits: Limits) -> AsyncIterator[Held]:
    """The group of one sandbox; leaving the block ends all that is in it and removes it. None makes none.

    Raises:
        Unsupported: no group can be made here at all.
        Broken: the kernel refused.
    """
    if groups is None:
        yield Held()
        return
    group = groups.create(sandbox, limits)
    try:
        with ExitStack() as files:
            fds = tuple(os.open(folder / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC) for folder in group.folders)
            for number in fds:
                files.callback(os.close, number)
            yield Held(group, fds)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(group.destroy)
