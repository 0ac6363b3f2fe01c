"""Pause, forks and snapshots of sandboxes in which programs run: a server, an open file, a counter, a stream."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests import conftest
from tests.support.daemons import Daemon, processes_of, short_home, started
from tests.support.processes import processes_of as programs_of

from agentkernel.client import Connection, DaemonError

pytestmark = pytest.mark.vm

SETTINGS = {
    "AGENTKERNEL_POOL_MAX_SANDBOXES": "5",
    "AGENTKERNEL_POOL_PREWARM": "",
    "AGENTKERNEL_POOL_QUEUE_TIMEOUT_S": "120",
}
SERVER = """
import secrets, socketserver, sys, threading, time
number = 0
class Answer(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(b"%d\\n" % number)
server = socketserver.ThreadingTCPServer(("127.0.0.1", 8000), Answer)
threading.Thread(target=server.serve_forever, daemon=True).start()
log = open("/workspace/log", "w")
while True:
    number += 1
    print(number, file=log, flush=True)
    time.sleep(0.05)
"""
PROBE = """
import secrets, socket
client = socket.create_connection(("127.0.0.1", 8000))
client.sendall(b"now\\n")
number = client.makefile().readline().strip()
log = open("/workspace/log").read().split()
assert log == [str(n) for n in range(1, len(log) + 1)], log
boot = open("/proc/sys/kernel/random/boot_id").read().strip()
machine = open("/etc/machine-id").read().strip()
print(number, len(log), socket.gethostname(), machine, boot, secrets.token_hex(16))
"""
TICKS = "i=0; while :; do i=$((i+1)); echo tick $i; sleep 0.1; done"


@pytest.fixture(scope="module")
def forking(images: None) -> Iterator[Daemon]:
    """A daemon with room for a parent and its children."""
    with short_home() as home, started(home, **SETTINGS) as running:
        conftest.KEPT_ROOTS.add(running.pid)
        yield running
        conftest.KEPT_ROOTS.discard(running.pid)


@pytest.fixture
def caller(forking: Daemon) -> Iterator[Connection]:
    """A client of it."""
    with forking.connect() as connected:
        yield connected


@pytest.fixture(scope="module")
def parent(forking: Daemon) -> Iterator[str]:
    """A lease in which a server listens, a file is open and a number grows."""
    with forking.connect() as connected:
        lease = connected.ask("acquire", runtime="python", env={"WHO": "me"})["id"]
        files = [{"path": "/tmp/server.py", "content_base64": base64.b64encode(SERVER.encode()).decode()}]
        script = "python3 /tmp/server.py >/dev/null 2>&1 & while ! test -s /workspace/log; do sleep 0.1; done"
        ran = connected.ask("exec", runtime="python", sandbox=lease, files=files, command=["sh", "-c", script])
        assert ran["exit_code"] == 0, ran
        yield lease
        connected.ask("release", id=lease)


def run(caller: Connection, lease: str, *command: str) -> str:
    """What a command that succeeds prints there."""
    ran = caller.ask("exec", runtime="python", sandbox=lease, command=list(command))
    assert ran["exit_code"] == 0, ran
    return str(ran["stdout"])


class Seen:
    """What the server in a sandbox says of itself, and who the sandbox is."""

    def __init__(self, caller: Connection, lease: str) -> None:
        number, lines, self.hostname, *self.secrets = run(caller, lease, "python3", "-c", PROBE).split()
        self.number, self.lines = int(number), int(lines)


def numbers_of(caller: Connection, seconds: float) -> list[int]:
    """What a stream of ticks says for some time."""
    text = b""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        event = caller.receive()
        assert event["type"] in {"started", "stdout"}, event
        text += base64.b64decode(event.get("data_base64", ""))
    lines = [line for line in text.decode().splitlines(keepends=True) if line.endswith("\n")]
    assert all(line.startswith("tick ") for line in lines), lines
    return [int(line.split()[1]) for line in lines]


def refusal(caller: Connection, cmd: str, **fields: Any) -> DaemonError:
    """The error that a request is answered by."""
    with pytest.raises(DaemonError) as caught:
        caller.ask(cmd, **fields)
    return caught.value


def test_parent_and_children_of_a_fork_go_on_each_for_itself(forking: Daemon, caller: Connection, parent: str) -> None:
    before = Seen(caller, parent)
    with forking.connect() as stream:
        command = ["sh", "-c", TICKS]
        stream.send(
            {"cmd": "exec_start", "request_id": "s", "runtime": "python", "sandbox": parent, "command": command}
        )
        said = numbers_of(stream, 2)
        forked = caller.ask("sandbox_fork", id=parent, count=3)
        assert (forked["type"], len(set(forked["ids"])), len(set(forked["vsock_paths"]))) == ("forked", 3, 3)
        children = [Seen(caller, child) for child in forked["ids"]]
        said += numbers_of(stream, 2)
        with forking.connect() as other:
            other.send(
                {"cmd": "exec_start", "request_id": "c", "runtime": "python", "sandbox": forked["ids"][0]}
                | {"command": command}
            )
            assert numbers_of(other, 2)[0] == 1, "a stream of a child is its own"
        said += numbers_of(stream, 1)
        assert said == list(range(1, len(said) + 1)), "the parent's stream goes on, and none but it is heard there"
    after = Seen(caller, parent)
    everyone = [after, *children]
    assert all(seen.number >= before.number for seen in everyone), "each counts on from where its parent stood"
    assert all(abs(seen.number - seen.lines) <= 1 for seen in everyone), "and writes to its own file"
    assert len({seen.hostname for seen in everyone}) == 4
    assert len({secret for seen in everyone for secret in seen.secrets}) == 12
    assert run(caller, forked["ids"][1], "sh", "-c", "echo $WHO").strip() == "me"
    run(caller, forked["ids"][1], "sh", "-c", "kill $(pgrep -f [s]erver.py); echo mine > /workspace/only")
    run(caller, parent, "sh", "-c", "pgrep -f [s]erver.py && ! test -e /workspace/only")
    run(caller, forked["ids"][2], "sh", "-c", "pgrep -f [s]erver.py && ! test -e /workspace/only")
    assert refusal(caller, "sandbox_fork", id=parent, count=5).code == "invalid"
    for child in forked["ids"]:
        caller.ask("release", id=child)
    assert Seen(caller, parent).number > after.number


def test_a_paused_sandbox_stands_still_and_then_goes_on(forking: Daemon, caller: Connection, parent: str) -> None:
    before = Seen(caller, parent)
    assert caller.ask("sandbox_pause", id=parent)["type"] == "paused"
    refused = refusal(caller, "exec", runtime="python", sandbox=parent, command=["true"])
    assert (refused.code, "resume" in refused.hint) == ("invalid", True)
    for cmd in ("sandbox_fork", "snapshot_take"):
        assert refusal(caller, cmd, id=parent).code == "invalid"
    assert caller.ask("lease_renew", id=parent)["type"] == "renewed"
    time.sleep(3)
    assert caller.ask("sandbox_resume", id=parent)["type"] == "resumed"
    began = time.monotonic()
    after = Seen(caller, parent)
    assert after.number - before.number < 20 * (time.monotonic() - began) + 40, "three seconds are sixty numbers"
    assert abs(float(run(caller, parent, "date", "+%s.%N")) - time.time()) < 1
    while Seen(caller, parent).number == after.number:
        pass


def test_an_idle_sandbox_costs_no_processor_time_and_is_lent_with_the_right_time(images: None) -> None:
    settings = SETTINGS | {
        "AGENTKERNEL_POOL_PREWARM": "native",
        "AGENTKERNEL_POOL_MIN_WARM": "1",
        "AGENTKERNEL_POOL_MAX_WARM": "1",
        "AGENTKERNEL_POOL_IDLE_PAUSE_S": "1",
    }
    with short_home() as home, started(home, **settings) as daemon, daemon.connect() as caller:
        while not caller.ask("status")["warm"]:
            time.sleep(0.1)
        time.sleep(3)
        used_s = used_by(home)
        time.sleep(5)
        assert used_by(home) - used_s < 0.1
        ran = caller.ask("exec", runtime="base", command=["date", "+%s.%N"])
        assert ran["warm"]
        assert abs(float(ran["stdout"]) - time.time()) < 1


def used_by(home: Path) -> float:
    """Processor time of all QEMUs of a daemon."""
    ticks = 0
    for sandbox in (home / "sandboxes").iterdir():
        words = Path(f"/proc/{programs_of(sandbox.name)['program']}/stat").read_text().rpartition(")")[2].split()
        ticks += int(words[11]) + int(words[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def test_a_snapshot_outlives_its_daemon_and_goes_on_with_files_and_processes(images: None) -> None:
    with short_home() as home:
        with started(home, **SETTINGS) as daemon, daemon.connect() as caller:
            lease = caller.ask("acquire", runtime="base", cwd="/tmp")["id"]
            script = (
                "echo kept > /workspace/f; (while :; do date +%s >> /scratch/beats; sleep 0.1; done) & echo $! > pid"
            )
            run(caller, lease, "sh", "-c", script)
            taken = caller.ask("snapshot_take", id=lease)
            assert taken["size_bytes"] > 1 << 20
            assert taken["snapshot"] not in daemon.log()
            run(caller, lease, "sh", "-c", "echo changed > /workspace/f")
        assert processes_of(home) == []
        with started(home, **SETTINGS) as daemon, daemon.connect() as caller:
            (listed,) = caller.ask("snapshot_list")["snapshots"]
            assert (listed["snapshot"], listed["runtime"]) == (taken["snapshot"], "base")
            again = [caller.ask("snapshot_restore", snapshot=taken["snapshot"]) for _ in range(2)]
            assert [reply["type"] for reply in again] == ["acquired", "acquired"]
            for reply in again:
                script = (
                    "cat /workspace/f; kill -0 $(cat pid) && echo alive; a=$(wc -l < /scratch/beats); sleep 1; "
                    "b=$(wc -l < /scratch/beats); test $b -gt $a && echo beating; echo own > /workspace/f"
                )
                assert run(caller, reply["id"], "sh", "-c", script).split() == ["kept", "alive", "beating"]
            assert caller.ask("snapshot_remove", snapshot=taken["snapshot"])["type"] == "snapshot_removed"
            assert caller.ask("snapshot_list")["snapshots"] == []
            assert refusal(caller, "snapshot_restore", snapshot=taken["snapshot"]).code == "not_found"
            assert refusal(caller, "snapshot_remove", snapshot=taken["snapshot"]).code == "not_found"
            assert list((home / "snapshots").iterdir()) == []


def test_a_snapshot_of_another_qemu_is_refused_and_says_why(forking: Daemon, caller: Connection) -> None:
    lease = caller.ask("acquire", runtime="base")["id"]
    taken = caller.ask("snapshot_take", id=lease)["snapshot"]
    inputs = forking.home / "snapshots" / taken / "made-for.json"
    inputs.write_text(inputs.read_text().replace('"qemu": ["', '"qemu": ["another'))
    refused = refusal(caller, "snapshot_restore", snapshot=taken)
    assert (refused.code, "qemu" in str(refused)) == ("invalid", True)
    state = forking.home / "snapshots" / taken / "state"
    inputs.write_text(inputs.read_text().replace("another", ""))
    with state.open("r+b") as file:
        file.truncate(state.stat().st_size // 2)
    assert refusal(caller, "snapshot_restore", snapshot=taken).code == "broken"
    caller.ask("snapshot_remove", snapshot=taken)
    assert run(caller, lease, "echo", "on") == "on\n"
    caller.ask("release", id=lease)
