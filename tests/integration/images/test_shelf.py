"""Artefacts on a real file system: made once, whole or not at all, checked, found again."""

import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import anyio
import pytest

from agentkernel.images.shelf import TAG, Recorded, Shelf
from agentkernel.model.errors import AgentkernelError, Busy, Refused

pytestmark = pytest.mark.anyio
DIGEST = "d" * 64


class Builder:
    """Counts, and writes one file."""

    def __init__(self, content: bytes = b"content") -> None:
        self.calls = 0
        self.content = content

    async def __call__(self, folder: Path) -> Recorded:
        self.calls += 1
        await anyio.sleep(0.01)
        (folder / "file").write_bytes(self.content)
        return Recorded(files=["file"], facts={"release": "1"})


def python(code: str) -> subprocess.Popen[bytes]:
    """Another process."""
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)


@pytest.fixture
def shelf(tmp_path) -> Shelf:
    return Shelf(tmp_path / "data")


def names(shelf: Shelf) -> list[str]:
    return sorted(path.name for path in (shelf.data / "disks").iterdir())


async def test_an_artefact_is_made_once_and_found_again(shelf):
    builder = Builder()
    made = await shelf.make("disks", DIGEST, builder)
    assert await shelf.make("disks", DIGEST, builder) == made
    assert Shelf(shelf.data).find("disks", DIGEST) == made
    assert made.manifest.facts == {"release": "1"}
    assert builder.calls == 1


async def test_callers_at_the_same_time_share_one_build(shelf):
    builder = Builder()
    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(shelf.make, "disks", DIGEST, builder)
    assert builder.calls == 1


async def test_builders_in_two_processes_make_one(shelf, tmp_path):
    code = f"""
import anyio, pathlib
from agentkernel.images.shelf import Recorded, Shelf
async def build(folder):
    with open({str(tmp_path / "calls")!r}, "a") as calls:
        calls.write("x")
    await anyio.sleep(0.3)
    (folder / "file").write_bytes(b"content")
    return Recorded(files=["file"])
anyio.run(Shelf(pathlib.Path({str(shelf.data)!r})).make, "disks", {DIGEST!r}, build)
"""
    children = [python(code) for _ in range(3)]
    for child in children:
        with child:
            assert child.wait(30) == 0
    assert (tmp_path / "calls").read_text() == "x"


async def test_a_waiting_builder_can_be_cancelled(shelf):
    shelf.prepare()
    async with shelf.lock(f"disks-{DIGEST}"):
        with anyio.move_on_after(0.2) as scope:
            await shelf.make("disks", DIGEST, Builder())
        assert scope.cancelled_caught
    await shelf.make("disks", DIGEST, Builder())


async def test_the_data_folder_is_its_owners_alone_and_tagged_as_a_cache(shelf):
    await shelf.make("disks", DIGEST, Builder())
    assert stat.S_IMODE(shelf.data.stat().st_mode) == 0o700
    assert (shelf.data / TAG).read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55")


async def test_a_failed_build_leaves_nothing_and_the_next_one_succeeds(shelf):
    async def fail(folder: Path) -> Recorded:
        (folder / "half").write_bytes(b"x")
        raise OSError(28, "No space left on device")

    with pytest.raises(Busy, match="no space left"):
        await shelf.make("disks", DIGEST, fail)
    assert names(shelf) == []
    assert await shelf.make("disks", DIGEST, Builder())


async def test_a_cancelled_build_leaves_nothing(shelf):
    async def slow(folder: Path) -> Recorded:
        (folder / "half").write_bytes(b"x")
        await anyio.sleep_forever()
        raise AssertionError

    with anyio.move_on_after(0.1):
        await shelf.make("disks", DIGEST, slow)
    assert names(shelf) == []


