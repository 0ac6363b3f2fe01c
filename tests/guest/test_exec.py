"""Commands: how they start, what they see, how they end."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
import subprocess
import time
from pathlib import Path

import pytest

from .peer import (
    CREDIT_BACK,
    EXIT,
    FAILED,
    KILL,
    RESIZE,
    SIGNAL,
    STARTED,
    STDERR,
    STDIN,
    STDIN_END,
    STDOUT,
    WINDOW_BYTES,
    Agent,
    Peer,
    failure,
    u32,
)

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start commands as another user")
PATH = {"PATH": "/usr/bin:/bin"}


def test_arguments_and_streams_arrive_as_they_are(peer: Peer) -> None:
    got = peer.run(["sh", "-c", 'printf "%s|" "$@"; echo oops >&2; exit 7', "sh", "a b", "", "$HOME", "ü\n"])
    assert got.stdout == "a b||$HOME|ü\n|".encode()
    assert got.stderr == b"oops\n"
    assert (got.how, got.code) == (0, 7)
    assert got.pid > 1


def test_the_environment_is_the_given_one_and_the_users_names(peer: Peer) -> None:
    got = peer.run(["env"], env={**PATH, "A": "1=2", "EMPTY": ""}, user="" if os.geteuid() else "4242")
    lines = dict(line.split("=", 1) for line in got.stdout.decode().splitlines())
    if os.geteuid() == 0:
        assert lines == {**PATH, "A": "1=2", "EMPTY": "", "HOME": "/", "USER": "4242", "LOGNAME": "4242"}
    assert (
        peer.run(["sh", "-c", "echo $HOME $USER"], env={**PATH, "HOME": "/mine", "USER": "me"}).stdout == b"/mine me\n"
    )


@as_root
@pytest.mark.parametrize(
    ("user", "ids"),
    [
        ("", b"1000 1000 1000"),
        ("root", b"0 0 0"),
        ("0", b"0 0 0"),
        ("1234", b"1234 1234 1234"),
        ("1234:77", b"1234 77 77"),
    ],
)
def test_a_command_runs_as_its_user(peer: Peer, user: str, ids: bytes) -> None:
    got = peer.run(["sh", "-c", "echo $(id -u) $(id -g) $(id -G | cut -d' ' -f1)"], user=user)
    assert got.stdout.strip() == ids


@as_root
def test_a_user_keeps_nothing_of_roots_power(peer: Peer) -> None:
    lines = peer.run(["cat", "/proc/self/status"]).stdout.decode().splitlines()
    status = dict(line.split(":\t", 1) for line in lines)
    assert {name: int(status[name], 16) for name in ("CapEff", "SigBlk", "SigIgn")} == dict.fromkeys(
        ("CapEff", "SigBlk", "SigIgn"), 0
    )
    assert "CapEff:\t0000000000000000" not in peer.run(["cat", "/proc/self/status"], user="root").stdout.decode()


RT_SIGACTION = {"x86_64": 13, "aarch64": 134}[platform.machine()]


def ignore_every_signal() -> None:
    """Those too that the C library keeps for itself: glibc's posix_spawn hands one of them on ignored."""
    kernel_ignore = (ctypes.c_uint64 * 4)(1)
    for number in range(1, 65):
        ctypes.CDLL(None).syscall(RT_SIGACTION, number, kernel_ignore, None, 8)


def test_a_command_finds_every_signal_at_its_default_whatever_the_agent_was_started_with(
    program: Path, tmp_path: Path
) -> None:
    agent = Agent(program, "--run-directory", str(tmp_path), preexec_fn=ignore_every_signal)
    try:
        agent.peer.attach()
        agent.peer.greet()
        got = agent.peer.run(["cat", "/proc/self/status"]).stdout.decode()
        assert "SigIgn:\t0000000000000000\n" in got
    finally:
        agent.close()
    without = subprocess.run(
        ["cat", "/proc/self/status"], preexec_fn=ignore_every_signal, capture_output=True, check=True
    )
    assert b"SigIgn:\tffff" in without.stdout, "the control: what ignores is inherited"


