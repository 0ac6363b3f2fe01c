"""One command in a microVM: fresh and warm, and over a lease, by stage; beside the container engine that is here."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import Any

from common import Daemon, Report, arguments, daemon, interleaved_ms, say, timed_ms

from agentkernel.client import Connection

STATIC = "/bin/busybox true"
COMMANDS = {
    STATIC: ("base", ["/bin/busybox", "true"]),
    "sh -c true": ("base", ["sh", "-c", "true"]),
    "python3 -c pass": ("python", ["python3", "-c", "pass"]),
}
MODE_OF = {"base": "native", "python": "claude"}
PEER_IMAGE = "busybox"


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__, rounds=15, lease_rounds=100)
    report = Report("exec")
    for name, (runtime, command) in COMMANDS.items():
        say(f"fresh: {name}")
        with daemon() as running, running.connect() as connection:
            report.add(f"exec, fresh microVM: {name}", _fresh(running, connection, runtime, command, options.rounds))
            if name == STATIC:
                report.stages("  ", running.timings())
    with daemon() as running, running.connect() as connection:
        say("over a lease")
        for name, (runtime, command) in COMMANDS.items():
            samples = _leased(running, connection, runtime, command, options.lease_rounds)
            report.add(f"exec, lease: {name}", samples)
            if name == STATIC:
                report.stages("  ", running.timings())
    _peers(report, options.rounds)
    report.finish(as_json=options.json)


def _fresh(running: Daemon, connection: Connection, runtime: str, command: list[str], rounds: int) -> list[float]:
    """Each in a sandbox that was warm, while nothing boots."""
    mode = MODE_OF[runtime]
    connection.ask("prewarm", compatibility_mode=mode)
    request: dict[str, Any] = {"runtime": runtime, "command": command, "compatibility_mode": mode}
    samples: list[float] = []
    while len(samples) < rounds:
        running.wait_warm(connection)
        replies: list[dict[str, Any]] = []
        took = timed_ms(lambda kept=replies: kept.append(connection.ask("exec", **request)))  # type: ignore[misc]
        if replies[0]["exit_code"] or not replies[0]["warm"]:
            raise RuntimeError(f"not a warm success: {replies[0]}")
        samples.append(took)
    return samples


def _leased(running: Daemon, connection: Connection, runtime: str, command: list[str], rounds: int) -> list[float]:
    lease = connection.ask("acquire", runtime=runtime, compatibility_mode=MODE_OF[runtime])["id"]
    running.wait_warm(connection)
    connection.ask("exec", runtime=runtime, command=command, sandbox=lease)
    samples = [
        timed_ms(lambda: connection.ask("exec", runtime=runtime, command=command, sandbox=lease)) for _ in range(rounds)
    ]
    connection.ask("release", id=lease)
    return samples


def _peers(report: Report, rounds: int) -> None:
    """`docker run` and `docker exec` of the same program, where an engine answers and has the image or gets it."""
    docker = shutil.which("docker") or shutil.which("podman")
    if not docker or _run(docker, "version") or _run(docker, "run", "--rm", PEER_IMAGE, "true"):
        report.note("docker and podman: no engine answers here, or it has no image; no comparison")
        return
    held = subprocess.run(
        [docker, "run", "--detach", "--rm", PEER_IMAGE, "sleep", "600"], capture_output=True, text=True, check=True
    ).stdout.strip()
    try:
        actions = {
            "docker run --rm": lambda: _run(docker, "run", "--rm", "--network=none", PEER_IMAGE, "true"),
            "docker exec": lambda: _run(docker, "exec", held, "true"),
        }
        for name, samples in interleaved_ms(actions, rounds).items():
            report.add(name, samples)
    finally:
        _run(docker, "kill", held)


def _run(*argv: str) -> int:
    return subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
