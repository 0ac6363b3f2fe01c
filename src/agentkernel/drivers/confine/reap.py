"""Ends what a crash left of a sandbox. A process is known by its id or by when it started, never by its pid alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import anyio

from agentkernel.drivers.confine.spec import PROCESS_NAME
from agentkernel.model.errors import Broken
from agentkernel.model.ids import SandboxId

PROC = Path("/proc")
GONE_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class ProcessName:
    """Names one process for ever: a pid comes back, a pid of one boot that started at one tick does not.

    Attributes:
        start_ticks: field 22 of `/proc/PID/stat`.
    """

    boot_id: str
    pid: int
    start_ticks: int


def boot_id(proc: Path = PROC) -> str:
    """Changes with every boot of the host."""
    return (proc / "sys/kernel/random/boot_id").read_text("ascii").strip()


def start_ticks(pid: int, proc: Path = PROC) -> int | None:
    """When a process started, or None when there is no such process. A zombie counts as gone."""
    fields = _stat_fields(pid, proc)
    return None if fields is None or fields[0] in {b"Z", b"X"} else int(fields[19])


def process_name(pid: int, proc: Path = PROC) -> ProcessName | None:
    """The lasting name of a process that is there now."""
    ticks = start_ticks(pid, proc)
    return None if ticks is None else ProcessName(boot_id(proc), pid, ticks)


def supervisors_of(sandbox: SandboxId, proc: Path = PROC) -> list[int]:
    """Pids of the supervisors that carry the id. Other users' processes can call themselves so too: see `reap`."""
    return [pid for pid in _pids(proc) if _carries(pid, sandbox, proc)]


def children_of(parents: list[int], proc: Path = PROC) -> list[int]:
    """Pids of their direct children."""
    if not parents:
        return []
    pairs = ((pid, _stat_fields(pid, proc)) for pid in _pids(proc))
    return [pid for pid, fields in pairs if fields is not None and int(fields[1]) in parents]


async def reap(sandbox: SandboxId, facts: Mapping[str, str | int], *, within_s: float = GONE_WITHIN_S) -> None:
    """Kill the supervisor and the program of one sandbox, and return when both are gone. Nothing found is fine.

    Args:
        facts: what `confined` recorded; may be empty, the id alone finds a supervisor that runs.

    Raises:
        Broken: something of it is still there after `within_s`.
    """
    with ExitStack() as stack:
        held: dict[int, int] = {}

        def hold(pid: int, is_it: Callable[[int], bool]) -> None:
            pidfd = _open_if(pid, is_it)
            if pidfd is not None:
                stack.callback(os.close, pidfd)
                held[pid] = pidfd

        for pid in supervisors_of(sandbox):
            hold(pid, lambda pid: _carries(pid, sandbox, PROC) and _is_ours(pid))
        for pid in children_of(list(held)):
            hold(pid, lambda pid: pid in children_of(list(held)))
        for name in recorded(facts):
            _hold_named(hold, name)
        for pidfd in held.values():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        with anyio.move_on_after(within_s) as scope:
            for pidfd in held.values():
                await anyio.wait_readable(pidfd)
        if scope.cancelled_caught:
            raise Broken(f"processes of sandbox {sandbox} do not die: {sorted(held)}")


async def wait_gone(name: ProcessName) -> None:
    """Return when a process, anybody's child, has ended; at once if it already has."""
    pidfd = _open_if(name.pid, lambda pid: process_name(pid) == name)
    if pidfd is None:
        return
    try:
        await anyio.wait_readable(pidfd)
    finally:
        os.close(pidfd)


def recorded(facts: Mapping[str, str | int]) -> Iterator[ProcessName]:
    """The processes that the facts of a sandbox name, the supervisor first. One of an earlier boot matches nothing."""
    boot = str(facts.get("boot_id", ""))
    for pid, ticks in (("supervisor_pid", "supervisor_ticks"), ("pid", "start_ticks")):
        if pid in facts and ticks in facts:
            yield ProcessName(boot, int(facts[pid]), int(facts[ticks]))


def _hold_named(hold: Callable[[int, Callable[[int], bool]], None], name: ProcessName) -> None:
    hold(name.pid, lambda pid: process_name(pid) == name)


def _open_if(pid: int, is_it: Callable[[int], bool]) -> int | None:
    """A pidfd, if the process is the one that is meant. Opened first, compared then: it never comes to mean another."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    if is_it(pid):
        return pidfd
    os.close(pidfd)
    return None


def _pids(proc: Path) -> Iterator[int]:
    return (int(entry.name) for entry in proc.iterdir() if entry.name.isdigit())


def _carries(pid: int, sandbox: SandboxId, proc: Path) -> bool:
    try:
        words = (proc / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return words[:2] == [PROCESS_NAME.encode(), sandbox.encode()]


def _is_ours(pid: int) -> bool:
    """Anybody may give a process our name; only one of our own uid is killed for it."""
    try:
        status = (PROC / str(pid) / "status").read_text("ascii", "replace")
    except OSError:
        return False
    return f"\nUid:\t{os.geteuid()}\t" in status


def _stat_fields(pid: int, proc: Path) -> list[bytes] | None:
    """Fields of `/proc/PID/stat` from the third (state) on; the name before them may hold anything."""
    try:
        return (proc / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
