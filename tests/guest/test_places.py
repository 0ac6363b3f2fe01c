"""Where the agent is not what it usually is: without root, on a kernel that lacks calls, told to end."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
import struct
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .peer import DONE, MKDIR, STARTED, TAR_IN, WRITE, Agent, Peer, failure, text, u32
from .test_tar import archive, member

OPENAT2, CLOSE_RANGE = 437, 436  # the same number on every architecture
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO = 0x7FFF0000, 0x00050000


def without_new_calls() -> None:
    """Runs in the child: from here on openat2 and close_range are ENOSYS, as in gVisor and old kernels."""

    def code(operation: int, jump_true: int, jump_false: int, value: int) -> bytes:
        return struct.pack("<HBBI", operation, jump_true, jump_false, value)

    program = b"".join(
        [
            code(0x20, 0, 0, 0),  # load the call's number
            code(0x15, 1, 0, OPENAT2),
            code(0x15, 0, 1, CLOSE_RANGE),
            code(0x06, 0, 0, SECCOMP_RET_ERRNO | errno.ENOSYS),
            code(0x06, 0, 0, SECCOMP_RET_ALLOW),
        ]
    )
    libc = ctypes.CDLL(None, use_errno=True)
    held = ctypes.create_string_buffer(program)
    header = struct.pack("<HxxxxxxQ", len(program) // 8, ctypes.addressof(held))
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


def greeted(started: Agent) -> Peer:
    started.peer.attach()
    started.peer.greet()
    return started.peer


@pytest.fixture
def old_kernel(program: Path) -> Iterator[Peer]:
    if platform.machine() not in ("x86_64", "aarch64"):
        pytest.skip("the filter is written for 64-bit little-endian machines")
    started = Agent(program, preexec_fn=without_new_calls)
    try:
        peer = greeted(started)
        assert "Seccomp:\t2" in Path(f"/proc/{started.process.pid}/status").read_text()
        yield peer
        assert started.close() == 0, started.log.decode(errors="replace")
    finally:
        if started.process.poll() is None:
            started.process.kill()
            started.process.communicate()


def test_archives_stay_inside_without_openat2(old_kernel: Peer, shared: Path) -> None:
    def send(*members: tuple[tarfile.TarInfo, bytes]) -> object:
        return old_kernel.upload(TAR_IN, text(str(shared / "root")) + u32(0) + text(""), archive(*members))

    assert send(member("a/b/c", content=b"x"), member("h", tarfile.LNKTYPE, link="a/b/c")).kind == DONE  # type: ignore[attr-defined]
    assert (shared / "root" / "h").read_bytes() == b"x"
    link = member("l", tarfile.SYMTYPE, link="..")
    for attack in (
        [link, member("l/escape", content=b"x")],
        [link, member("l/escape", tarfile.DIRTYPE)],
        [link, member("h", tarfile.LNKTYPE, link="l/outside")],
        [member("a/../../escape", content=b"x")],
    ):
        assert failure(send(*attack))[0] == errno.EPERM  # type: ignore[arg-type]
    assert [entry.name for entry in shared.iterdir()] == ["root"]


def test_commands_have_three_descriptors_without_close_range(old_kernel: Peer) -> None:
    # `ls` opens one of its own.
    assert old_kernel.run(["ls", "/proc/self/fd"]).stdout.split() == [b"0", b"1", b"2", b"3"]
    channel = old_kernel.start(["cat"], flags=1)
    old_kernel.tell(channel, 18)
    assert old_kernel.finish(channel).code == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start the agent as somebody else")
def test_without_root_it_runs_commands_as_itself_and_nobody_else(program: Path, shared: Path) -> None:
    started = Agent(program, user=1234, group=1234, extra_groups=[])
    peer = greeted(started)
    for user in ("", "1234"):
        assert peer.run(["id", "-u"], user=user).stdout == b"1234\n"
    for user in ("root", "0", "1000"):
        assert peer.run(["id"], user=user).errno == errno.EPERM
    wrote = peer.upload(WRITE, text(str(shared / "f")) + u32(0o600) + u32(1) + text(""), b"x")
    assert wrote.kind == DONE
    assert (shared / "f").stat().st_uid == 1234
    assert failure(peer.ask(MKDIR, text("/etc/x") + u32(0o755) + u32(0) + text("")))[0] == errno.EACCES
    assert failure(peer.ask(MKDIR, text(str(shared / "d")) + u32(0o755) + u32(0) + text("root")))[0] == errno.EPERM
    assert started.close() == 0


def test_told_to_end_it_ends_what_it_started(program: Path) -> None:
    started = Agent(program)
    peer = greeted(started)
    channel = peer.start(["sh", "-c", "setsid sleep 7654.3 & sleep 7654.3"])
    peer.wait_for(channel, STARTED)
    time.sleep(0.2)
    started.process.send_signal(signal.SIGTERM)
    assert started.process.wait(20) == 0
    started.close()
    assert subprocess.run(["pgrep", "-f", "sleep 7654.3"], capture_output=True, check=False).stdout == b""


def test_what_it_does_not_understand_is_a_usage_line(program: Path) -> None:
    done = subprocess.run([str(program)], capture_output=True, timeout=20, check=False)
    assert done.returncode == 2
    assert b"usage" in done.stderr
