"""What a trial container's report says of an engine."""

from __future__ import annotations

import pytest

from agentkernel.drivers.docker.confinement import ANSWERS, CAPABILITIES, weaknesses
from agentkernel.drivers.hardening import MASKED

LINES = (
    *(f"status {name} 0000000000000000" for name in CAPABILITIES),
    "status NoNewPrivs 1",
    "status Seccomp 2",
    *(f"call {name} {answer}" for name, answer in ANSWERS.items()),
    *(f"path {path} empty" for path in MASKED),
)


def told(change: tuple[str, str] = ("", "")) -> str:
    """A report in order, with one line changed."""
    return "\n".join(LINES).replace(*change) if change[0] else "\n".join(LINES)


def test_a_container_that_is_held_as_asked_has_no_weakness() -> None:
    assert weaknesses(told()) == []


@pytest.mark.parametrize("state", ["absent", "closed"])
def test_a_path_that_is_not_there_or_cannot_be_opened_is_hidden_too(state: str) -> None:
    assert weaknesses(told(("/proc/keys empty", f"/proc/keys {state}"))) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("NoNewPrivs 1", "NoNewPrivs 0"), "no_new_privs"),
        (("CapEff 0000000000000000", "CapEff 00000000a80425fb"), "CapEff"),
        (("CapBnd 0000000000000000", "CapBnd 00000000a80425fb"), "CapBnd"),
        (("Seccomp 2", "Seccomp 0"), "no system calls are filtered"),
        (("call keyctl 1", "call keyctl 95"), "not ours (keyctl)"),
        (("call userfaultfd 38", "call userfaultfd 1"), "not ours (userfaultfd)"),
        (("/proc/interrupts empty", "/proc/interrupts open"), "not hidden (/proc/interrupts)"),
    ],
)
def test_each_thing_that_is_not_in_force_is_named(change: tuple[str, str], said: str) -> None:
    (found,) = weaknesses(told(change))
    assert said in found


@pytest.mark.parametrize("line", LINES)
def test_what_is_not_told_is_not_in_force(line: str) -> None:
    assert weaknesses(told((f"{line}\n", ""))) if line != LINES[-1] else weaknesses("\n".join(LINES[:-1]))


def test_of_many_paths_some_are_named() -> None:
    (found,) = weaknesses(told(("empty", "open")))
    assert f"and {len(MASKED) - 5} more" in found
