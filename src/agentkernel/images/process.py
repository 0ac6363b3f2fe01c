"""Run programs: their output read, their death certain when we are cancelled or killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import anyio
from anyio.abc import ByteReceiveStream, Process
from anyio.streams.text import TextReceiveStream

from agentkernel.images.trouble import ChildError

_STDOUT_CAP = 64 << 20
"""Characters of output kept; a package list with digests is below 1 MiB."""
_TAIL_LINES = 60


def plain_environment(**more: str) -> dict[str, str]:
    """What our children see: the caller's PATH and proxies, messages in English, nothing else."""
    passed = ("PATH", "HOME", "http_proxy", "https_proxy", "no_proxy", "TMPDIR")
    return {name: os.environ[name] for name in passed if name in os.environ} | {"LC_ALL": "C.UTF-8"} | more


def caller_environment(prefix: str) -> dict[str, str]:
    """The plain environment and the caller's variables that begin with `prefix`."""
    return plain_environment() | {name: value for name, value in os.environ.items() if name.startswith(prefix)}


async def run(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    on_line: Callable[[str], None] | None = None,
    pass_fds: Sequence[int] = (),
) -> str:
    """Run a program to its end and return its standard output.

    It has a session of its own; a cancelled caller kills all of it. Its standard input is a pipe that only this process
    holds open, so a script can see us go even where the parent-death signal does not reach (new user namespaces clear
    it).

    Raises:
        ChildError: it ended with a status other than 0; carries the end of its output.
    """
    command = [str(part) for part in argv]
    program = Path(command[0]).name
    guard = shutil.which("setpriv")
    process = await anyio.open_process(
        [guard, "--pdeathsig", "KILL", *command] if guard else command,
        stdin=subprocess.PIPE,
        env=dict(plain_environment() if env is None else env),
        cwd=cwd,
        start_new_session=True,
        pass_fds=pass_fds,
    )
    output = _Output(on_line)
    try:
        await output.read(process)
        status = await process.wait()
    finally:
        with anyio.CancelScope(shield=True):
            _kill_session(process)
            await process.aclose()
    if status != 0:
        raise ChildError(program, status, output.tail())
    return output.text()


def _kill_session(process: Process) -> None:
    """SIGKILL to what is left of the session, the leader included while we have not reaped it."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


class _Output:
    """Standard output kept whole up to a cap; of both streams the last lines, for the error."""

    def __init__(self, on_line: Callable[[str], None] | None) -> None:
        self._on_line = on_line
        self._kept: list[str] = []
        self._room = _STDOUT_CAP
        self._last: deque[str] = deque(maxlen=_TAIL_LINES)

    async def read(self, process: Process) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._pump, process.stdout, True)
            tasks.start_soon(self._pump, process.stderr, False)

    async def _pump(self, stream: ByteReceiveStream | None, keep: bool) -> None:
        if stream is None:
            return
        rest = ""
        async for chunk in TextReceiveStream(stream, errors="replace"):
            if keep and self._room > 0:
                self._kept.append(chunk[: self._room])
                self._room -= len(chunk)
            *lines, rest = (rest + chunk).split("\n")
            for line in lines:
                self._line(line)
            rest = rest[-4096:]
        if rest:
            self._line(rest)

    def _line(self, line: str) -> None:
        self._last.append(line)
        if self._on_line is not None:
            self._on_line(line)

    def text(self) -> str:
        return "".join(self._kept)

    def tail(self) -> str:
        return "\n".join(self._last)
