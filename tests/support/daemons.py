"""A real daemon of a test's own: its home in a short temporary folder, its data where the user keeps it (cached)."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agentkernel.client import Connection

STOP_TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running daemon."""

    home: Path
    pid: int

    @property
    def socket(self) -> str:
        """Where it listens."""
        return str(self.home / "daemon.sock")

    @property
    def environment(self) -> dict[str, str]:
        """For programs that should find this daemon."""
        return {**os.environ, "AGENTKERNEL_HOME": str(self.home)}

    def connect(self, *, timeout_s: float = 120.0) -> Connection:
        """A client's connection."""
        return Connection(self.socket, timeout_s=timeout_s)

    def log(self) -> str:
        """What it logged."""
        return (self.home / "daemon.log").read_text(errors="replace")


@contextmanager
def short_home() -> Iterator[Path]:
    """A folder whose path leaves room for socket names; removed at the end."""
    home = Path(tempfile.mkdtemp())
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def started(home: Path, **settings: str) -> Iterator[Daemon]:
    """Start a daemon in `home` with `AGENTKERNEL_*` settings; ended, whatever happened, with the block."""
    environment = {**os.environ, "AGENTKERNEL_HOME": str(home), **settings}
    environment.pop("AGENTKERNEL_SOCKET", None)
    ready, ready_write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "agentkernel.daemon", "--ready-fd", str(ready_write)],
        env=environment,
        pass_fds=[ready_write],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(ready_write)
    try:
        with open(ready, "rb") as pipe:
            verdict = pipe.read()
        assert verdict == b"ready\n", verdict
        yield Daemon(home, process.pid)
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
        process.kill()
        process.wait()


def processes_of(home: Path) -> list[int]:
    """Every process whose command line names this home: daemon, supervisors, QEMU."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if os.fsencode(home) in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


def family_of(pid: int) -> set[int]:
    """A process and all that descend from it."""
    family = {pid}
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if fields[0] not in "ZX":
                    children.setdefault(int(fields[1]), []).append(int(entry.name))
    waiting = [pid]
    while waiting:
        for child in children.get(waiting.pop(), []):
            family.add(child)
            waiting.append(child)
    return family
