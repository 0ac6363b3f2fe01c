"""Clones through the daemon: that they are clones, that without templates everything boots, that nothing is lost or
left.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.support.daemons import Daemon, family_of, short_home, started

from agentkernel.client import Connection

pytestmark = pytest.mark.vm

SMALL = {
    "AGENTKERNEL_POOL_PREWARM": "",
    "AGENTKERNEL_POOL_MAX_SANDBOXES": "8",
    "AGENTKERNEL_POOL_QUEUE_TIMEOUT_S": "600",
    "AGENTKERNEL_RESOURCES_MEMORY_MB": "192",
    "AGENTKERNEL_RESOURCES_DISK_MB": "16",
}
FLAT_KIB = 4 * 1024
"""How much larger a daemon may be after all its work than after its first: kept samples, and Python's arenas."""
SETTLE_S = 30.0


@pytest.fixture(scope="module")
def cloning(images: None) -> Iterator[Daemon]:
    """A daemon of many small clones."""
    with short_home() as home, started(home, **SMALL) as daemon:
        yield daemon


def stages(connection: Connection) -> set[str]:
    """How its sandboxes came to be."""
    return set(connection.ask("status", timings=True)["timings"]) & {"boot", "clone", "template"}


def works(connection: Connection) -> None:
    assert connection.ask("exec", runtime="base", command=["echo", "hello"])["stdout"] == "hello\n"


def test_a_daemon_clones_its_sandboxes_unless_told_otherwise(cloning: Daemon) -> None:
    with cloning.connect() as connection:
        works(connection)
        assert stages(connection) in ({"clone"}, {"clone", "template"})


@pytest.mark.parametrize("switch", ["AGENTKERNEL_POOL_TEMPLATES", "AGENTKERNEL_SECURITY_SHARE_TEMPLATE_MEMORY"])
def test_switched_off_every_sandbox_boots(images: None, switch: str) -> None:
    with short_home() as home, started(home, **SMALL, **{switch: "false"}) as daemon, daemon.connect() as connection:
        works(connection)
        assert stages(connection) == {"boot"}


def test_the_command_line_can_start_a_daemon_without_templates(images: None) -> None:
    with short_home() as home:
        environment = {**os.environ, **SMALL, "AGENTKERNEL_HOME": str(home)}

        def agentkernel(*words: str) -> str:
            return subprocess.run(
                [sys.executable, "-m", "agentkernel", *words],
                env=environment,
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
            ).stdout

        agentkernel("daemon", "start", "--no-template")
        try:
            with Connection(str(home / "daemon.sock"), timeout_s=60) as connection:
                works(connection)
                assert stages(connection) == {"boot"}
        finally:
            agentkernel("daemon", "stop")


# --- nothing lost, nothing left ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a daemon holds that could leak."""

    descriptors: int
    children: int
    threads: int
    sandboxes: int
    pss_kib: int

    @classmethod
    def of(cls, daemon: Daemon) -> Holdings:
        """Now."""
        rollup = Path(f"/proc/{daemon.pid}/smaps_rollup").read_text().splitlines()
        return cls(
            descriptors=len(list(Path(f"/proc/{daemon.pid}/fd").iterdir())),
            children=len(family_of(daemon.pid)) - 1,
            threads=len(list(Path(f"/proc/{daemon.pid}/task").iterdir())),
            sandboxes=len(list((daemon.home / "sandboxes").iterdir())),
            pss_kib=next(int(line.split()[1]) for line in rollup if line.startswith("Pss:")),
        )


def settled(daemon: Daemon, condition: Callable[[Holdings], bool]) -> Holdings:
    """What it holds once the condition holds, or at the end of its patience."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        with contextlib.suppress(OSError):
            held = Holdings.of(daemon)
            if condition(held) or time.monotonic() > deadline:
                return held
        time.sleep(0.2)


def at_rest(daemon: Daemon) -> Holdings:
    """What it holds once it neither destroys nor refills."""
    with daemon.connect() as connection:

        def quiet(held: Holdings) -> bool:
            status = connection.ask("status")
            return status["in_use"] == 0 and held.sandboxes == status["warm"] and held.children == 2 * status["warm"]

        return settled(daemon, quiet)


def one_after_another(daemon: Daemon, count: int, replies: list[dict[str, Any]], first: int = 0) -> None:
    with daemon.connect(timeout_s=600) as connection:
        for number in range(first, first + count):
            replies.append(connection.ask("exec", runtime="base", command=["echo", str(number)]))


def all_at_once(daemon: Daemon, count: int, replies: list[dict[str, Any]]) -> None:
    threads = [threading.Thread(target=one_after_another, args=(daemon, 1, replies, number)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize(
    ("in_a_row", "at_once"), [(40, 20), pytest.param(500, 50, marks=pytest.mark.deep)], ids=["some", "many"]
)
def test_none_is_lost_and_nothing_leaks_however_many_run(cloning: Daemon, in_a_row: int, at_once: int) -> None:
    warm_up: list[dict[str, Any]] = []
    all_at_once(cloning, 8, warm_up)  # every thread and buffer that it will ever want
    before = at_rest(cloning)
    replies: list[dict[str, Any]] = []
    one_after_another(cloning, in_a_row, replies)
    assert [reply["stdout"] for reply in replies] == [f"{number}\n" for number in range(in_a_row)]
    burst: list[dict[str, Any]] = []
    all_at_once(cloning, at_once, burst)
    assert sorted(int(reply["stdout"]) for reply in burst) == list(range(at_once))
    assert {reply["exit_code"] for reply in replies + burst} == {0}
    after = at_rest(cloning)
    assert after.sandboxes <= before.sandboxes + 1, "what is warm, and nothing else"
    assert after.children == 2 * after.sandboxes
    with cloning.connect() as connection:
        assert "boot" not in stages(connection)
    per_sandbox = 3 + 1
    assert after.descriptors <= before.descriptors + per_sandbox * max(0, after.sandboxes - before.sandboxes)
    assert after.pss_kib <= before.pss_kib + FLAT_KIB
    assert "Traceback" not in cloning.log()
