"""The agent as a container runs it: an ordinary user, its commands the same one, no rights, killed at any moment."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentkernel.drivers.limits import Limits, find

from .conftest import processes_with
from .peer import EXIT, KILL, STARTED, Agent, Frame

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start the agent as somebody else")
USER = 1000
WITHIN_S = 20.0
PYTHON = shutil.which("python3", path="/usr/bin") or "python3"  # one that uid 1000 may run
HOSTNAME = "sandbox-test"

REACH = """
import ctypes, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def answer(action):
    try:
        action()
    except OSError as error:
        return error.errno
    return 0
def called(*arguments):
    if libc.syscall(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "")
def attach(pid):
    if libc.ptrace(16, pid, None, None) != 0:
        raise OSError(ctypes.get_errno(), "")
    os.waitpid(pid, 0x40000000)
    libc.ptrace(17, pid, None, None)
def reach(pid):
    pidfd = os.pidfd_open(pid)
    actions = {
        "memory": lambda: os.close(os.open(f"/proc/{pid}/mem", os.O_RDWR)),
        "descriptors": lambda: os.listdir(f"/proc/{pid}/fd"),
        "environment": lambda: open(f"/proc/{pid}/environ").read(),
        "pidfd_getfd": lambda: called(438, pidfd, 0, 0),
        "ptrace": lambda: attach(pid),
    }
    return {name: answer(action) for name, action in actions.items()}
child = os.fork()
if child == 0:
    os.execvp("sleep", ["sleep", "1000"])
while open(f"/proc/{child}/comm").read() != "sleep\\n":
    pass
