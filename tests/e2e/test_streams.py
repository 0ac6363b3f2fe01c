"""`exec_start`: events, input, signals, credit, cancellation; archives into leases; the guest protocol behind
`vsock_path`.
"""

from __future__ import annotations

import base64
import io
import json
import socket
import struct
import tarfile
from typing import Any

import pytest
from tests.support.daemons import Daemon

from agentkernel.client import Connection, DaemonError

pytestmark = pytest.mark.vm


def start(connection: Connection, lease: str, *command: str, **fields: Any) -> None:
    """Begin a stream called `s`."""
    connection.send(
        {
            "cmd": "exec_start",
            "request_id": "s",
            "runtime": "python",
            "sandbox": lease,
            "command": list(command),
            **fields,
        }
    )


def events(connection: Connection) -> list[dict[str, Any]]:
    """Everything up to the stream's end, output granted back as it comes."""
    seen = []
    while True:
        event = connection.receive()
        seen.append(event)
        if event["type"] in {"exit", "error"}:
            return seen
        if event["type"] in {"stdout", "stderr"}:
            size = len(base64.b64decode(event["data_base64"]))
            connection.send({"cmd": "credit", "request_id": "s", "bytes": size})


def output(seen: list[dict[str, Any]], kind: str = "stdout") -> bytes:
    """What one stream carried."""
    return b"".join(base64.b64decode(event["data_base64"]) for event in seen if event["type"] == kind)


def test_a_stream_tells_start_output_and_exit_in_order(connection: Connection, lease: str) -> None:
    start(connection, lease, "sh", "-c", "echo out; echo err >&2; exit 3")
    seen = events(connection)
    assert (seen[0]["type"], seen[0]["isolation"] in {"vm", "vm-emulated"}) == ("started", True)
    assert seen[0]["pid"] > 1
    assert (output(seen), output(seen, "stderr")) == (b"out\n", b"err\n")
    assert (seen[-1]["type"], seen[-1]["exit_code"]) == ("exit", 3)


def test_input_goes_in_chunk_by_chunk_and_comes_back(connection: Connection, lease: str) -> None:
    start(connection, lease, "cat", stdin_open=True, stdin=base64.b64encode(b"first ").decode())
    chunk = bytes(range(256)) * 256
    received = b""
    assert connection.receive()["type"] == "started"
    for number in range(8):
        message = {"cmd": "exec_stdin", "request_id": "s", "data_base64": base64.b64encode(chunk).decode()}
        connection.send(message)
        accepted = None
        while accepted is None or len(received) < 6 + (number + 1) * len(chunk):
            event = connection.receive()
            if event["type"] == "accepted":
                accepted = event["of"]
            else:
                received += base64.b64decode(event["data_base64"])
                connection.send({"cmd": "credit", "request_id": "s", "bytes": len(chunk)})
        assert accepted == "exec_stdin"
    connection.send({"cmd": "exec_close_stdin", "request_id": "s"})
    assert events(connection)[-1]["exit_code"] == 0
    assert received == b"first " + chunk * 8


def test_input_that_was_not_announced_is_refused_and_the_program_goes_on(connection: Connection, lease: str) -> None:
    start(connection, lease, "sh", "-c", "sleep 0.5; echo done")
    connection.send({"cmd": "exec_stdin", "request_id": "s", "data_base64": "aGk="})
    refusals = []
    while True:
        event = connection.receive()
        if event["type"] == "error":
            refusals.append(event)
        if event["type"] == "exit":
            break
    assert event["exit_code"] == 0
    assert [refusal["hint"] for refusal in refusals] == ["ask for it with stdin_open"]


def test_a_signal_reaches_the_program_though_it_never_reads_its_input(connection: Connection, lease: str) -> None:
    start(
        connection,
        lease,
        "sh",
        "-c",
        "trap 'echo caught; exit 9' USR1; echo ready; while :; do sleep 0.1; done",
        stdin_open=True,
    )
    while connection.receive()["type"] != "stdout":
        pass
    chunk = base64.b64encode(b"x" * 65536).decode()
    for _ in range(12):
        connection.send({"cmd": "exec_stdin", "request_id": "s", "data_base64": chunk})
    connection.send({"cmd": "exec_signal", "request_id": "s", "signal": 10})
    seen = []
    while not seen or seen[-1]["type"] != "exit":
        seen.append(connection.receive())
    assert output(seen) == b"caught\n"
    assert seen[-1]["exit_code"] == 9


def test_cancelling_kills_the_tree_and_the_stream_still_ends_with_exit(connection: Connection, lease: str) -> None:
    start(connection, lease, "sh", "-c", "sleep 600 & sleep 601")
    assert connection.receive()["type"] == "started"
    connection.send({"cmd": "exec_cancel", "request_id": "s"})
    seen = [connection.receive(), connection.receive()]
    assert {event["type"] for event in seen} == {"accepted", "exit"}
    assert next(event for event in seen if event["type"] == "exit")["exit_code"] == 137


def test_a_reader_that_stops_stops_its_own_program_and_nobody_else(daemon: Daemon, lease: str) -> None:
    with daemon.connect() as stuck, daemon.connect() as other:
        start(stuck, lease, "cat", "/dev/zero")
        # Nothing is granted: the stream comes to rest at its window, and the other client does not notice.
        for _ in range(3):
            reply = other.ask("exec", runtime="python", sandbox=lease, command=["echo", "quick"])
            assert reply["stdout"] == "quick\n"
        received = 0
        while received < 1 << 20:
            event = stuck.receive()
            received += len(base64.b64decode(event.get("data_base64", "")))
        assert received < (1 << 20) + 65536
        stuck.send({"cmd": "exec_cancel", "request_id": "s"})
        assert events(stuck)[-1]["exit_code"] == 137


