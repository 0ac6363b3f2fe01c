"""Attaching, framing, windows between channels, quiescing, ends."""

from __future__ import annotations

import os
import random
import socket
import struct
import subprocess
import time
from pathlib import Path

import pytest

from .peer import (
    CREDIT,
    DATA,
    END,
    ENDING,
    EXEC,
    EXIT,
    FAILED,
    HELLO,
    KILL,
    MKDIR,
    MOUNT,
    MOUNTED,
    PART,
    PING,
    PONG,
    QUIESCE,
    QUIESCED,
    READ,
    REFRESH,
    REFRESHED,
    RESUME,
    SHUTDOWN,
    STARTED,
    STAT,
    STDIN,
    STDOUT,
    WELCOME,
    WINDOW_BYTES,
    WRITE,
    Agent,
    LinkClosedError,
    Peer,
    failure,
    record,
    text,
    texts,
    u32,
    u64,
)

EMFILE, E2BIG = 24, 7


def test_rubbish_before_an_attach_is_thrown_away(peer: Peer) -> None:
    peer.send(b"\xff" * 4)  # a framing error, so that it hunts
    peer.send(os.urandom(50_000) + b"AKLINK-ATT1" + b"AKLI" * 5)
    assert peer.attach() == b""
    peer.greet()
    assert peer.run(["true"]).code == 0


@pytest.mark.parametrize("half", [1, 4, 15, 16, 40])
def test_half_a_frame_and_then_silence_is_ended_by_a_new_epoch_after_its_rest(peer: Peer, half: int) -> None:
    whole = peer.frame(0, HELLO, peer.hello_payload())
    peer.send(whole[:half])
    # A frame is waited for; its rest, here rubbish, makes it whole or wrong, and then ATTACH is found.
    peer.send(b"\xee" * (len(whole) - half))
    peer.attach()
    peer.greet()
    assert peer.run(["true"]).code == 0


def test_frames_of_an_older_epoch_are_a_framing_error(peer: Peer) -> None:
    old = peer.frame(0, PING, u64(1))
    peer.attach()
    peer.greet()
    peer.send(old)
    peer.send(peer.frame(0, PING, u64(2)))
    assert peer.silent_for(0.3)
    peer.attach()
    peer.greet()
    assert peer.ping()


def test_the_echo_is_the_first_thing_written_and_output_of_the_older_epoch_is_dropped(peer: Peer) -> None:
    peer.start(["sh", "-c", "yes"])
    time.sleep(0.3)
    old = peer.tag
    thrown = peer.attach()
    # At most what had been written already; what comes after the ECHO is of the new epoch, or receive() would object.
    assert len(thrown) <= WINDOW_BYTES + 16 * 200
    assert peer.tag != old
    peer.greet()
    peer.ping()
    assert peer.stray == []


def test_two_attach_records_in_one_write_answer_both_and_the_last_one_counts(peer: Peer) -> None:
    first, second = os.urandom(16), os.urandom(16)
    peer.send(record(b"AKLINK-ATT1\n", first))
    peer.attach(second)
    peer.greet()


def test_before_hello_every_other_frame_is_a_framing_error(peer: Peer) -> None:
    peer.attach()
    peer.tell(0, PING, u64(1))
    peer.tell(0, HELLO, peer.hello_payload())
    assert peer.silent_for(0.3)
    peer.attach()
    assert peer.greet().kind == WELCOME  # the positive control


def test_an_unknown_generation_is_answered_with_ours_and_does_not_greet(peer: Peer) -> None:
    peer.attach()
    peer.tell(0, HELLO, u32(2) + b"whatever generation 2 says")
    assert peer.wait_for(0, WELCOME).payload == u32(1) + u32(0) * 3
    peer.tell(0, PING, u64(1))
    assert peer.silent_for(0.3)


