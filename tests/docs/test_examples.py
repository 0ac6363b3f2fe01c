"""Every program in docs/examples, run as a reader would run it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.daemons import Daemon

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs/examples"
TIMEOUT_S = 180

pytestmark = pytest.mark.vm


def run(name: str, daemon: Daemon) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / name],
        env=daemon.environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def test_ten_lines_run_a_command(daemon: Daemon) -> None:
    done = run("raw_exec.py", daemon)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"Linux x86_64\nexit code 0 in vm(-emulated)?\n", done.stdout)


def test_a_stream_gives_output_as_it_comes_and_takes_input(daemon: Daemon) -> None:
    done = run("stream.py", daemon)
    assert done.returncode == 3, done.stderr
    assert re.match(r"started in vm(-emulated)?\n", done.stdout)
    assert set(done.stdout.splitlines()[1:]) == {"stdout: hello world", "stderr: trouble"}


def test_a_lease_keeps_its_files_and_its_guest_can_be_talked_to(daemon: Daemon) -> None:
    done = run("lease.py", daemon)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "2 entries put\none\ntwo\nthree\n"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


def test_the_client_in_the_readme_runs(daemon: Daemon) -> None:
    (program,) = blocks("README.md", "python")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=daemon.environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "0 hello\n"