@pytest.mark.parametrize("user", ["nobody-of-that-name", "-1", "4294967295", "1:", ":1", "1:x", "1000x"])
def test_an_unknown_user_is_refused(peer: Peer, user: str) -> None:
    got = peer.run(["true"], user=user)
    assert (got.errno, got.what) == (errno.ENOENT, f"user: {user}")


def test_a_session_of_its_own_and_no_descriptor_more_than_three(peer: Peer) -> None:
    got = peer.run(["sh", "-c", "ls /proc/$$/fd; cut -d' ' -f1,5,6 /proc/$$/stat"])
    lines = got.stdout.split()
    assert lines[:3] == [b"0", b"1", b"2"]
    assert set(lines[-3:]) == {str(got.pid).encode()}
    assert len(lines) == 6


def test_rlimits_are_set_and_the_default_for_descriptors_is_1024(peer: Peer) -> None:
    assert peer.run(["sh", "-c", "ulimit -n"]).stdout == b"1024\n"
    limits = [(resource.RLIMIT_NOFILE, 64, 128), (resource.RLIMIT_CPU, 5, 5)]
    assert peer.run(["sh", "-c", "ulimit -n; ulimit -Hn; ulimit -t"], rlimits=limits).stdout == b"64\n128\n5\n"
    got = peer.run(["true"], rlimits=[(resource.RLIMIT_NOFILE, 10, 5)])
    assert (got.errno, got.what) == (errno.EINVAL, f"rlimit: {resource.RLIMIT_NOFILE}")
    assert peer.run(["true"], rlimits=[(999, 1, 1)]).errno == errno.EINVAL


def test_starts_that_fail_say_what_failed(peer: Peer, shared: Path) -> None:
    plain = shared / "plain"
    plain.write_text("no program")
    odd = shared / "odd"
    odd.write_bytes(b"\x00\x01\x02 not executable format")
    odd.chmod(0o755)
    closed = shared / "closed"
    closed.mkdir(mode=0o700)
    cases = [
        (["no-such-program"], "/", errno.ENOENT, "program: no-such-program"),
        (["/no/such"], "/", errno.ENOENT, "program: /no/such"),
        ([""], "/", errno.ENOENT, "program: "),
        ([str(plain)], "/", errno.EACCES, f"program: {plain}"),
        ([str(odd)], "/", errno.ENOEXEC, f"program: {odd}"),
        (["/"], "/", errno.EACCES, "program: /"),
        (["true"], "/no/such", errno.ENOENT, "cwd: /no/such"),
        (["true"], str(plain), errno.ENOTDIR, f"cwd: {plain}"),
    ]
    if os.geteuid() == 0:
        cases.append((["true"], str(closed), errno.EACCES, f"cwd: {closed}"))
    for argv, cwd, number, what in cases:
        got = peer.run(argv, cwd=cwd)
        assert (got.errno, got.what) == (number, what)
    assert peer.run(["true"], env={}).errno == errno.ENOENT  # no PATH given, nowhere to look
    assert peer.run(["/bin/true"], env={}).code == 0


@pytest.mark.parametrize(("flags", "number"), [(8, errno.EINVAL), (1 << 31, errno.EINVAL), (2, errno.ENOTSUP)])
def test_flags_that_are_not_offered_are_refused(peer: Peer, flags: int, number: int) -> None:
    assert peer.run(["true"], flags=flags).errno == number
    assert peer.run([], flags=0).errno == errno.EINVAL


def test_a_missing_cwd_is_made_for_the_user_when_asked(peer: Peer, shared: Path) -> None:
    wanted = shared / "a" / "b"
    assert peer.run(["sh", "-c", "pwd; touch file"], cwd=str(wanted), flags=4).stdout.decode() == f"{wanted}\n"
    if os.geteuid() == 0:
        assert (wanted / "file").stat().st_uid == wanted.stat().st_uid == 1000
    assert wanted.stat().st_mode & 0o777 == 0o755


