"""`agentkernel run -- true` as a whole process, over the same command by the protocol, beside a bare interpreter."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from common import Daemon, Report, arguments, daemon, interleaved_ms, say, timed_ms

PYTHON = sys.executable
BARE = [PYTHON, "-I", "-c", "import socket, json"]
PROGRAM = [str(Path(PYTHON).with_name("agentkernel")), "run", "--", "true"]
WHOLE, IN_SANDBOX, INTERPRETER = "agentkernel run -- true", "  the same exec_start by the protocol", "python -I -c ..."


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__, rounds=100, vm_rounds=6)
    report = Report("cli")
    say("simulated guests")
    with daemon(simulated=True, min_warm=2) as running:
        _compare(report, running, "simulated guest: ", options.rounds)
    if options.vm_rounds:
        say("microVMs")
        with daemon() as running:
            _compare(report, running, "microVM: ", options.vm_rounds)
    report.finish(as_json=options.json)


def _compare(report: Report, running: Daemon, where: str, rounds: int) -> None:
    """What the program costs over its sandbox, as a multiple of what an interpreter costs that imports the least."""

    def started(argv: list[str]) -> Callable[[], object]:
        return lambda: subprocess.run(argv, env=running.environ, check=True, stdin=subprocess.DEVNULL)

    with running.connect() as connection:
        connection.ask("prewarm", compatibility_mode="native")
        samples: dict[str, list[float]] = {WHOLE: [], IN_SANDBOX: [], INTERPRETER: []}
        actions = {WHOLE: started(PROGRAM), IN_SANDBOX: lambda: _by_protocol(running)}
        for _ in range(rounds):
            for name, action in actions.items():
                running.wait_warm(connection)
                samples[name].append(timed_ms(action))
            bare = interleaved_ms({INTERPRETER: started(BARE)}, 1)
            samples[INTERPRETER] += bare[INTERPRETER]
    for name, kept in samples.items():
        report.add(where + name, kept)
    own = report.p50(where + WHOLE) - report.p50(where + IN_SANDBOX)
    bare_ms = report.p50(where + INTERPRETER)
    report.note(f"{where}over the sandbox {own:.1f} ms, {own / bare_ms:.2f} times the bare interpreter (wanted: 1.3)")


def _by_protocol(running: Daemon) -> None:
    """What `run` asks for, and nothing else."""
    message = {"cmd": "exec_start", "runtime": "base", "command": ["true"], "request_id": "run"}
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(running.home / "daemon.sock"))
        client.sendall(json.dumps(message).encode() + b"\n")
        received = b""
        while b'"type":"exit"' not in received:
            received += client.recv(65536)
            if b'"type":"error"' in received:
                raise RuntimeError(received.decode())


if __name__ == "__main__":
    sys.exit(main())
