"""Start the daemon, or replace one of another version. Not on the hot path: it happens once."""

import json
import os
import socket
import subprocess
import sys

from agentkernel import __version__
from agentkernel.cli.hot import Failure, complain

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 8.0


def start_daemon() -> None:
    """Start `python -m agentkernel.daemon` in a session of its own; returns once it listens.

    Raises:
        Failure: it did not come up; the message is the daemon's own.
    """
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
        return
    said = json.loads(verdict) if verdict.startswith("{") else {}
    if said.get("code") == "busy":
        return  # another one was quicker; it serves us as well
    message = said.get("message", "the daemon did not start")
    raise Failure(str(message), str(said.get("hint") or "see: agentkernel daemon start --foreground"))


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
