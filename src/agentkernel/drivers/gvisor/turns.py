"""How a sandbox's threads take turns on the host's processors.

The sentry has a process inside do a system call of the host's (an mmap, mostly) by waking a thread in it, and then
waits to be woken; that thread, done, wakes it again and again until somebody was woken. Where the wake-up puts it in
place of the sentry on the same processor, before the sentry waits, it spins until the kernel's tick takes the processor
from it: 2 to 4 ms each time, several times for each program. A batch thread never takes a processor from one that runs,
so the sentry gets as far as waiting. Source of the loop: gVisor, pkg/sentry/platform/systrap, `syscallThread.syscall`
and the stub's system call loop.
"""

from __future__ import annotations

import os
from contextlib import suppress

from agentkernel.drivers.confine.reap import children_of


def let_the_sentry_finish(runsc_pid: int) -> None:
    """Make batch threads of the processes that the sentry runs programs in; those that it makes later inherit it, with
    all their threads. Takes nothing from anybody: a batch thread has the weight of any other. Where the host does not
    allow it (another user's process), all works as before, slower.
    """
    tracees = children_of(children_of([runsc_pid]))
    for pid in (*tracees, *children_of(tracees)):
        with suppress(ProcessLookupError, PermissionError):
            os.sched_setscheduler(pid, os.SCHED_BATCH, os.sched_param(0))