said = {"agent": reach(int(sys.argv[1])), "keeper": reach(os.getppid()), "child": reach(child)}
os.kill(child, 9)
print(json.dumps(said))
"""


def started_as(program: Path, **keywords: object) -> Agent:
    """An agent of an ordinary user, greeted."""
    agent = Agent(program, user=USER, group=USER, extra_groups=[], **keywords)
    try:
        agent.peer.attach()
        agent.peer.greet()
    except BaseException:
        agent.close()
        raise
    return agent


@pytest.fixture
def contained(program: Path) -> Iterator[Agent]:
    """The same, ended after."""
    agent = started_as(program)
    yield agent
    if agent.process.poll() is None:
        agent.close()
    else:
        agent.peer.sock.close()
        agent.process.communicate()


def until(condition: Callable[[], bool]) -> bool:
    """Whether it comes to hold in time."""
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_a_command_reaches_neither_the_agent_nor_its_keeper_but_its_own_child(contained: Agent) -> None:
    ran = contained.peer.run([PYTHON, "-c", REACH, str(contained.process.pid)])
    said = json.loads(ran.stdout)
    assert set(said["child"].values()) == {0}, "the control: the same on a process of one's own"
    assert set(said["agent"].values()) <= {1, 13}
    assert set(said["keeper"].values()) <= {1, 13}


def test_an_agent_that_is_not_dumpable_still_reads_and_writes_files(contained: Agent, shared: Path) -> None:
    script = f"echo text > {shared}/a && cat {shared}/a && readlink /proc/self/fd/0 && grep -c . /proc/self/maps"
    ran = contained.peer.run(["sh", "-c", script])
    assert ran.code == 0, ran.stderr
    content, _ = contained.peer.download(f"{shared}/a")
    assert content == b"text\n"


@pytest.mark.parametrize("daemonised", [False, True], ids=["its command", "what an ended command left"])
def test_when_the_agent_is_killed_everything_that_it_started_dies(program: Path, *, daemonised: bool) -> None:
    mark = f"AGENT_TEST={uuid.uuid4()}"
    agent = started_as(program)
    script = "setsid sleep 1000 >/dev/null 2>&1 & (sleep 1000 >/dev/null 2>&1 &) "
    try:
        agent.peer.environment = dict([mark.split("=")])
        channel = agent.peer.start(["sh", "-c", script if daemonised else f"{script}; sleep 1000"])
        if daemonised:
            assert agent.peer.finish(channel).code == 0
        assert until(lambda: len(processes_with(mark)) == (2 if daemonised else 4)), processes_with(mark)
        agent.process.kill()
    finally:
        agent.process.kill()
        agent.process.communicate()
        agent.peer.sock.close()
    assert until(lambda: processes_with(mark) == []), processes_with(mark)


def test_a_command_offers_itself_to_the_kernel_before_the_agent(contained: Agent) -> None:
    own = int(Path(f"/proc/{contained.process.pid}/oom_score_adj").read_text())
    channel = contained.peer.start(["sleep", "1000"])
    (pid,) = struct.unpack("<I", contained.peer.wait_for(channel, STARTED).payload)
    score = Path(f"/proc/{pid}/oom_score_adj")
    assert until(lambda: int(score.read_text()) == min(1000, own + 500))
    assert own == int(Path("/proc/self/oom_score_adj").read_text()), "the agent keeps what it was given"


def test_a_fork_bomb_at_the_limit_of_processes_is_killed_by_an_agent_that_cannot_fork(contained: Agent) -> None:
    cgroups = find(ours=f"ak-test-{os.getpid()}")
    if cgroups.missing:
        pytest.skip(f"no limits here: {cgroups.missing}")
    group = cgroups.create("bomb", Limits(256 << 20, 2.0, 20))
    try:
        group.attach(contained.process.pid)
        bomb = "import os, time\nwhile True:\n    try: os.fork()\n    except OSError: time.sleep(0.01)"
        channel = contained.peer.start([PYTHON, "-c", bomb])
        assert contained.peer.wait_for(channel, STARTED)
        assert until(lambda: group.stats().processes == 20)
        assert contained.peer.run(["true"]).what == "fork: ", "the control: nothing more can be started"
        contained.peer.tell(channel, KILL)
        assert contained.peer.finish(channel).code == signal.SIGKILL
        assert until(lambda: group.processes() == {contained.process.pid})
        assert contained.peer.run(["true"]).code == 0
    finally:
        contained.close()
        group.destroy()
        for home in list(cgroups.homes()):
            home.rmdir()


def test_a_command_that_stopped_its_keeper_is_killed_all_the_same(contained: Agent) -> None:
    channel = contained.peer.start(["sh", "-c", "sleep 0.3; kill -STOP $PPID; sleep 1000"])
    (pid,) = struct.unpack("<I", contained.peer.wait_for(channel, STARTED).payload)
    keeper = Path(f"/proc/{parent(pid)}/stat")
    assert until(lambda: keeper.read_text().rsplit(")", 1)[1].split()[0] == "T")
    contained.peer.tell(channel, KILL)
    how, code = struct.unpack("<BI", contained.peer.wait_for(channel, EXIT).payload[:5])
    assert (how, code) == (1, signal.SIGKILL)


def test_a_command_that_stops_its_keeper_before_that_one_has_spoken_holds_nobody_up(contained: Agent) -> None:
    for _ in range(10):
        channel = contained.peer.start(["sh", "-c", "kill -STOP $PPID; sleep 1000"])
        assert contained.peer.wait_for(channel, STARTED)
        contained.peer.tell(channel, KILL)
        assert contained.peer.finish(channel).code == signal.SIGKILL


def parent(pid: int) -> int:
    """Whose child a process is."""
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def offered(welcome: Frame) -> list[str]:
    """The features of a WELCOME."""
    (count,), at = struct.unpack("<I", welcome.payload[4:8]), 8
    names = []
    for _ in range(count):
        (length,) = struct.unpack("<I", welcome.payload[at : at + 4])
        names.append(welcome.payload[at + 4 : at + 4 + length].decode())
        at += 4 + length
    return names


@pytest.mark.parametrize(("name", "granted"), [(HOSTNAME, True), ("another", False)])
def test_pid_1_of_a_container_without_rights_has_its_hostname_or_says_that_it_has_not(
    program: Path, tmp_path: Path, name: str, *, granted: bool
) -> None:
    """PID 1 in namespaces of its own, as an ordinary user: only what is so already is promised."""
    launcher = tmp_path / "launcher"
    enter = (
        f"hostname {name}; exec setpriv --reuid {USER} --regid {USER} --clear-groups --bounding-set=-all {program} $*"
    )
    launcher.write_text(
        f"#!/bin/sh\nexec unshare --uts --pid --fork --kill-child --mount-proc sh -c '{enter}' sh \"$@\"\n"
    )
    launcher.chmod(0o755)
    agent = Agent(launcher)
    try:
        agent.peer.attach()
        welcome: Frame = agent.peer.greet()
        assert ("hostname" in offered(welcome)) is granted
        assert agent.peer.run(["hostname"]).stdout.decode().strip() == name
        assert b"pid1=yes" in welcome.payload
    finally:
        agent.close()
