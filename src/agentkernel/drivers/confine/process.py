"""One confined program as a block: entering it starts the program, leaving it ends it."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

import anyio

from agentkernel.drivers.confine.identity import private_uid, uid_range
from agentkernel.drivers.confine.reap import boot_id, start_ticks
from agentkernel.drivers.confine.spec import SUPERVISOR, Confinement, command_line
from agentkernel.drivers.confine.status import Ended, Failed, Spawned, error_of, parse_status
from agentkernel.drivers.contract import Birth
from agentkernel.model.errors import Broken, Unsupported
from agentkernel.model.ids import SandboxId

END_GRACE_S = 5.0
"""How long a killed program may take to be gone before its supervisor is killed too, and how long that one may take."""

RECEIVE_BYTES = 1024


class ConfinedProcess:
    """A program under its supervisor. Made by `confined`.

    Attributes:
        pid: the program, as the host sees it; PID 1 of its own namespace.
        start_ticks: when it started, so that the pid cannot be mistaken for a later one's.
        supervisor_pid: the process that holds it.
        uid: as whom it runs.
    """

    def __init__(self, supervisor_pid: int, control: socket.socket, log_fd: int, *, uid: int) -> None:
        self.pid = 0
        self.start_ticks = 0
        self.supervisor_pid = supervisor_pid
        self.uid = uid
        self._control = control
        self._log_fd = log_fd
        self._received = b""
        self._ended: Ended | None = None
        self._reading = anyio.Lock()
        self._let_go = False

    async def wait_exited(self) -> Ended:
        """Return when the program is gone. Any number of tasks may wait."""
        async with self._reading:
            while self._ended is None:
                line = await self._next_line()
                # A supervisor that ends without a report was killed, and its program with it.
                status = Ended() if line is None else parse_status(line)
                if isinstance(status, Ended):
                    self._ended = status
        return self._ended

    def kill(self) -> None:
        """End the program and all that it started, at once. Nothing to do is fine."""
        self._command(b"X")

    def keep(self) -> None:
        """Let it outlive a crash of this daemon: then only `reap` ends it."""
        self._command(b"K")

    def let_go(self) -> None:
        """Keep it, and let it run on when the block is left: for a named sandbox, when the daemon stops."""
        self.keep()
        self._let_go = True

    def last_words(self) -> str:
        """What it wrote to stdout and stderr so far, the first `log_bytes` of it."""
        size = os.fstat(self._log_fd).st_size
        return os.pread(self._log_fd, size, 0).rstrip(b"\0").decode("utf-8", "replace")

    async def _started(self, program: str) -> Spawned:
        line = await self._next_line()
        match parse_status(line) if line is not None else None:
            case Spawned() as spawned:
                self.pid, self.start_ticks = spawned.pid, spawned.start_ticks
                return spawned
            case Failed() as failed:
                raise error_of(failed, program)
            case other:
                raise Broken(f"the supervisor of {program} died: {other}")

    async def _next_line(self) -> str | None:
        while b"\n" not in self._received:
            await anyio.wait_readable(self._control)
            try:
                some = self._control.recv(RECEIVE_BYTES)
            except BlockingIOError:
                continue
            except ConnectionResetError:
                some = b""
            if not some:
                return None
            self._received += some
        line, _, self._received = self._received.partition(b"\n")
        return line.decode("utf-8", "replace")

    def _command(self, byte: bytes) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):
            self._control.send(byte)

    async def _end(self) -> None:
        """Kill and reap both. A supervisor that is itself killed takes the program with it (parent death signal)."""
        if self._let_go:
            return
        pidfd = os.pidfd_open(self.supervisor_pid)  # our child, not reaped: the pid is still its own
        try:
            with anyio.move_on_after(END_GRACE_S, shield=True):
                self.kill()
                await self.wait_exited()
                await anyio.wait_readable(pidfd)
        finally:
            with anyio.move_on_after(END_GRACE_S, shield=True):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                await anyio.wait_readable(pidfd)
            os.close(pidfd)
            _reap(self.supervisor_pid)


def _reap(pid: int) -> None:
    """Never blocks: a process that does not die even now stays a zombie of ours."""
    os.waitpid(pid, os.WNOHANG)


def _bounded_log(size: int) -> int:
    """A file in memory that cannot grow: output past its end fails in the kernel, whoever lives to read it."""
    log_fd = os.memfd_create("log", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(log_fd, size)
    fcntl.fcntl(log_fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
    return log_fd


def _uid_for(spec: Confinement, sandbox: SandboxId) -> int | None:
    if os.geteuid() != 0:
        return None
    if spec.uid is not None:
        return spec.uid
    return private_uid(sandbox, within=uid_range(Path("/proc/self/uid_map").read_text("ascii")))


def _spawn(argv: tuple[str, ...], pass_fds: tuple[int, ...]) -> int:
    """Start the supervisor; returns its pid.

    `posix_spawn` shares our memory until exec, so it stays fast in a big daemon. A dup2 of a descriptor onto itself
    clears close-on-exec in the child alone (posix_spawn_file_actions_adddup2(3)): no thread's other child gets it.
    """
    streams = [(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDWR, 0), *((os.POSIX_SPAWN_DUP2, 0, fd) for fd in (1, 2))]
    passed = [(os.POSIX_SPAWN_DUP2, fd, fd) for fd in pass_fds]
    try:
        return os.posix_spawn(SUPERVISOR, argv, {}, file_actions=[*streams, *passed])
    except (FileNotFoundError, PermissionError) as error:
        raise Unsupported(f"the supervisor {SUPERVISOR.name} cannot be run: {error}", hint="make -C host") from error


def _launch(spec: Confinement, sandbox: SandboxId, stack: ExitStack) -> ConfinedProcess:
    uid = _uid_for(spec, sandbox)
    ours, theirs = socket.socketpair()
    stack.callback(ours.close)
    ours.setblocking(False)
    with theirs:
        log_fd = _bounded_log(spec.log_bytes)
        stack.callback(os.close, log_fd)
        argv = command_line(spec, sandbox, control_fd=theirs.fileno(), log_fd=log_fd, uid=uid)
        pid = _spawn(argv, (theirs.fileno(), log_fd, *spec.pass_fds, *spec.group_fds))
    return ConfinedProcess(pid, ours, log_fd, uid=os.geteuid() if uid is None else uid)


@asynccontextmanager
async def confined(spec: Confinement, birth: Birth) -> AsyncIterator[ConfinedProcess]:
    """A confined program that runs; leaving the block kills and reaps it, whatever happened inside.

    Its processes are recorded through `birth` as `supervisor_pid`, `supervisor_ticks`, `pid`, `start_ticks`,
    `boot_id` and `uid`, which is what `reap` looks for. The supervisor is also found by the id in its name.

    Raises:
        Unsupported: this host does not let us confine anything; the message says what is missing.
        Broken: the program did not start.
    """
    with ExitStack() as stack:
        process = _launch(spec, birth.id, stack)
        try:
            supervisor_ticks = start_ticks(process.supervisor_pid)
            spawned = await process._started(spec.argv[0])
            await birth.record(
                supervisor_pid=process.supervisor_pid,
                supervisor_ticks=supervisor_ticks or 0,
                pid=spawned.pid,
                start_ticks=spawned.start_ticks,
                boot_id=boot_id(),
                uid=process.uid,
            )
            yield process
        finally:
            await process._end()
