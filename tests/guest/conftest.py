"""The agent under test is the address- and undefined-behaviour-sanitizer build, on a socketpair."""

from __future__ import annotations

import contextlib
import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from .peer import Agent, Peer

ROOT = Path(__file__).resolve().parents[2]
GUEST = ROOT / "guest"


def processes_with(marker: str) -> list[str]:
    """Command lines of processes whose environment holds that text."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if marker.encode() in environ.read_bytes():
                found.append(environ.with_name("cmdline").read_bytes().decode(errors="replace"))
    return found


@pytest.fixture(scope="session")
def guest_folder() -> Path:
    return GUEST


@pytest.fixture(scope="session")
def program() -> Path:
    made = subprocess.run(["make", "-C", str(GUEST), "agent-asan"], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.fail(f"the agent does not build:\n{made.stderr[-4000:]}")
    return GUEST / "build" / "asan" / "agent"


@pytest.fixture
def agent(program: Path, tmp_path: Path) -> Iterator[Agent]:
    """Attached and greeted; afterwards it must have ended cleanly: no sanitizer's word, nothing left running."""
    marker = f"AGENT_TEST={uuid.uuid4()}"
    (tmp_path / "run").mkdir()
    # Freed memory that the sanitizer holds back would look like growth.
    environment = {**os.environ, "ASAN_OPTIONS": "quarantine_size_mb=1"}
    started = Agent(program, "--run-directory", str(tmp_path / "run"), env=environment)
    try:
        started.peer.attach()
        started.peer.greet()
        started.peer.environment = dict([marker.split("=")])
        yield started
        code = started.close()
        assert code == 0, started.log.decode(errors="replace")
        assert b"Sanitizer" not in started.log
        assert b"runtime error" not in started.log
        assert processes_with(marker) == []
    finally:
        if started.process.poll() is None:
            started.process.kill()
            started.process.communicate()


@pytest.fixture
def peer(agent: Agent) -> Peer:
    return agent.peer


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder that uid 1000 may use too: pytest's own folders are for their owner alone."""
    folder = tmp_path
    while folder != Path("/tmp") and folder != folder.parent:
        if folder.stat().st_uid == os.getuid():
            folder.chmod(folder.stat().st_mode | 0o055)
        folder = folder.parent
    made = tmp_path / "shared"
    made.mkdir()
    made.chmod(0o777)
    return made
