"""The wire contract, by a client of ten lines that shares no code with us."""

from __future__ import annotations

import base64
import json
import re
import socket
import time
from typing import Any

import pytest
from tests.support.daemons import Daemon
from tests.support.original_shapes import decode

pytestmark = pytest.mark.vm


def lines_for(path: str, *messages: dict[str, Any] | bytes) -> list[bytes]:
    """The ten lines: send each message as a line, close the sending side, read a line for each."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(180)
    client.connect(path)
    for message in messages:
        client.sendall(message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n")
    client.shutdown(socket.SHUT_WR)
    with client.makefile("rb") as answers:
        lines = answers.readlines()
    client.close()
    return lines


def ask(path: str, *messages: dict[str, Any] | bytes) -> list[dict[str, Any]]:
    """The replies, parsed."""
    return [json.loads(line) for line in lines_for(path, *messages)]


EXEC = {"cmd": "exec", "runtime": "base", "command": ["echo", "hello"]}


def test_every_original_message_is_answered_in_a_shape_that_an_original_client_can_parse(daemon: Daemon) -> None:
    (acquired,) = lines_for(daemon.socket, {"cmd": "acquire", "runtime": "base"})
    lines = lines_for(
        daemon.socket,
        {"cmd": "status"},
        EXEC,
        {"cmd": "release", "id": json.loads(acquired)["id"]},
        {"cmd": "release", "id": "unknown"},
        {"cmd": "prewarm", "compatibility_mode": "nonsense"},
    )
    names = [type(decode(line)).__name__ for line in [acquired, *lines]]
    assert names == ["Acquired", "Status", "Executed", "Released", "Released", "Error"]
    assert json.loads(acquired)["backend"] == "firecracker"
    assert json.loads(lines[1])["stdout"] == "hello\n"


def test_replies_name_the_monitor_and_the_tier_that_really_hold(daemon: Daemon) -> None:
    (reply,) = ask(daemon.socket, EXEC)
    assert reply["vmm"] == "qemu"
    assert reply["isolation"] in {"vm", "vm-emulated"}
    (status,) = ask(daemon.socket, {"cmd": "status"})
    assert status["drivers"]["firecracker"]["isolation"] == reply["isolation"]
    assert "firecracker" in status["backends"]


def test_the_kernel_inside_is_not_the_hosts(daemon: Daemon) -> None:
    (reply,) = ask(daemon.socket, {**EXEC, "command": ["uname", "-r"]})
    with open("/proc/sys/kernel/osrelease") as release:
        assert reply["stdout"].strip() != release.read().strip()
    assert re.match(r"\d+\.\d+", reply["stdout"])


def test_a_lease_keeps_its_files_between_commands_and_its_sandbox_is_nobody_elses(daemon: Daemon) -> None:
    (acquired,) = ask(daemon.socket, {"cmd": "acquire", "runtime": "base"})
    here = {**EXEC, "sandbox": acquired["id"]}
    wrote, read, elsewhere, _ = ask(
        daemon.socket,
        {**here, "command": ["sh", "-c", "echo secret > /workspace/f"]},
        {**here, "command": ["cat", "/workspace/f"]},
        {**EXEC, "command": ["cat", "/workspace/f"]},
        {"cmd": "release", "id": acquired["id"]},
    )
    assert (wrote["exit_code"], read["stdout"]) == (0, "secret\n")
    assert elsewhere["exit_code"] == 1
    assert elsewhere["stdout"] == ""
    (gone,) = ask(daemon.socket, {**here, "command": ["true"]})
    assert (gone["type"], gone["code"]) == ("error", "not_found")


def test_optional_fields_reach_the_program(daemon: Daemon, lease: str) -> None:
    content = bytes(range(256))
    fields = {
        "sandbox": lease,
        "env": {"GREETING": "grüß dich", "HOME": "/elsewhere"},
        "cwd": "/tmp",
        "files": [{"path": "f.bin", "content_base64": base64.b64encode(content).decode(), "mode": 0o600}],
        "stdin": base64.b64encode(b"from the caller\n").decode(),
        "request_id": "seven",
    }
    script = 'cat; echo "$GREETING $HOME $PWD"; stat -c "%a %U %s" f.bin; od -An -v -tu1 f.bin | tr -d " \\n" | md5sum'
    (reply,) = ask(daemon.socket, {**EXEC, **fields, "command": ["sh", "-c", script]})
    lines = reply["stdout"].splitlines()
    assert lines[:3] == ["from the caller", "grüß dich /elsewhere /tmp", "600 sandbox 256"]
    assert reply["request_id"] == "seven"


def test_the_user_may_be_root_where_that_is_declared_and_nobody_unknown(daemon: Daemon, lease: str) -> None:
    default, root, number, unknown = ask(
        daemon.socket,
        *(
            {**EXEC, "sandbox": lease, "command": ["id", "-u"], **user}
            for user in ({}, {"user": "root"}, {"user": "1234"})
        ),
        {**EXEC, "sandbox": lease, "command": ["id", "-u"], "user": "nobodyknows"},
    )
    assert [default["stdout"], root["stdout"], number["stdout"]] == ["1000\n", "0\n", "1234\n"]
    assert (unknown["type"], unknown["code"]) == ("error", "invalid")


@pytest.mark.parametrize(
    ("line", "code", "word"),
    [
        (b"{broken\n", "invalid", "Invalid request: "),
        (b"[1]\n", "invalid", "Invalid request: "),
        (b'{"cmd":"dance"}\n', "invalid", "Invalid request: unknown cmd"),
        (b'{"cmd":"exec","runtime":"base"}\n', "invalid", "command"),
        (b'{"cmd":"exec","runtime":"base","command":"ls"}\n', "invalid", "command"),
        (b'{"cmd":"exec","runtime":"base","command":["ls"],"env":null}\n', "invalid", "env"),
        (b'{"cmd":"acquire","runtime":null}\n', "invalid", "runtime"),
        (b'{"cmd":"acquire","runtime":"../../etc"}\n', "invalid", "runtime"),
        (b'{"cmd":"acquire","runtime":"base","backend":"vmware"}\n', "invalid", "backend"),
        (b'{"cmd":"exec","runtime":"base","command":[]}\n', "invalid", "command"),
        (b'{"cmd":"exec","runtime":"base","command":[""]}\n', "invalid", "command"),
        (b'{"cmd":"exec","runtime":"no-such","command":["ls"]}\n', "not_found", "no-such"),
        (b'{"cmd":"exec","runtime":"base","command":["ls"],"cwd":"relative"}\n', "invalid", "cwd"),
        (b'{"cmd":"exec","runtime":"base","command":["ls"],"network":"open"}\n', "unsupported", "network"),
        (b'{"cmd":"exec","runtime":"base","command":["ls"],"profile":"permissive"}\n', "unsupported", "profile"),
        (b'{"cmd":"exec","command":["ls"],"image":"alpine"}\n', "invalid", "registry"),
        (b'{"cmd":"exec","runtime":"base","command":["ls"],"image":"alpine"}\n', "invalid", "exclude"),
        (b'{"cmd":"exec","runtime":"base","command":["ls"],"vmm":"firecracker"}\n', "unsupported", "firecracker"),
        (b'{"cmd":"exec","runtime":"base","command":["ls"],"backend":"docker"}\n', "unsupported", "docker"),
        (b'{"cmd":"exec","runtime":"base","command":["ls"],"backend":"hyperlight"}\n', "unsupported", "wasm"),
        (b'{"cmd":"sandbox_create","id":"x"}\n', "unsupported", "sandbox_create"),
        (b'{"cmd":"sandbox_fork","id":"x"}\n', "not_found", "lease"),
        (b'{"cmd":"sandbox_fork","id":"x","count":17}\n', "invalid", "count"),
        (b'{"cmd":"sandbox_pause","id":"x"}\n', "not_found", "lease"),
        (b'{"cmd":"sandbox_resume","id":"x"}\n', "not_found", "lease"),
        (b'{"cmd":"snapshot_take","id":"x"}\n', "not_found", "lease"),
        (b'{"cmd":"snapshot_restore","snapshot":"../x"}\n', "not_found", "snapshot"),
        (b'{"cmd":"snapshot_remove","snapshot":"' + b"0" * 32 + b'"}\n', "not_found", "snapshot"),
        (b'{"cmd":"exec_signal","request_id":"x","signal":9}\n', "not_found", "x"),
        (b'{"cmd":"archive_put","id":"x","path":"/","content_base64":""}\n', "not_found", "lease"),
        (b'{"cmd":"status","junk":"\xff"}\n', "invalid", "UTF-8"),
        (b'{"cmd":"status","junk":"' + b"x" * (1 << 20) + b'"}\n', "invalid", "longer than"),
    ],
    ids=lambda value: value[:50].decode(errors="replace") if isinstance(value, bytes) else None,
)
def test_what_cannot_be_done_is_said_with_a_code_and_a_hint_and_the_connection_serves_on(
    daemon: Daemon, line: bytes, code: str, word: str
) -> None:
    refusal, good = ask(daemon.socket, line, {"cmd": "status"})
    assert (refusal["type"], refusal["code"]) == ("error", code)
    assert word in refusal["message"] + refusal["hint"]
    assert refusal["hint"], "an error says what to do"
    assert good["type"] == "status"


def test_minimum_isolation_refuses_what_is_weaker_and_lets_pass_what_is_not(daemon: Daemon, lease: str) -> None:
    (status,) = ask(daemon.socket, {"cmd": "status"})
    tier = status["drivers"]["firecracker"]["isolation"]
    accepted, refused = ask(
        daemon.socket,
        {**EXEC, "minimum_isolation": tier},
        {**EXEC, "minimum_isolation": "vm"},
    )
    assert accepted["exit_code"] == 0
    if tier == "vm-emulated":
        assert (refused["type"], refused["code"]) == ("error", "unsupported")
        assert "vm-emulated" in refused["message"]
    else:
        assert refused["exit_code"] == 0


def test_ends_of_programs_are_told_as_a_shell_would(daemon: Daemon, lease: str) -> None:
    def end(*command: str) -> dict[str, Any]:
        return ask(daemon.socket, {**EXEC, "sandbox": lease, "command": list(command)})[0]

    assert end("sh", "-c", "exit 37")["exit_code"] == 37
    assert end("sh", "-c", "kill -SEGV $$")["exit_code"] == 139
    missing = end("no-such-program")
    assert (missing["exit_code"], "no-such-program" in missing["stderr"]) == (127, True)
    assert end("/etc/hostname")["exit_code"] == 126
    separate = end("sh", "-c", "echo out; echo err >&2")
    assert (separate["stdout"], separate["stderr"]) == ("out\n", "err\n")


def test_a_hundred_megabytes_of_output_are_cut_and_counted_and_the_exit_code_survives(
    daemon: Daemon, lease: str
) -> None:
    command = ["sh", "-c", "head -c 100000000 /dev/zero | tr '\\0' x; exit 5"]
    (reply,) = ask(daemon.socket, {**EXEC, "sandbox": lease, "command": command})
    assert reply["exit_code"] == 5
    assert len(reply["stdout"]) == 4 << 20
    assert reply["truncated"] == {"stdout": 100_000_000 - (4 << 20)}


def test_output_that_is_not_utf8_comes_as_text_and_as_bytes(daemon: Daemon, lease: str) -> None:
    (reply,) = ask(daemon.socket, {**EXEC, "sandbox": lease, "command": ["printf", "a\\377b"]})
    assert reply["stdout"] == "a\ufffdb"
    assert base64.b64decode(reply["stdout_base64"]) == b"a\xffb"
    assert "stderr_base64" not in reply


def test_a_ten_minute_sleep_with_a_one_second_timeout_ends_with_its_tree_and_the_output_so_far(
    daemon: Daemon, lease: str
) -> None:
    script = "(setsid sleep 600 &) ; echo before; trap '' TERM; sleep 600"
    began = time.monotonic()
    (reply,) = ask(daemon.socket, {**EXEC, "sandbox": lease, "command": ["sh", "-c", script], "timeout_ms": 1000})
    assert (reply["exit_code"], reply["timed_out"], reply["stdout"]) == (124, True, "before\n")
    assert time.monotonic() - began < 60
    (left,) = ask(daemon.socket, {**EXEC, "sandbox": lease, "command": ["sh", "-c", "ps -eo comm | grep -c sleep"]})
    assert left["stdout"] == "0\n"


def test_a_half_closed_client_gets_all_its_answers_in_order(daemon: Daemon, lease: str) -> None:
    commands = [{**EXEC, "sandbox": lease, "command": ["echo", str(number)]} for number in range(10)]
    assert [reply["stdout"] for reply in ask(daemon.socket, *commands)] == [f"{number}\n" for number in range(10)]


def test_with_a_request_id_a_quick_reply_overtakes_a_slow_one_and_each_is_known_by_it(
    daemon: Daemon, lease: str
) -> None:
    slow = {**EXEC, "sandbox": lease, "command": ["sleep", "1"], "request_id": "slow"}
    replies = ask(daemon.socket, slow, {"cmd": "status", "request_id": "quick"})
    assert [reply["request_id"] for reply in replies] == ["quick", "slow"]


def test_a_client_that_vanishes_has_its_command_killed_and_the_next_one_is_served(daemon: Daemon, lease: str) -> None:
    client = socket.socket(socket.AF_UNIX)
    client.connect(daemon.socket)
    message = {**EXEC, "sandbox": lease, "command": ["sleep", "987"]}
    client.sendall(json.dumps(message).encode() + b"\n")
    count = {**EXEC, "sandbox": lease, "command": ["sh", "-c", "ps -eo args | grep -c '[s]leep 987'"]}
    deadline = time.monotonic() + 60
    while ask(daemon.socket, count)[0]["stdout"] != "1\n":
        assert time.monotonic() < deadline
    client.close()
    while ask(daemon.socket, count)[0]["stdout"] != "0\n":
        assert time.monotonic() < deadline
