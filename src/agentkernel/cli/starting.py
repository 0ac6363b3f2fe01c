"""Start the daemon, or replace one of another version. Not on the hot path: it happens once."""

import json
import os
import socket
import subprocess
import sys
import time

from agentkernel import __version__
from agentkernel.cli.hot import Failure, complain

START_TIMEOUT_S = 30.0
RETRY_S = 0.05
STOP_TIMEOUT_S = 8.0


def start_daemon(path: str) -> None:
    """Returns once a daemon listens at `path`: ours, or that of somebody who was quicker.

    Raises:
        Failure: it did not come up; the message is the daemon's own.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        said = _start()
        if not said or (said.get("code") == "busy" and answers(path)):
            return
        # Busy without an answer: an older one is on its way out and still holds the lock.
        if said.get("code") != "busy" or time.monotonic() > deadline:
            message = said.get("message", "the daemon did not start")
            raise Failure(str(message), str(said.get("hint") or "see: agentkernel daemon start --foreground"))
        time.sleep(RETRY_S)


def answers(path: str) -> bool:
    """Whether somebody accepts connections there."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(path)
        except OSError:
            return False
    return True


def _start() -> dict[str, object]:
    """Start `python -m agentkernel.daemon` in a session of its own; what it says against it, empty when it listens."""
    ready, ready_write = os.pipe()
    try:
        subprocess.Popen(
            [sys.executable, "-m", "agentkernel.daemon", "--ready-fd", str(ready_write)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=[ready_write],
            cwd="/",
        )
    finally:
        os.close(ready_write)
    with open(ready, "rb") as pipe:
        verdict = pipe.read().decode()
    if verdict.startswith("ready"):
        return {}
    said: dict[str, object] = json.loads(verdict) if verdict.startswith("{") else {"message": "the daemon died"}
    return said


def replace_other_version(path: str, hello: dict[str, object]) -> None:
    """Stop an idle daemon of another version; say so and go on with a busy one.

    Raises:
        Failure: it is busy, so that neither may be replaced nor trusted to understand us.
    """
    version, pid = hello.get("version", "unknown"), hello.get("pid", "?")
    if hello.get("busy"):
        raise Failure(
            f"the running daemon is version {version} (pid {pid}) and busy; this is {__version__}",
            "wait until it is idle, or run: agentkernel daemon restart",
        )
    complain(f"replacing the idle daemon of version {version} (pid {pid})")
    stop_daemon(path)


def stop_daemon(path: str) -> bool:
    """Ask it to shut down and wait until it has hung up; False when none was there."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(STOP_TIMEOUT_S)
        try:
            connection.connect(path)
            connection.sendall(b'{"cmd":"shutdown"}\n')
            while connection.recv(65536):
                pass
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except TimeoutError:
            raise Failure("the daemon did not stop in time", "see: agentkernel daemon logs") from None
    return True
