"""Full and read-only disks, in mount namespaces of their own; killed builders; no network."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import anyio
import pytest

from agentkernel.images.store import Store
from agentkernel.model.errors import Busy

pytestmark = pytest.mark.anyio

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system, which takes root")

_FILL = """
    if detail == "WHEN":
        import contextlib
        from agentkernel.images.store import data_folder
        with contextlib.suppress(OSError), open(data_folder(__import__("os").environ) / "readiness", "wb") as stream:
            while True:
                stream.write(bytes(1 << 20))
""".strip()
"""Fills the file system at one stage of the work."""

_CHILD = """
import anyio, sys
from pathlib import Path
from agentkernel.images.store import Store
from agentkernel.model.errors import AgentkernelError
def show(stage, detail, done=None, total=None):
    print("progress", stage, detail, flush=True)
    HOOK
async def main():
    store = Store(progress=show)
    try:
        CALL
    except AgentkernelError as error:
        print("error", type(error).__name__, error.message, "|", error.hint, flush=True)
    left = [str(path) for path in store.data.rglob(".new-*")]
    print("left", left)
anyio.run(main)
"""


def child(call: str, environ: dict[str, str], *, mount: str = "", hook: str = "") -> subprocess.Popen[str]:
    """A process that does one thing with a store, on a file system that only it sees."""
    code = _CHILD.replace("CALL", call).replace("HOOK", hook or "pass")
    command = [sys.executable, "-c", code]
    if mount:
        script = f'mount -t tmpfs {mount} tmpfs "$AGENTKERNEL_DATA" && exec "$@"'
        command = ["unshare", "--mount", "sh", "-c", script, "sh", *command]
        Path(environ["AGENTKERNEL_DATA"]).mkdir(parents=True)
    return subprocess.Popen(command, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def output(process: subprocess.Popen[str]) -> str:
    with process:
        text, _ = process.communicate(timeout=240)
    assert process.returncode == 0, text
    return text


@as_root
async def test_a_disk_too_small_for_the_packages_is_told_before_they_are_fetched(own):
    text = output(child('await store.tool("qemu")', own, mount="-o size=200m"))
    assert "error Busy no space left" in text
    assert "it needs about" in text
    assert "progress tools unpack" not in text
    assert "left []" in text


@as_root
async def test_a_disk_that_fills_up_while_something_is_made_is_told_and_nothing_partial_stays(own):
    text = output(child("await store.blank_disk(1)", own, mount="-o size=230m", hook=_FILL.replace("WHEN", "unpack")))
    assert "error Busy no space left" in text
    assert "left []" in text


@as_root
@pytest.mark.deep
@pytest.mark.parametrize("when", ["essential", "install", "pack"])
async def test_a_disk_that_fills_up_while_an_image_is_built_is_told_and_nothing_partial_stays(own, when):
    text = output(child('await store.ensure("base")', own, mount="-o size=1200m", hook=_FILL.replace("WHEN", when)))
    assert "error Busy no space left" in text
    assert "left []" in text


@as_root
async def test_a_read_only_data_folder_is_told_with_the_variable(own):
    text = output(child('store.resolve("base")', own, mount="-o size=1m,ro"))
    assert "error Refused cannot write" in text
    assert "AGENTKERNEL_DATA" in text


async def test_an_archive_that_cannot_be_reached_is_told_with_the_mirror(own):
    own["AGENTKERNEL_MIRROR"] = "http://127.0.0.1:9/debian"
    with pytest.raises(Busy, match="cannot be reached") as caught:
        await Store(own).tool("qemu")
    assert "AGENTKERNEL_MIRROR" in caught.value.hint


async def test_the_same_goes_on_when_the_archive_is_back(own, environment):
    broken = own | {"AGENTKERNEL_MIRROR": "http://127.0.0.1:9/debian"}
    with pytest.raises(Busy):
        await Store(broken).tool("qemu")
    assert (await Store(own).tool("qemu")).version


def _processes_of(folder: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:
            continue
        if folder.encode() in command and f"{os.getpid()}" != path.parent.name:
            found.append(command.replace(b"\0", b" ").decode(errors="replace"))
    return found


@as_root
@pytest.mark.deep
def test_a_builder_that_is_killed_takes_its_children_along_and_the_next_one_succeeds(own, environment):
    if Path(environment["AGENTKERNEL_DATA"], "apt").is_dir():
        shutil.copytree(Path(environment["AGENTKERNEL_DATA"], "apt"), Path(own["AGENTKERNEL_DATA"], "apt"))
    process = child('await store.ensure("base")', own)
    with process:
        assert process.stdout
        for line in process.stdout:
            if "essential" in line:
                break
        time.sleep(1)
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while _processes_of(own["AGENTKERNEL_DATA"]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _processes_of(own["AGENTKERNEL_DATA"]) == []
    assert own["AGENTKERNEL_DATA"] not in Path("/proc/mounts").read_text()
    digest = anyio.run(Store(own).ensure, "base")
    assert [path.name for path in Path(own["AGENTKERNEL_DATA"], "images").iterdir()] == [digest]
