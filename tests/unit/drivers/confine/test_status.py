"""Status lines, and what a failure means."""

from __future__ import annotations

import errno

import pytest

from agentkernel.drivers.confine.status import Ended, Failed, Spawned, error_of, parse_status
from agentkernel.model.errors import Broken, Unsupported


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("spawned 12 345", Spawned(12, 345)),
        ("exited code 0", Ended(code=0)),
        ("exited signal 9", Ended(signal=9)),
        ("failed exec 2 No such file or directory", Failed("exec", 2, "No such file or directory")),
        (
            "failed user namespace 1 Operation not permitted: x is 0",
            Failed("user namespace", 1, "Operation not permitted: x is 0"),
        ),
    ],
)
def test_each_line_is_understood(line: str, status: object) -> None:
    assert parse_status(line) == status


@pytest.mark.parametrize("line", ["", "spawned", "spawned 1", "exited", "exited code x", "failed", "hello 1 2"])
def test_anything_else_is_refused(line: str) -> None:
    with pytest.raises(ValueError):
        parse_status(line)


def test_a_host_that_forbids_namespaces_is_unsupported_with_a_hint() -> None:
    error = error_of(Failed("namespaces", errno.EPERM, "Operation not permitted: a switch"), "/bin/vmm")
    assert isinstance(error, Unsupported)
    assert error.hint
    assert "a switch" in error.message


@pytest.mark.parametrize("failed", [Failed("exec", errno.EACCES, "no"), Failed("tree", errno.ENOENT, "no")])
def test_a_program_or_tree_that_is_wrong_is_broken(failed: Failed) -> None:
    assert isinstance(error_of(failed, "/bin/vmm"), Broken)


def test_an_end_reads_as_a_sentence() -> None:
    assert [str(end) for end in (Ended(code=3), Ended(signal=9), Ended())] == [
        "exited with status 3",
        "killed by signal 9",
        "ended with its supervisor",
    ]