def test_every_feature_is_in_exactly_one_list(peer: Peer) -> None:
    payload = peer.greet().payload

    def take_list(at: int) -> tuple[list[str], int]:
        (count,) = struct.unpack_from("<I", payload, at)
        items, at = [], at + 4
        for _ in range(count):
            (length,) = struct.unpack_from("<I", payload, at)
            items.append(payload[at + 4 : at + 4 + length].decode())
            at += 4 + length
        return items, at

    offered, at = take_list(4)
    refused, at = take_list(at)
    facts, at = take_list(at)
    assert at == len(payload)
    known = [
        "exec",
        "stdin",
        "signal",
        "user-root",
        "files",
        "tar-in",
        "pty",
        "tar-out",
        "stream",
        "cgroup",
        "mount",
        "clock",
        "hostname",
    ]
    assert sorted(offered + refused) == sorted(known)
    assert {"pty", "tar-out", "stream", "clock", "mount", "hostname"} <= set(refused)
    assert [fact.split("=")[0] for fact in facts] == [
        "arch",
        "kernel",
        "boot_id",
        "pid1",
        "transport",
        "agent",
        "memory_kib",
    ]
    assert "transport=stdio" in facts


def test_hello_and_refresh_replace_the_generation_file(peer: Peer, tmp_path: Path) -> None:
    watched = tmp_path / "run" / "generation"
    assert watched.read_text() == "1\n"
    before = watched.stat().st_ino
    peer.tell(0, REFRESH, u64(time.time_ns()) + bytes(32))
    assert peer.wait_for(0, REFRESHED).payload == u64(2)
    assert watched.read_text() == "2\n"
    assert watched.stat().st_ino != before
    peer.greet()
    assert watched.read_text() == "3\n"


def test_mount_is_refused_outside_a_machine(peer: Peer) -> None:
    peer.tell(0, MOUNT, text("scratch") + text("ext4") + u32(1000) + texts([]))
    assert peer.wait_for(0, MOUNTED).payload[:4] == u32(95)


def test_the_65th_channel_is_refused_and_a_freed_one_can_be_had_again(peer: Peer) -> None:
    channels = [peer.start(["sleep", "1000"]) for _ in range(64)]
    assert peer.ping()[2] == 64
    assert failure(peer.wait_for(peer.start(["true"]), FAILED))[0] == EMFILE
    assert peer.ask(STAT, text("/")).kind == FAILED
    peer.tell(channels[3], KILL)
    assert peer.finish(channels[3]).how == 1
    assert peer.run(["true"]).code == 0
    for channel in channels[:3] + channels[4:]:
        peer.tell(channel, KILL)
    for channel in channels[:3] + channels[4:]:
        assert peer.finish(channel).code == 9


def test_frames_for_closed_or_reused_channels_are_ignored(peer: Peer) -> None:
    channel = peer.start(["true"])
    peer.finish(channel)
    for kind, payload in ((STDIN, b"late"), (KILL, b""), (CREDIT, u32(5)), (DATA, b"x"), (END, b"")):
        peer.tell(channel, kind, payload)
        peer.tell(999_999, kind, payload)
    peer.tell(channel, EXEC, b"never looked at")
    assert peer.ping()[2] == 0


