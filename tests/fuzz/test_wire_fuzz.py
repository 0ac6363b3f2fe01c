"""The fuzz harness runs, and finds nothing in a few seconds."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HARNESS = Path(__file__).with_name("wire_fuzz.py")
SOURCE = Path(__file__).parents[2] / "src"


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not to be had for this Python")
def test_a_few_seconds_of_fuzzing_find_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    arguments = [
        "-max_total_time=4",
        "-max_len=600",
        "-rss_limit_mb=1024",
        "-timeout=5",
        f"-artifact_prefix={tmp_path}/",
    ]
    command = [sys.executable, str(HARNESS), *arguments]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-3000:]
    assert b"DONE" in done.stderr
