"""What holds for every test: nothing is left behind."""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import hypothesis
import pytest

PR_SET_CHILD_SUBREAPER = 36
SETTLE_S = 5.0

hypothesis.settings.register_profile(
    "fast", max_examples=100, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile(
    "deep", max_examples=20_000, deadline=None, suppress_health_check=list(hypothesis.HealthCheck), database=None
)
hypothesis.settings.load_profile("fast")

KEPT_ROOTS: set[int] = set()
"""Processes that a session's fixture keeps on purpose; what they start is theirs."""
AT_SESSION_END = ExitStack()
"""What tests share until then."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--require-driver=qemu`: its tests fail where they would be skipped because the driver cannot work here."""
    parser.addoption("--require-driver", action="append", default=[], metavar="NAME", help="fail instead of skipping")
    parser.addoption(
        "--write-isolation-reports", action="store_true", help="keep what tests/security/test_isolation.py finds"
    )


def pytest_sessionstart() -> None:
    """Orphans of a test become our children, so that they can be seen; temporary files go to a folder of our own."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    os.environ["TMPDIR"] = tempfile.tempdir = tempfile.mkdtemp(prefix="ak-")
    Path(os.environ["TMPDIR"]).chmod(0o711)  # other users, which some tests become, pass through


def pytest_sessionfinish() -> None:
    """End what tests shared, and remove that folder."""
    AT_SESSION_END.close()
    shutil.rmtree(os.environ["TMPDIR"], ignore_errors=True)


def children_of_this_process() -> dict[int, str]:
    """Direct children, running or not, but for those kept on purpose."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        try:
            pids = [int(word) for word in (task / "children").read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue  # a thread that has just ended
        for pid in set(pids) - KEPT_ROOTS:
            try:
                found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def open_descriptors() -> dict[int, str]:
    """Descriptors and what they are open on."""
    found = {}
    for link in Path("/proc/self/fd").iterdir():
        try:
            found[int(link.name)] = str(link.readlink())
        except OSError:
            continue
    return found


def threads() -> set[threading.Thread]:
    """Threads of this process, but for the idle workers of an event loop that tests share."""
    return {thread for thread in threading.enumerate() if thread.name != "AnyIO worker thread"}


def mounts() -> set[str]:
    """Mount points of this namespace."""
    return {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}


def temporary_files() -> set[str]:
    """What stands in the temporary folder, but for what pytest itself manages."""
    return {path.name for path in Path(os.environ["TMPDIR"]).iterdir() if not path.name.startswith("pytest-of-")}


class Before(NamedTuple):
    """What is there when a test begins."""

    children: set[int]
    threads: set[threading.Thread]
    descriptors: set[tuple[int, str]]
    mounts: set[str]
    files: set[str]


@pytest.fixture(autouse=True)
def _nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a child process, a thread, a descriptor, a mount or a file."""
    before = Before(
        set(children_of_this_process()), threads(), set(open_descriptors().items()), mounts(), temporary_files()
    )
    yield
    left = leftovers(before)
    deadline = time.monotonic() + SETTLE_S
    while left and time.monotonic() < deadline:
        reap_orphans(before.children)
        time.sleep(0.02)
        left = leftovers(before)
    assert not left, f"left behind: {left}"


def leftovers(before: Before) -> dict[str, object]:
    """What is there now and was not before."""
    now = {
        "children": {pid: line for pid, line in children_of_this_process().items() if pid not in before.children},
        "threads": threads() - before.threads,
        "descriptors": {fd: to for fd, to in open_descriptors().items() if (fd, to) not in before.descriptors},
        "mounts": mounts() - before.mounts,
        "files": temporary_files() - before.files,
    }
    now["descriptors"] = {fd: to for fd, to in now["descriptors"].items() if not to.startswith("/proc/")}
    return {what: found for what, found in now.items() if found}


def reap_orphans(kept: set[int]) -> None:
    """Collect dead orphans that became ours; a test's own children are its own business, but dead ones are nobody's."""
    for pid in children_of_this_process():
        if pid not in kept:
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                continue


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The product runs on asyncio alone. For the session, so that tests can share sandboxes."""
    return "asyncio"
