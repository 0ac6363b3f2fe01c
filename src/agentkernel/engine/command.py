"""One command in one guest, from its request to its end, under the caller's deadline."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio

from agentkernel.drivers.contract import Guest, Process
from agentkernel.engine.groups import task_group
from agentkernel.engine.timings import Stage, Timings
from agentkernel.model.errors import Broken, NotFound, Refused
from agentkernel.model.execution import ExecRequest, Exited, NotStarted, Started, Stderr, Stdout

START_GRACE_S = 20.0
"""How long a guest may take to say that a program runs, before it counts as dead."""
KILL_GRACE_S = 10.0
"""How long a guest may take to report the end of a tree that it was told to kill."""
KILLED_AT_DEADLINE = 124
NOT_EXECUTABLE = 126
NOT_FOUND = 127
STDIN_CHUNK_BYTES = 65_536

WARM_UP = ExecRequest(argv=(b"/bin/true",), env=(b"PATH=/usr/bin:/bin",), cwd="/")
"""The throwaway command: it makes an emulated guest translate, and the page cache hold, what every start needs."""

Output = Stdout | Stderr
Sink = Callable[[Started | Output], Awaitable[None] | None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended.

    Attributes:
        exit_code: the program's; 128 + signal; 127 not found, 126 not executable; 124 with `timed_out`.
        signal: the one that killed it, or None.
        problem: why it did not start, empty when it did.
    """

    exit_code: int
    signal: int | None = None
    timed_out: bool = False
    problem: str = ""
    user_us: int = 0
    system_us: int = 0
    peak_kib: int = 0


@dataclass(slots=True)
class _Watch:
    """What the timers and the reader of one command tell each other."""

    started: anyio.Event
    timed_out: bool = False


def discard(_event: Started | Output) -> None:
    """A sink for output that nobody wants."""


async def run_command(
    guest: Guest,
    request: ExecRequest,
    *,
    stdin: bytes = b"",
    timeout_s: float | None = None,
    sink: Sink = discard,
    timings: Timings | None = None,
    on_process: Callable[[Process], None] | None = None,
    on_deadline: Callable[[], None] = lambda: None,
) -> Outcome:
    """Run one command to its end. Cancelling kills its whole tree.

    Args:
        stdin: sent, then closed, when `request.stdin` is set and it is not left to `on_process`.
        timeout_s: seconds from the program's start until its tree is killed; None for never.
        sink: gets `Started` and every output event, in order; while it waits, the program's output waits.
        on_process: gets the process before its first event; then stdin is the caller's to send and close.
        on_deadline: called when the deadline has come: what `sink` is still waiting for is of no use any more, and a
            guest tells the end of a command only after its output was taken.

    Raises:
        Broken: the sandbox died, or stopped answering.
    """
    began = time.perf_counter()
    process = await guest.exec(request)
    if on_process is not None:
        on_process(process)
    watch = _Watch(anyio.Event())
    ended: Exited | NotStarted | None = None
    try:
        async with task_group() as group:
            group.start_soon(_guard, process, watch, timeout_s, on_deadline)
            if request.stdin and on_process is None:
                group.start_soon(_send_all, process, stdin)
            ended = await _pump(process, watch, sink, began, timings)
            group.cancel_scope.cancel()
    finally:
        if ended is None:
            with anyio.move_on_after(KILL_GRACE_S, shield=True), contextlib.suppress(Broken):
                await process.kill()
    if ended is None:
        raise Broken("the command was given up")
    return _outcome(ended, timed_out=watch.timed_out)


async def _pump(
    process: Process, watch: _Watch, sink: Sink, began: float, timings: Timings | None
) -> Exited | NotStarted:
    async for event in process:
        match event:
            case Exited() | NotStarted():
                if timings is not None:
                    timings.add(Stage.RUN, time.perf_counter() - began)
                return event
            case Started():
                watch.started.set()
                if timings is not None:
                    now = time.perf_counter()
                    timings.add(Stage.SPAWN, now - began)
                    began = now
        waiting = sink(event)
        if waiting is not None:
            await waiting
    raise Broken("the sandbox ended its command's stream without an exit")


async def _guard(process: Process, watch: _Watch, timeout_s: float | None, on_deadline: Callable[[], None]) -> None:
    """Hold the command to its start, then to its deadline, then to its death."""
    with anyio.move_on_after(START_GRACE_S):
        await watch.started.wait()
    if not watch.started.is_set():
        raise Broken(f"the sandbox did not start the program within {START_GRACE_S:.0f} s")
    if timeout_s is None:
        return
    await anyio.sleep(timeout_s)
    watch.timed_out = True
    on_deadline()
    await process.kill()
    await anyio.sleep(KILL_GRACE_S)
    raise Broken(f"the sandbox did not end a killed command within {KILL_GRACE_S:.0f} s")


async def _send_all(process: Process, stdin: bytes) -> None:
    for start in range(0, len(stdin), STDIN_CHUNK_BYTES):
        await process.send_stdin(stdin[start : start + STDIN_CHUNK_BYTES])
    await process.close_stdin()


def _outcome(ended: Exited | NotStarted, *, timed_out: bool) -> Outcome:
    if isinstance(ended, NotStarted):
        return _not_started(ended)
    return Outcome(
        exit_code=KILLED_AT_DEADLINE if timed_out else ended.code,
        signal=ended.signal,
        timed_out=timed_out,
        user_us=ended.user_us,
        system_us=ended.system_us,
        peak_kib=ended.peak_kib,
    )


def _not_started(failure: NotStarted) -> Outcome:
    """No such program, or not executable, is an outcome, as in a shell; anything else was asked for wrongly."""
    subject, _, name = failure.what.partition(": ")
    reason = os.strerror(failure.errno)
    if subject == "program":
        missing = failure.errno in (errno.ENOENT, errno.ENOTDIR)
        return Outcome(exit_code=NOT_FOUND if missing else NOT_EXECUTABLE, problem=f"{name}: {reason}")
    if subject == "cwd":
        raise NotFound(
            f"the working directory {name} cannot be entered: {reason}", hint="make it first, or leave cwd out"
        )
    if subject == "user":
        raise Refused(f"no program can run as user {name!r} in this sandbox: {reason}", hint="use sandbox or root")
    raise Refused(f"the program could not be started: {failure.what}: {reason}")