def test_a_signal_reaches_the_process_group_and_is_reported(peer: Peer) -> None:
    channel = peer.start(["sh", "-c", "sleep 1000 & wait"])
    peer.wait_for(channel, STARTED)
    peer.tell(channel, SIGNAL, u32(0))  # not a signal: ignored
    peer.tell(channel, SIGNAL, u32(1000))
    peer.tell(channel, RESIZE, u32(1) + u32(2))
    peer.tell(channel, SIGNAL, u32(signal.SIGTERM))
    got = peer.finish(channel)
    assert (got.how, got.code) == (1, signal.SIGTERM)


def test_usage_is_reported(peer: Peer) -> None:
    channel = peer.start(["sh", "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"])
    _how, _code, user_us, _system_us, peak_kib = struct.unpack("<BIQQQ", peer.wait_for(channel, EXIT).payload)
    assert user_us > 1000
    assert 100 < peak_kib < 1 << 20


def test_input_arrives_and_ends(peer: Peer) -> None:
    channel = peer.start(["sh", "-c", "cat; echo end"], flags=1)
    peer.tell(channel, STDIN, b"one\n")
    assert peer.wait_for(channel, STDOUT).payload == b"one\n"
    peer.tell(channel, STDIN, b"two\n")
    peer.tell(channel, STDIN_END)
    assert peer.finish(channel).stdout == b"two\nend\n"
    assert peer.run(["sh", "-c", "cat; readlink /proc/self/fd/0"]).stdout == b"/dev/null\n"


def test_much_input_flows_by_credit(peer: Peer) -> None:
    channel = peer.start(["sh", "-c", "sha256sum; sleep 0"], flags=1)
    credit = WINDOW_BYTES
    for _ in range(64):
        while credit < 65536:
            credit += struct.unpack("<I", peer.wait_for(channel, CREDIT_BACK).payload)[0]
        peer.tell(channel, STDIN, b"a" * 65536)
        credit -= 65536
    peer.tell(channel, STDIN_END)
    import hashlib

    assert peer.finish(channel).stdout.split()[0].decode() == hashlib.sha256(b"a" * (64 * 65536)).hexdigest()


