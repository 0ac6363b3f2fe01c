"""The sandbox's own tree, its archives, and input for programs that do not read."""

from __future__ import annotations

import errno
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from agentkernel.drivers.worker.archive import extract
from agentkernel.drivers.worker.feeder import Feeder
from agentkernel.drivers.worker.tree import Tree


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Below a folder that has a neighbour."""
    (tmp_path / "secret").write_text("of the worker")
    made = Tree(tmp_path / "root")
    (tmp_path / "root/workspace/out").symlink_to("../../secret")
    (tmp_path / "root/workspace/etc").symlink_to("/etc")
    return made


def test_links_are_followed_inside_and_never_out(tree: Tree) -> None:
    tree.write("/etc/hostname", b"inside\n")
    file = tree.open("/workspace/etc/hostname", os.O_RDONLY)
    assert os.read(file, 100) == b"inside\n"
    os.close(file)
    for path in ("/workspace/out", "/../secret", "/workspace/../../secret"):
        with pytest.raises(FileNotFoundError):
            tree.open(path, os.O_RDONLY)
    os.close(tree._root)


def test_what_is_made_and_listed_and_removed_is_told_with_the_path(tree: Tree) -> None:
    tree.make_directory("/workspace/a/b", 0o755, parents=True)
    tree.make_directory("/workspace/a/b", 0o755, parents=True)
    tree.write("/workspace/a/b/file", b"x")
    assert [entry.name for entry in tree.entries("/workspace/a")] == ["b"]
    assert tree.entry("/workspace/out").kind == "l"
    assert (tree.entry("/workspace/a/b/file").size, tree.entry("/workspace/a/b/file").uid) == (1, 1000)
    attempts: list[tuple[Callable[[], object], int]] = [
        (lambda: tree.make_directory("/workspace/a/b/file", 0o755, parents=True), errno.EEXIST),
        (lambda: tree.make_directory("/workspace/a/b/file/c", 0o755, parents=True), errno.ENOTDIR),
        (lambda: tree.remove("/workspace/a", recursive=False), errno.ENOTEMPTY),
        (lambda: tree.remove("/workspace/..", recursive=True), errno.EINVAL),
        (lambda: tree.entry("/nothing"), errno.ENOENT),
    ]
    for attempt, expected in attempts:
        with pytest.raises(OSError) as caught:
            attempt()
        assert caught.value.errno == expected
    tree.remove("/workspace/a", recursive=True)
    assert {entry.name for entry in tree.entries("/workspace")} == {"out", "etc"}
    os.close(tree._root)


def packed(name: str, *, kind: bytes = tarfile.REGTYPE, target: str = "", content: bytes = b"") -> bytes:
    """An archive of one member."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname, member.size, member.mode = kind, target, len(content), 0o4755
        archive.addfile(member, io.BytesIO(content))
    return made.getvalue()


def test_an_archive_stays_below_its_directory_and_loses_its_set_id_bits(tree: Tree, tmp_path: Path) -> None:
    assert extract(tree, "/workspace", io.BytesIO(packed("sub/file", content=b"x"))) == 1
    assert (tmp_path / "root/workspace/sub/file").stat().st_mode & 0o7777 == 0o755
    assert extract(tree, "/workspace", io.BytesIO(packed("hard", kind=tarfile.LNKTYPE, target="sub/file"))) == 1
    attacks = {
        "absolute": packed("/file", content=b"x"),
        "up": packed("../file", content=b"x"),
        "through a link": packed("etc/file", content=b"x"),
        "hard link out": packed("h", kind=tarfile.LNKTYPE, target="../secret"),
        "hard link through a link": packed("h", kind=tarfile.LNKTYPE, target="out"),
        "device": packed("null", kind=tarfile.CHRTYPE),
        "pipe": packed("pipe", kind=tarfile.FIFOTYPE),
    }
    for name, content in attacks.items():
        with pytest.raises(OSError) as caught:
            extract(tree, "/workspace", io.BytesIO(content))
        assert caught.value.errno == errno.EPERM, name
    os.close(tree._root)


def test_half_an_archive_is_not_an_archive(tree: Tree) -> None:
    whole = packed("file", content=b"x" * 2000)
    assert extract(tree, "/workspace", io.BytesIO(whole)) == 1
    for content in (whole[:700], whole[:2560], b"", b"no archive" * 100):
        with pytest.raises(OSError) as caught:
            extract(tree, "/workspace", io.BytesIO(content))
        assert caught.value.errno == errno.EBADMSG
    os.close(tree._root)


def test_input_waits_for_its_reader_and_is_counted_once() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    taken: list[int] = []
    feeder = Feeder(writing, taken.append)
    feeder.put(b"x" * 200_000)
    feeder.end()
    assert feeder.waiting and 0 < sum(taken) < 200_000
    seen = 0
    while some := os.read(reading, 65536):
        seen += len(some)
        feeder.push()
    assert (seen, sum(taken), feeder.waiting, feeder.pipe) == (200_000, 200_000, False, -1)
    os.close(reading)


def test_input_that_nobody_reads_any_more_is_dropped_and_counted() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    taken: list[int] = []
    feeder = Feeder(writing, taken.append)
    feeder.put(b"x" * 200_000)
    os.close(reading)
    feeder.push()
    feeder.put(b"more")
    assert (sum(taken), feeder.pipe) == (200_004, -1)
