"""How long a sandbox's commands take while another is bombed: quiet first, then each bomb, on each backend."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import suppress

from common import Daemon, Report, arguments, daemon, say, timed_ms
from engines import COMMAND, engines

from agentkernel.client import Connection, DaemonError

BACKENDS = ("firecracker", "docker", "podman", "gvisor")
"""In the words of requests; of one that does not work here the table says why."""

GRACE_S = 2.0
"""A bomb goes off before the first sample, and goes on after the last."""
BOMBS = {
    "forks": ["perl", "-e", "while (1) { fork }"],
    "memory": ["sh", "-c", "while :; do tail /dev/zero; done"],
    "output": ["cat", "/dev/zero"],
    "load on four": ["sh", "-c", "for n in 1 2 3 4; do (while :; do :; done) & done; wait"],
    "ignores SIGTERM": ["sh", "-c", "trap '' TERM INT HUP; while :; do :; done"],
    "daemons": ["sh", "-c", "for n in 1 2 3 4 5 6 7 8; do (setsid sh -c 'while :; do :; done' &); done; sleep 1000"],
    "zombies": ["perl", "-e", "for (1..200) { fork or exit } sleep 1000"],
    "disk": ["sh", "-c", "while :; do dd if=/dev/zero of=/scratch/bomb bs=1M 2>/dev/null; rm /scratch/bomb; done"],
}


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__, rounds=100, seconds=8)
    report = Report("neighbour")
    with engines() as found, daemon(min_warm=0, config=f"max_warm = 0\n{found.config()}") as running:
        report.notes += found.why_not
        for backend in BACKENDS:
            try:
                _backend(report, running, backend, options.rounds, options.seconds)
            except DaemonError as error:
                report.note(f"{backend}: {error}")
    report.finish(as_json=options.json)


def _backend(report: Report, running: Daemon, backend: str, rounds: int, seconds: int) -> None:
    with running.connect() as connection:
        neighbour = _lease(connection, backend)
        quiet = f"{backend}: quiet"
        say(quiet)
        report.add(quiet, _samples(connection, neighbour, rounds, seconds))
        for name, bomb in BOMBS.items():
            say(f"{backend}: {name}")
            bombed = _lease(connection, backend)
            bomber = threading.Thread(target=_explode, args=(running, bombed, bomb, seconds))
            bomber.start()
            time.sleep(GRACE_S / 2)
            report.add(f"{backend}: {name}", _samples(connection, neighbour, rounds, seconds))
            bomber.join()
            connection.ask("release", id=bombed)
            ratio = report.p50(f"{backend}: {name}") / report.p50(quiet)
            report.note(f"{backend}: {name}: p50 is {ratio:.1f} times the quiet one")
        connection.ask("release", id=neighbour)


def _lease(connection: Connection, backend: str) -> str:
    """A sandbox whose first command is behind it."""
    lease = str(connection.ask("acquire", runtime="base", backend=backend)["id"])
    connection.ask("exec", runtime="base", backend=backend, command=COMMAND, sandbox=lease)
    return lease


def _samples(connection: Connection, lease: str, rounds: int, seconds: int) -> list[float]:
    """As many as there is time for, at least one: a sample that takes long counts with all of its length."""
    until_s = time.monotonic() + seconds
    samples: list[float] = []
    while not samples or (len(samples) < rounds and time.monotonic() < until_s):
        samples.append(timed_ms(lambda: connection.ask("exec", runtime="base", command=COMMAND, sandbox=lease)))
    return samples


def _explode(running: Daemon, lease: str, bomb: list[str], seconds: int) -> None:
    """One bomb until its deadline; a sandbox that ends with it is one of the answers."""
    deadline_ms = int((seconds + GRACE_S) * 1000)
    with running.connect() as connection, suppress(DaemonError):
        connection.ask("exec", runtime="base", command=bomb, sandbox=lease, timeout_ms=deadline_ms)


if __name__ == "__main__":
    sys.exit(main())