def test_parts_are_limited_per_channel_and_together(peer: Peer) -> None:
    def send_parts(total: int) -> int:
        channel = peer.channel()
        for _ in range(total // 65536):
            peer.tell(channel, PART, b"x" * 65536)
        return channel

    first = send_parts(2 << 20)
    assert peer.ping()[2] == 1
    peer.tell(first, PART, b"y")
    assert failure(peer.wait_for(first, FAILED))[0] == E2BIG
    second, third = send_parts(2 << 20), send_parts(2 << 20)
    fourth = send_parts(65536)
    assert failure(peer.wait_for(fourth, FAILED))[0] == E2BIG
    assert peer.ping()[2] == 2
    for channel in (second, third):
        peer.tell(channel, 50)
        assert failure(peer.wait_for(channel, FAILED))[0] == 125
    big = "v" * 100_000  # the positive control: a long request works
    assert peer.run(
        ["sh", "-c", "echo ${#BIG} ${#BIG2}"], env={"PATH": "/usr/bin:/bin", "BIG": big, "BIG2": big}
    ).stdout == (b"100000 100000\n")


def test_quiesce_stops_all_writing_until_resume(peer: Peer) -> None:
    channel = peer.start(["sh", "-c", "while :; do echo tick; sleep 0.02; done"])
    peer.wait_for(channel, STDOUT)
    peer.tell(0, QUIESCE)
    peer.wait_for(0, QUIESCED)
    assert peer.buffer == b""
    assert peer.silent_for(0.3)
    peer.tell(0, RESUME)
    assert b"tick" in peer.wait_for(channel, STDOUT).payload
    peer.tell(channel, KILL)
    assert peer.finish(channel).how == 1


def test_quiesce_overtakes_output_that_waits_and_resume_loses_none_of_it(peer: Peer) -> None:
    channel = peer.start(["sh", "-c", "head -c 260000 /dev/zero"])
    time.sleep(0.3)
    peer.tell(0, QUIESCE)
    before, after = [peer.receive()], []
    while before[-1].kind != QUIESCED:
        before.append(peer.receive())
    assert peer.silent_for(0.2)
    peer.tell(0, RESUME)
    if before[-2].kind != EXIT:
        after.append(peer.receive())
    while after and after[-1].kind != EXIT:
        after.append(peer.receive())
    output = [frame for frame in before + after if frame.kind == STDOUT]
    assert {frame.channel for frame in output} == {channel}
    assert sum(len(frame.payload) for frame in output) == 260_000


def test_attach_ends_a_quiesced_state_and_other_frames_are_errors(peer: Peer) -> None:
    peer.tell(0, QUIESCE)
    peer.wait_for(0, QUIESCED)
    peer.attach()
    peer.greet()
    assert peer.ping()
    peer.tell(0, QUIESCE)
    peer.wait_for(0, QUIESCED)
    peer.tell(0, PING, u64(1))
    peer.tell(0, RESUME)
    assert peer.silent_for(0.3)


def test_programs_survive_a_new_epoch_and_never_block_on_output_nobody_reads(peer: Peer, shared: Path) -> None:
    mark = shared / "mark"
    peer.start(["sh", "-c", f"head -c 3000000 /dev/zero; cat; echo done > {mark}"], flags=1)
    time.sleep(0.2)
    assert not mark.exists()
    peer.attach()
    peer.greet()
    for _ in range(200):
        if mark.exists() and mark.read_text():
            break
        time.sleep(0.05)
    assert mark.read_text() == "done\n"


def test_an_endless_writer_stays_within_its_window_and_delays_nobody(peer: Peer) -> None:
    noisy = peer.start(["yes"])
    got = 0
    while got < WINDOW_BYTES:
        got += len(peer.wait_for(noisy, STDOUT).payload)
    began = time.monotonic()
    peer.ping()
    assert peer.run(["echo", "beside it"]).stdout == b"beside it\n"
    assert time.monotonic() - began < 5
    assert got == WINDOW_BYTES
    assert not [frame for frame in peer.stray if frame.channel == noisy and frame.kind == STDOUT]
    peer.tell(noisy, CREDIT, u32(1000))
    assert len(peer.wait_for(noisy, STDOUT).payload) == 1000
    peer.tell(noisy, CREDIT, u32(WINDOW_BYTES))
    peer.tell(noisy, KILL)
    assert peer.finish(noisy).code == 9


def test_a_host_that_reads_nothing_does_not_make_the_agent_grow(agent: Agent) -> None:
    peer = agent.peer
    resident = lambda: int(Path(f"/proc/{agent.process.pid}/statm").read_text().split()[1]) * 4096  # noqa: E731
    before = resident()
    peer.sock.settimeout(1)
    with pytest.raises(TimeoutError):
        for _ in range(1_000_000):
            peer.send(peer.frame(0, PING, u64(1)) * 64)
    assert resident() - before < 8 << 20
    peer.sock.settimeout(20)
    # The last frame was cut by the deadline: read everything, then begin again.
    drained = 0
    peer.sock.setblocking(False)
    time.sleep(0.3)
    while True:
        try:
            drained += len(peer.sock.recv(1 << 20))
        except BlockingIOError:
            time.sleep(0.05)
            try:
                drained += len(peer.sock.recv(1 << 20))
            except BlockingIOError:
                break
    assert drained > 0
    peer.sock.settimeout(20)
    peer.buffer.clear()
    peer.send(bytes(64))
    peer.attach()
    peer.greet()


def test_shutdown_ends_everything_and_says_so(program: Path) -> None:
    started = Agent(program)
    started.peer.attach()
    started.peer.greet()
    channel = started.peer.start(["sleep", "12345.678"])
    started.peer.wait_for(channel, STARTED)
    started.peer.tell(0, SHUTDOWN)
    started.peer.wait_for(0, ENDING)
    with pytest.raises(LinkClosedError):
        started.peer.fill()
    assert started.close() == 0
    assert subprocess.run(["pgrep", "-f", "sleep 12345.678"], capture_output=True, check=False).stdout == b""


def test_a_unix_socket_takes_the_newest_peer_and_keeps_programs(program: Path, shared: Path) -> None:
    path, mark = shared / "link", shared / "mark"
    process = subprocess.Popen([str(program), "--socket", str(path)], stderr=subprocess.PIPE)
    try:
        for _ in range(200):
            if path.exists():
                break
            time.sleep(0.02)
        assert path.stat().st_mode & 0o777 == 0o600
        peers = []
        for _ in range(2):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(str(path))
            peers.append(Peer(sock))
            peers[-1].attach()
            peers[-1].greet()
            if len(peers) == 1:
                peers[0].start(["sh", "-c", f"sleep 0.5; echo lived > {mark}"])
                peers[0].ping()
        with pytest.raises((LinkClosedError, ConnectionError)):
            while True:
                peers[0].fill()
        time.sleep(1)
        assert mark.read_text() == "lived\n"
        assert peers[1].run(["true"]).code == 0
        for peer in peers:
            peer.sock.close()
    finally:
        process.terminate()
        _, log = process.communicate(timeout=20)
    assert process.returncode == 0
    assert b"Sanitizer" not in log


@pytest.mark.parametrize("seed", range(12))
def test_hostile_bytes_never_crash_it(peer: Peer, seed: int, shared: Path) -> None:
    chance = random.Random(seed)
    here = str(shared)
    frames = [
        (0, PING, u64(1)),
        (0, REFRESH, u64(1) + bytes(32)),
        (0, HELLO, peer.hello_payload()),
        (0, MOUNT, text("a") + text("b") + u32(0) + texts(["a:/b"])),
        (1, PART, b"x" * 100),
        (2, EXEC, u32(1) + u32(0) * 2 + texts(["true"]) + texts(["PATH=/bin"]) + text("/") + text("") + u32(0)),
        (2, STDIN, b"y" * 1000),
        (2, KILL, b""),
        (2, CREDIT, u32(2**32 - 1)),
        (3, WRITE, text(f"{here}/file") + u32(0o644) + u32(1) + text("")),
        (3, DATA, b"z" * 500),
        (3, END, b""),
        (4, READ, text("/etc/passwd") + u64(0) + u64(100)),
        (5, MKDIR, text(f"{here}/d/e") + u32(0o755) + u32(1) + text("")),
    ]
    for _ in range(40):
        peer.attach()
        peer.greet()
        burst = bytearray()
        for number in range(1, 30):
            channel, kind, payload = chance.choice(frames)
            burst += peer.frame(channel * number if chance.random() < 0.5 else channel, kind, payload)
        for _ in range(chance.randrange(4)):
            at = chance.randrange(len(burst))
            if b"/etc" not in burst[max(0, at - 40) : at + 40]:
                burst[at] = chance.randrange(256)
        peer.send(bytes(burst[: chance.randrange(1, len(burst))]))
        if chance.random() < 0.3:
            peer.send(b"\x00" * 70_000)
        else:
            peer.send(b"\x00" * 66_000)
    peer.attach()
    peer.greet()
    assert peer.run(["echo", "alive"]).stdout == b"alive\n"


def test_a_length_is_refused_before_its_body_arrives(peer: Peer) -> None:
    peer.send(peer.tag + u32(65_537))
    # Were it waiting for the body, these two would be taken for a part of it.
    peer.attach()
    peer.greet()
    assert peer.ping()


@pytest.mark.parametrize(
    ("kind", "payload"),
    [(STDIN, b""), (PONG, u64(1)), (8, b""), (255, b""), (QUIESCE, b"x"), (PING, u64(1) + b"x"), (HELLO, u32(1))],
)
def test_wrong_control_frames_are_framing_errors(peer: Peer, kind: int, payload: bytes) -> None:
    peer.tell(0, kind, payload)
    peer.tell(0, PING, u64(1))
    assert peer.silent_for(0.2)
    peer.attach()
    peer.greet()
    assert peer.ping()
