"""`agentkernel run --image`, through a real daemon, its templates and its pool."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from tests.support.daemons import Daemon
from tests.support.layers import Image, member, tar, write_layout

from agentkernel.images.store import Store

pytestmark = pytest.mark.vm
TOP = Path(__file__).parents[2]


@pytest.fixture
def layout(tmp_path: Path, daemon: Daemon) -> Iterator[str]:
    """An image of one static program, which goes after the test."""
    compiler = shlex.split(subprocess.run([TOP / "tools/cc.sh"], capture_output=True, text=True, check=True).stdout)
    source = TOP / "tests/integration/images/look.c"
    subprocess.run([*compiler, "-static", "-o", tmp_path / "look", source], check=True)
    layer = tar(member("look", (tmp_path / "look").read_bytes(), mode=0o555))
    start = {"User": "65532", "Env": ["COLOUR=plain"], "WorkingDir": "/data", "Entrypoint": ["/look"], "Cmd": ["at"]}
    name = write_layout(Image([layer], start), tmp_path / "layout")
    yield name
    library = Store(daemon.environment).library
    if library.has(name):
        anyio.run(library.remove, name)


def test_an_image_by_path_runs_as_it_says_and_as_the_caller_says(daemon: Daemon, layout: str, tmp_path: Path):
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "agentkernel", "run", "--backend", "microvm", "--image", *words],
            env=daemon.environment,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    whole = "uid=65532 gid=65532 cwd=/data colour=plain"
    first = run("oci:layout")
    assert (first.returncode, first.stdout) == (0, f"{whole} at\n"), first.stderr
    assert "unpack layer 1 of 1" in first.stderr
    given = run(layout, "--env", "COLOUR=own", "--user", "7", "--workdir", "/", "--", "/look", "you")
    assert given.stdout == "uid=7 gid=7 cwd=/ colour=own you\n"
    assert "unpack" not in given.stderr
    none = run("oci:nowhere")
    assert (none.returncode, "there is no" in none.stderr) == (125, True)
