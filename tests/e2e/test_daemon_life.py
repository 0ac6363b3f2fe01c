"""Start, second start, stale sockets, other users, shutdown, kill -9."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.daemons import Daemon, family_of, processes_of, short_home, started

from agentkernel.client import Connection

pytestmark = pytest.mark.vm

NO_PREWARM = {"AGENTKERNEL_POOL_PREWARM": ""}


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    """Poll, because what is waited for is another process's business; fails with the condition's name."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def alive(pids: set[int]) -> set[int]:
    """Those that still run."""
    running = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state not in "ZX":
                running.add(pid)
    return running


def use(daemon: Daemon) -> str:
    """Lease a sandbox, leave a program running in it and one more sandbox in use; returns the lease."""
    with daemon.connect() as connection:
        lease: str = connection.ask("acquire", runtime="base")["id"]
        connection.ask("exec", runtime="base", sandbox=lease, command=["sh", "-c", "(setsid sleep 600 &)"])
    return lease


def test_a_daemon_answers_at_once_while_it_warms_up(images: None) -> None:
    with (
        short_home() as home,
        started(home, AGENTKERNEL_POOL_PREWARM="native") as daemon,
        daemon.connect() as connection,
    ):
        reply = connection.ask("status")
        assert reply["warm"] == 0
        assert connection.ask("hello")["protocol"] == 1
        assert connection.ask("prewarm", compatibility_mode="native")["count"] <= 2
        status = connection.ask("status")
        assert (status["warm"], status["agent_stats"]) == (2, {"native": 2})
        assert connection.ask("prewarm", compatibility_mode="native")["count"] == 0
        warm = connection.ask("exec", runtime="base", command=["true"])
        assert warm["warm"] is True


def test_a_second_daemon_refuses_and_says_why_and_the_first_goes_on(daemon: Daemon) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "agentkernel.daemon"],
        env=daemon.environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert second.returncode == 1
    assert f"already runs for {daemon.home} (pid {daemon.pid})" in second.stderr
    with daemon.connect() as connection:
        assert connection.ask("status")["type"] == "status"


def test_a_stale_socket_is_replaced_and_a_living_one_is_not(images: None) -> None:
    with short_home() as home:
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(home / "daemon.sock"))
        with started(home, **NO_PREWARM) as daemon, daemon.connect() as connection:
            assert connection.ask("status")["type"] == "status"
        with socket.socket(socket.AF_UNIX) as living:
            living.bind(str(home / "daemon.sock"))
            living.listen()
            environment = {**os.environ, "AGENTKERNEL_HOME": str(home)}
            refused = subprocess.run(
                [sys.executable, "-m", "agentkernel.daemon"],
                env=environment,
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
            assert refused.returncode == 1
            assert "another daemon answers" in refused.stderr


@pytest.mark.parametrize(
    ("mode", "word"),
    [(0o777, "can be written by other users"), (0o1777, ""), (0o755, "")],
    ids=["open to all", "sticky", "private enough"],
)
def test_a_home_that_others_may_write_is_refused(images: None, mode: int, word: str) -> None:
    with short_home() as home:
        home.chmod(mode)
        environment = {**os.environ, "AGENTKERNEL_HOME": str(home), **NO_PREWARM}
        if not word:
            with started(home, **NO_PREWARM) as daemon, daemon.connect() as connection:
                assert connection.ask("status")["type"] == "status"
            return
        refused = subprocess.run(
            [sys.executable, "-m", "agentkernel.daemon"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert refused.returncode == 1
        assert word in refused.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")
def test_another_user_is_refused_by_its_credentials_though_folder_and_socket_stand_open(daemon: Daemon) -> None:
    socket_file = Path(daemon.socket)
    script = (
        "import os, socket, sys; os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        f"client = socket.socket(socket.AF_UNIX); client.connect({daemon.socket!r})\n"
        'client.sendall(b\'{"cmd":"status"}\\n\'); sys.stdout.write(client.makefile().readline())'
    )
    ask = [sys.executable, "-c", script]
    closed = subprocess.run(ask, capture_output=True, text=True, timeout=30, check=False)
    assert closed.returncode != 0
    assert "PermissionError" in closed.stderr
    daemon.home.chmod(0o755)
    socket_file.chmod(0o777)
    try:
        opened = subprocess.run(ask, capture_output=True, text=True, timeout=30, check=False)
    finally:
        daemon.home.chmod(0o700)
        socket_file.chmod(0o600)
    reply = json.loads(opened.stdout)
    assert (reply["type"], reply["code"]) == ("error", "denied")
    with daemon.connect() as connection:
        assert connection.ask("status")["type"] == "status"


@pytest.mark.parametrize("how", ["shutdown", "SIGTERM"])
def test_shutdown_ends_process_machines_and_socket_within_five_seconds(images: None, how: str) -> None:
    with short_home() as home, started(home, **NO_PREWARM) as daemon:
        use(daemon)
        family = family_of(daemon.pid)
        assert len(family) >= 3, "daemon, supervisor and QEMU"
        if how == "shutdown":
            with daemon.connect() as connection:
                assert connection.ask("shutdown") == {"type": "shutting_down"}
        else:
            os.kill(daemon.pid, signal.SIGTERM)
        wait_until(lambda: not alive(family), 5)
        assert not Path(daemon.socket).exists()
        assert list((home / "sandboxes").iterdir()) == []
        assert list(home.glob("guest/*")) == []


def test_kill_9_of_the_daemon_leaves_no_machine_no_socket_and_no_folder(images: None) -> None:
    with short_home() as home, started(home, **NO_PREWARM) as daemon:
        use(daemon)
        family = family_of(daemon.pid)
        assert len(family) >= 3, "daemon, supervisor and QEMU"
        os.kill(daemon.pid, signal.SIGKILL)
        wait_until(lambda: not alive(family), 5)
        wait_until(lambda: not list((home / "sandboxes").iterdir()), 5)
        assert processes_of(home / "sandboxes") == []
        with started(home, **NO_PREWARM) as successor:
            with successor.connect() as connection:
                assert connection.ask("exec", runtime="base", command=["echo", "again"])["stdout"] == "again\n"
            assert list(home.glob("guest/*")) == []


def test_a_daemon_that_nobody_uses_ends_by_itself(images: None) -> None:
    with short_home() as home, started(home, AGENTKERNEL_DAEMON_IDLE_EXIT_S="1", **NO_PREWARM) as daemon:
        wait_until(lambda: not alive({daemon.pid}), 20)
        assert not Path(daemon.socket).exists()


def test_a_lease_holds_off_the_idle_exit(images: None) -> None:
    with short_home() as home, started(home, AGENTKERNEL_DAEMON_IDLE_EXIT_S="1", **NO_PREWARM) as daemon:
        lease = use(daemon)
        time.sleep(3)
        with Connection(daemon.socket, timeout_s=60) as connection:
            assert connection.ask("exec", runtime="base", sandbox=lease, command=["true"])["exit_code"] == 0
            connection.ask("release", id=lease)
        wait_until(lambda: not alive({daemon.pid}), 20)