def test_a_program_that_cannot_start_ends_its_stream_with_the_reason(connection: Connection, lease: str) -> None:
    start(connection, lease, "no-such-program")
    (only,) = events(connection)
    assert (only["type"], only["exit_code"]) == ("exit", 127)
    assert "no-such-program" in only["problem"]


def test_two_streams_with_one_name_are_refused_and_the_first_goes_on(connection: Connection, lease: str) -> None:
    start(connection, lease, "sh", "-c", "sleep 1; echo first")
    start(connection, lease, "echo", "second")
    seen = []
    while not seen or seen[-1]["type"] != "exit":
        seen.append(connection.receive())
    assert [event["type"] for event in seen if event["type"] == "error"] == ["error"]
    assert output(seen) == b"first\n"


def packed(*members: tuple[str, bytes]) -> bytes:
    """A tar archive of regular files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def put(connection: Connection, lease: str, archive: bytes, path: str = "/workspace/put") -> dict[str, Any]:
    """Send an archive in two chunks."""
    half = len(archive) // 2
    for chunk, more in ((archive[:half], True), (archive[half:], False)):
        reply = connection.ask(
            "archive_put", id=lease, path=path, content_base64=base64.b64encode(chunk).decode(), more=more
        )
    return reply


def test_an_archive_is_extracted_below_its_folder(connection: Connection, lease: str) -> None:
    assert put(connection, lease, packed(("a/b.txt", b"hello"), ("c", b"x" * 200_000)))["entries"] == 2
    reply = connection.ask(
        "exec", runtime="python", sandbox=lease, command=["sh", "-c", "cat a/b.txt; wc -c < c"], cwd="/workspace/put"
    )
    assert reply["stdout"] == "hello200000\n"


def test_an_archive_that_leaves_its_folder_is_refused_and_the_next_is_taken(connection: Connection, lease: str) -> None:
    with pytest.raises(DaemonError, match=r"escape") as refusal:
        put(connection, lease, packed(("../escape", b"x" * 2000)))
    assert refusal.value.code == "invalid"
    assert put(connection, lease, packed(("fine", b"x")))["entries"] == 1


class GuestClient:
    """A client of the original guest protocol, as its page describes it."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(path)
        self.socket.sendall(b"CONNECT 52000\n")
        greeting = b""
        while not greeting.endswith(b"\n"):
            greeting += self.socket.recv(1)
        assert greeting.startswith(b"OK ")

    def ask(self, **message: Any) -> dict[str, Any]:
        """One frame and its answer."""
        body = json.dumps({"id": "1", **message}).encode()
        self.socket.sendall(struct.pack("<I", len(body)) + body)
        (size,) = struct.unpack("<I", self.exactly(4))
        reply: dict[str, Any] = json.loads(self.exactly(size))
        assert reply["id"] == "1"
        return reply

    def exactly(self, size: int) -> bytes:
        """So many bytes."""
        received = b""
        while len(received) < size:
            received += self.socket.recv(size - len(received))
        return received


def test_the_guest_protocol_runs_commands_and_moves_files(connection: Connection) -> None:
    acquired = connection.ask("acquire", runtime="base", env={"FROM_LEASE": "yes"})
    guest = GuestClient(acquired["vsock_path"])
    try:
        assert guest.ask(type="ping")["exit_code"] == 0
        ran = guest.ask(type="run", command=["sh", "-c", "echo $FROM_LEASE $X; pwd"], cwd="/tmp", env={"X": "1"})
        assert (ran["exit_code"], ran["stdout"], ran["stderr"]) == (0, "yes 1\n/tmp\n", "")
        content = base64.b64encode(b"\x00\xffbytes").decode()
        assert guest.ask(type="mkdir", path="/workspace/a/b", recursive=True)["exit_code"] == 0
        assert guest.ask(type="write_file", path="/workspace/a/b/f", content_base64=content)["exit_code"] == 0
        assert guest.ask(type="read_file", path="/workspace/a/b/f")["content_base64"] == content
        assert guest.ask(type="remove_file", path="/workspace/a/b/f")["exit_code"] == 0
        assert "No such file" in guest.ask(type="read_file", path="/workspace/a/b/f")["error"]
        assert guest.ask(type="shell", command=["sh"], rows=24, cols=80)["error"].startswith("Unsupported: ")
        assert guest.ask(type="dance")["error"].startswith("Invalid request: ")
        assert guest.ask(type="run", command=["no-such-program"])["exit_code"] == 127
    finally:
        guest.socket.close()
        connection.ask("release", id=acquired["id"])


def test_any_other_port_is_closed_and_the_socket_ends_with_its_lease(connection: Connection) -> None:
    acquired = connection.ask("acquire", runtime="base")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(acquired["vsock_path"])
        client.sendall(b"CONNECT 1024\n")
        assert client.recv(100) == b""
    connection.ask("release", id=acquired["id"])
    with pytest.raises((FileNotFoundError, ConnectionRefusedError)):
        for _ in range(1000):  # the socket goes beside the reply, not before it
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(acquired["vsock_path"])


def test_a_deadline_holds_though_its_reader_has_granted_nothing(connection: Connection, lease: str) -> None:
    start(connection, lease, "cat", "/dev/zero", timeout_ms=500)
    seen = []
    while not seen or seen[-1]["type"] not in {"exit", "error"}:
        seen.append(connection.receive())
    assert (seen[-1]["type"], seen[-1]["exit_code"], seen[-1]["timed_out"]) == ("exit", 124, True)
