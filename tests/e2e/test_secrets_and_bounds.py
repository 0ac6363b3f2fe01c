"""Names that are rights stay out of logs and process lists; what one connection may have under way is bounded."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.support.daemons import Daemon, family_of

from agentkernel.client import Connection

pytestmark = pytest.mark.vm


def command_lines(pid: int) -> str:
    """Of a process and all that descend from it."""
    texts = []
    for member in family_of(pid):
        try:
            texts.append(Path(f"/proc/{member}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return "\n".join(texts)


def test_a_lease_and_its_socket_are_named_at_random_and_nowhere_else(daemon: Daemon, connection: Connection) -> None:
    first, second = (connection.ask("acquire", runtime="base") for _ in range(2))
    try:
        running = command_lines(daemon.pid)
        connection.ask("exec", runtime="base", command=["true"], sandbox=first["id"])
    finally:
        for lease in (first, second):
            connection.ask("release", id=lease["id"])
    assert re.search(r"agentkernel-sandbox [0-9a-f]{32} ", running), "the control: names of sandboxes are seen"
    secrets = [lease["id"] for lease in (first, second)]
    assert all(re.fullmatch(r"[0-9a-f]{32}", secret) for secret in secrets), "128 bits"
    names = [Path(lease["vsock_path"]).name for lease in (first, second)]
    assert all(re.fullmatch(r"[\w-]{22}", name) for name in names), "128 bits"
    assert len({*secrets, *names}) == 4
    log = daemon.log()
    assert "listening" in log, "the control: this is what was logged"
    for secret in (*secrets, *names):
        assert secret not in running
        assert secret not in log


def test_one_request_too_many_with_an_id_is_busy_and_the_others_go_on(daemon: Daemon, lease: str) -> None:
    with daemon.connect() as connection:
        for number in range(65):
            connection.send(
                {
                    "cmd": "exec",
                    "runtime": "base",
                    "command": ["sleep", "100"],
                    "sandbox": lease,
                    "timeout_ms": 1000,
                    "request_id": f"r{number}",
                }
            )
        replies = [connection.receive() for _ in range(65)]
    refused = [reply for reply in replies if reply["type"] == "error"]
    assert [(reply["request_id"], reply["code"], reply["retryable"]) for reply in refused] == [("r64", "busy", True)]
    assert "requests of this connection" in refused[0]["message"]
    assert all(reply["timed_out"] for reply in replies if reply["type"] == "executed")