def test_a_program_that_never_reads_blocks_nobody_and_an_overrun_closes_its_channel(peer: Peer) -> None:
    channel = peer.start(["sleep", "1000"], flags=1)
    for _ in range(WINDOW_BYTES // 65536):
        peer.tell(channel, STDIN, b"x" * 65536)
    assert peer.run(["echo", "on time"]).stdout == b"on time\n"
    peer.tell(channel, STDIN, b"one byte too many"[:1])
    # The pipe took 64 KiB of it, and less than a quarter of the window is given back at a time.
    for _ in range(WINDOW_BYTES // 65536):
        peer.tell(channel, STDIN, b"x" * 65536)
    assert failure(peer.wait_for(channel, FAILED))[0] == errno.EOVERFLOW
    assert peer.ping()[2] == 0


def test_input_that_the_program_does_not_want_is_swallowed(peer: Peer) -> None:
    channel = peer.start(["sh", "-c", "exec <&-; sleep 0.5; echo fine"], flags=1)
    time.sleep(0.2)
    for _ in range(3):
        peer.tell(channel, STDIN, b"x" * 65536)
    assert peer.finish(channel).stdout == b"fine\n"
    channel = peer.start(["sleep", "0.2"])  # stdin was not asked for
    peer.tell(channel, STDIN, b"x" * 65536)
    assert peer.finish(channel).code == 0


def test_all_output_comes_before_exit(peer: Peer) -> None:
    for size in (0, 1, 65536, 300_000, 2_000_000):
        got = peer.run(["sh", "-c", f"head -c {size} /dev/zero; head -c {size} /dev/zero >&2"])
        assert (len(got.stdout), len(got.stderr), got.code) == (size, size, 0)


def test_a_background_child_that_holds_the_pipe_does_not_delay_exit(peer: Peer, shared: Path) -> None:
    mark = shared / "mark"
    script = f"(sleep 0.5; head -c 500000 /dev/zero; echo late; echo ok > {mark}) & echo early"
    began = time.monotonic()
    got = peer.run(["sh", "-c", script])
    assert got.stdout == b"early\n"
    assert time.monotonic() - began < 0.45
    for _ in range(100):
        if mark.exists() and mark.read_text():
            break
        time.sleep(0.05)
    assert mark.read_text() == "ok\n"  # it was neither stopped nor killed by output that nobody takes
    peer.ping()
    assert not [frame for frame in peer.stray if frame.kind in (STDOUT, STDERR)]


NAP = {number: f"4321.{number}{os.getpid()}" for number in range(1, 6)}
"""How long sleeps last: no other run of these tests on this machine has the same."""
DAEMON = "setsid sh -c 'setsid sleep {0} & sleep {0} & echo deep; while :; do sleep 0.05; done' & sleep {0}"


def alive(argument: str) -> int:
    count = 0
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            count += cmdline.read_bytes() == f"sleep\0{argument}\0".encode()
        except OSError:
            continue
    return count


def come_to(*counts: int) -> None:
    """Wait until so many sleeps of each kind run: a shell starts them a moment after it says so."""
    deadline = time.monotonic() + 10
    while (seen := tuple(alive(NAP[number]) for number in range(1, len(counts) + 1))) != counts:
        assert time.monotonic() < deadline, seen


def test_kill_ends_daemonised_children_and_those_of_no_other_command(peer: Peer) -> None:
    doomed, spared = (
        peer.start(["sh", "-c", DAEMON.format(NAP[1])]),
        peer.start(["sh", "-c", DAEMON.format(NAP[2])]),
    )
    peer.wait_for(doomed, STDOUT)
    peer.wait_for(spared, STDOUT)
    # Double fork: the middle process is gone, so nothing but the keeper knows whose it was.
    orphan = peer.start(["sh", "-c", f"(setsid sh -c 'sleep {NAP[3]} & exit' &); sleep 0.3; echo x; sleep {NAP[3]}"])
    peer.wait_for(orphan, STDOUT)
    come_to(3, 3, 2)
    peer.tell(doomed, KILL)
    peer.tell(orphan, KILL)
    assert (peer.finish(doomed).how, peer.finish(orphan).code) == (1, 9)
    come_to(0, 3, 0)
    peer.tell(spared, KILL)
    peer.finish(spared)


def test_what_a_command_left_behind_lives_until_the_sandbox_ends(peer: Peer) -> None:
    assert peer.run(["sh", "-c", f"setsid sleep {NAP[4]} >/dev/null 2>&1 &"]).code == 0
    other = peer.start(["sleep", "1000"])
    peer.tell(other, KILL)
    peer.finish(other)
    deadline = time.monotonic() + 10
    while alive(NAP[4]) != 1:  # it may not have begun yet; the fixture then sees that nothing is left
        assert time.monotonic() < deadline


def test_a_fork_bomb_is_ended(peer: Peer) -> None:
    bomb = "f() { sleep 0.3; f & f & wait; }; f"
    channel = peer.start(["sh", "-c", bomb], rlimits=[(resource.RLIMIT_CPU, 20, 20)])
    time.sleep(1.5)
    peer.tell(channel, KILL)
    assert peer.finish(channel).how == 1
    processes, _, _ = peer.ping()
    time.sleep(0.7)
    assert peer.ping()[0] <= processes + 20


def test_a_killed_keeper_still_ends_in_exit(peer: Peer) -> None:
    channel = peer.start(["sleep", NAP[5]])
    (pid,) = struct.unpack("<I", peer.wait_for(channel, STARTED).payload)
    keeper = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    assert Path(f"/proc/{keeper}/comm").read_text() == "agent-keeper\n"
    os.kill(keeper, signal.SIGKILL)
    time.sleep(0.2)
    peer.tell(channel, KILL)
    got = peer.finish(channel)
    assert (got.how, got.code) == (1, 9)


def test_a_stopped_command_can_be_killed(peer: Peer) -> None:
    channel = peer.start(["sleep", "1000"])
    peer.wait_for(channel, STARTED)
    peer.tell(channel, SIGNAL, u32(signal.SIGSTOP))
    peer.tell(channel, KILL)
    assert peer.finish(channel).code == 9


def test_two_hundred_commands_one_after_another_leave_nothing(peer: Peer) -> None:
    before = peer.ping()[0]
    for _ in range(200):
        assert peer.run(["true"]).code == 0
    assert peer.ping()[0] <= before + 20
    assert peer.ping()[2] == 0
