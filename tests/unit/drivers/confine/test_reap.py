"""Which processes belong to a sandbox, read from a made-up /proc."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentkernel.drivers.confine.facts import confinement_of
from agentkernel.drivers.confine.reap import (
    ProcessName,
    children_of,
    process_name,
    recorded,
    start_ticks,
    supervisors_of,
)
from agentkernel.model.ids import SandboxId

ID = SandboxId("ab" * 16)


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "sys/kernel/random").mkdir(parents=True)
    (tmp_path / "sys/kernel/random/boot_id").write_text("boot\n")
    return tmp_path


def add(proc: Path, pid: int, *, cmdline: bytes = b"", parent: int = 1, ticks: int = 100, state: str = "S") -> None:
    (proc / str(pid)).mkdir()
    (proc / str(pid) / "cmdline").write_bytes(cmdline)
    fields = [state, str(parent), *["0"] * 17, str(ticks), "0"]
    (proc / str(pid) / "stat").write_text(f"{pid} (a) b ({pid}) {' '.join(fields)}\n")


def test_supervisors_are_found_by_the_whole_id(proc: Path) -> None:
    add(proc, 5, cmdline=b"agentkernel-sandbox\0" + ID.encode() + b"\0--pass\0")
    add(proc, 6, cmdline=b"agentkernel-sandbox\0" + ID[:-1].encode() + b"\0")
    add(proc, 7, cmdline=b"grep\0agentkernel-sandbox\0" + ID.encode() + b"\0")
    add(proc, 8)
    assert supervisors_of(ID, proc) == [5]


def test_children_are_found_by_their_parent(proc: Path) -> None:
    add(proc, 5)
    add(proc, 6, parent=5)
    add(proc, 7, parent=6)
    assert children_of([5], proc) == [6]
    assert children_of([], proc) == []


def test_a_name_holds_boot_pid_and_start_whatever_the_program_calls_itself(proc: Path) -> None:
    add(proc, 5, ticks=4711)
    assert process_name(5, proc) == ProcessName("boot", 5, 4711)


def test_a_zombie_and_a_missing_process_have_no_name(proc: Path) -> None:
    add(proc, 5, state="Z")
    assert start_ticks(5, proc) is None
    assert process_name(6, proc) is None


def test_recorded_facts_name_supervisor_and_program() -> None:
    facts: dict[str, str | int] = {
        "boot_id": "b",
        "supervisor_pid": 1,
        "supervisor_ticks": 2,
        "pid": 3,
        "start_ticks": 4,
    }
    assert list(recorded(facts)) == [ProcessName("b", 1, 2), ProcessName("b", 3, 4)]
    assert list(recorded({"pid": 3})) == []


def test_weaknesses_name_each_thing_that_is_missing() -> None:
    mine = confinement_of("self")
    found = mine.weaknesses(mine)
    assert "shares the pid namespace with the daemon" in found
    assert "shares the mnt namespace with the daemon" in found