async def test_what_a_killed_builder_left_is_cleaned_by_the_next(shelf):
    shelf.prepare()
    code = f"""
import anyio, pathlib
from agentkernel.images.shelf import Shelf
async def build(folder):
    (folder / "half").write_bytes(b"x")
    print("begun", flush=True)
    await anyio.sleep_forever()
anyio.run(Shelf(pathlib.Path({str(shelf.data)!r})).make, "disks", {DIGEST!r}, build)
"""
    with python(code) as child:
        assert child.stdout
        assert child.stdout.readline() == b"begun\n"
        child.kill()
    assert names(shelf) == [f".new-{DIGEST}"]
    await shelf.make("disks", DIGEST, Builder())
    assert names(shelf) == [DIGEST]


async def test_what_a_killed_builder_left_can_be_pruned(shelf):
    shelf.prepare()
    (shelf.data / "disks" / f".new-{DIGEST}").mkdir()
    await shelf.clear_abandoned("disks")
    assert names(shelf) == []


async def test_a_build_that_is_under_way_is_not_pruned(shelf):
    shelf.prepare()
    (shelf.data / "disks" / f".new-{DIGEST}").mkdir()
    async with shelf.lock(f"disks-{DIGEST}"):
        await shelf.clear_abandoned("disks")
    assert names(shelf) == [f".new-{DIGEST}"]


@pytest.mark.parametrize("damage", ["content", "size", "missing", "manifest"])
async def test_a_damaged_artefact_is_built_again(shelf, damage):
    artefact = await shelf.make("disks", DIGEST, Builder())
    path = artefact.file("file")
    match damage:
        case "content":
            path.write_bytes(b"cONTENT")
        case "size":
            path.write_bytes(b"cont")
        case "missing":
            path.unlink()
        case "manifest":
            (artefact.folder / "manifest.json").write_text('{"files": 3}')
    builder = Builder()
    again = await Shelf(shelf.data).make("disks", DIGEST, builder)
    assert builder.calls == 1
    assert again.file("file").read_bytes() == b"content"
    assert names(shelf) == [DIGEST]


async def test_damage_that_hides_behind_an_unchanged_size_and_time_is_found_by_reading(shelf):
    artefact = await shelf.make("disks", DIGEST, Builder())
    path = artefact.file("file")
    before = path.stat()
    with path.open("r+b") as stream:
        stream.write(b"X")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert shelf.find("disks", DIGEST)
    assert shelf.verify(artefact) == ["file"]


async def test_a_copied_data_folder_is_good_without_building(shelf, tmp_path):
    await shelf.make("disks", DIGEST, Builder())
    shutil.copytree(shelf.data, tmp_path / "copy")
    builder = Builder()
    copy = Shelf(tmp_path / "copy")
    assert copy.find("disks", DIGEST) is None
    assert await copy.make("disks", DIGEST, builder)
    assert builder.calls == 0
    assert copy.find("disks", DIGEST)


async def test_the_files_of_a_tree_are_checked_one_by_one(shelf):
    async def build(folder: Path) -> Recorded:
        (folder / "root" / "bin").mkdir(parents=True)
        (folder / "root" / "bin" / "a").write_text("a")
        (folder / "root" / "link").symlink_to("bin/a")
        return Recorded(files=[], tree="root")

    artefact = await shelf.make("tools", DIGEST, build)
    assert shelf.verify(artefact) == []
    artefact.file("root/link").unlink()
    artefact.file("root/link").symlink_to("/etc/passwd")
    assert shelf.verify(artefact) == ["root/link"]


async def test_removing_frees_what_was_used(shelf):
    await shelf.make("disks", DIGEST, Builder(b"x" * 100_000))
    assert await shelf.remove("disks", DIGEST) >= 100_000
    assert shelf.find("disks", DIGEST) is None


async def test_a_folder_with_other_peoples_files_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    tmp_path.chmod(0o755)
    with pytest.raises(Refused, match=r"thesis\.txt"):
        Shelf(tmp_path).prepare()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


async def test_a_data_folder_that_cannot_be_made_is_told_with_the_variable(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AgentkernelError, match="preparing the data folder"):
        Shelf(tmp_path / "file" / "data").prepare()


async def test_the_quick_check_is_quick(shelf):
    await shelf.make("disks", DIGEST, Builder())
    began = time.monotonic()
    for _ in range(100):
        assert shelf.find("disks", DIGEST)
    assert (time.monotonic() - began) / 100 < 0.002
