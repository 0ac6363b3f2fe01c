"""What of a folder is packed for a sandbox, and what is not."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from agentkernel.cli import project
from agentkernel.cli.hot import Failure
from agentkernel.cli.project import CHUNK_BYTES, packed


def members(folder: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(b"".join(packed(str(folder))))) as archive:
        return {member.name: member for member in archive.getmembers()}


def put(folder: Path, **files: str) -> None:
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def test_folders_come_before_what_is_in_them_and_modes_are_kept(tmp_path: Path) -> None:
    put(tmp_path, src__deep__a="a", b="b")
    (tmp_path / "b").chmod(0o750)
    found = members(tmp_path)
    assert list(found) == ["src", "b", "src/deep", "src/deep/a"]
    assert found["b"].mode == 0o750
    assert {(member.uid, member.uname) for member in found.values()} == {(0, "")}


def test_ignore_files_are_honoured_and_say_more_than_our_own_rules(tmp_path: Path) -> None:
    put(tmp_path, kept="", secret="", build__x="", node_modules__y="", git__z="", venv__w="")
    (tmp_path / "git").rename(tmp_path / ".git")
    (tmp_path / "venv").rename(tmp_path / ".venv")
    (tmp_path / ".gitignore").write_text("build/\n!node_modules/\n")
    (tmp_path / ".agentkernelignore").write_text("secret\n")
    assert set(members(tmp_path)) == {".agentkernelignore", ".gitignore", "kept", "node_modules", "node_modules/y"}


def test_a_link_that_leads_out_is_packed_as_a_link_and_nothing_behind_it(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    put(outside, secret="hidden")
    inside.mkdir()
    (inside / "folder").symlink_to(outside)
    (inside / "file").symlink_to(outside / "secret")
    put(inside, control="seen")
    stream = b"".join(packed(str(inside)))
    assert b"seen" in stream
    assert b"hidden" not in stream
    found = members(inside)
    assert set(found) == {"control", "file", "folder"}
    assert found["folder"].issym()
    assert found["file"].issym()


def test_pipes_and_sockets_are_left_out(tmp_path: Path) -> None:
    put(tmp_path, kept="")
    os.mkfifo(tmp_path / "pipe")
    assert set(members(tmp_path)) == {"kept"}


def test_two_names_of_one_file_are_two_files(tmp_path: Path) -> None:
    put(tmp_path, one="content")
    (tmp_path / "two").hardlink_to(tmp_path / "one")
    found = members(tmp_path)
    assert [found[name].isreg() and found[name].size for name in ("one", "two")] == [7, 7]


def test_every_chunk_fits_into_a_line(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(os.urandom(3 * CHUNK_BYTES))
    chunks = list(packed(str(tmp_path)))
    assert max(map(len, chunks)) <= CHUNK_BYTES
    assert sum(map(len, chunks)) > 3 * CHUNK_BYTES


def test_an_empty_folder_is_an_archive_too(tmp_path: Path) -> None:
    assert members(tmp_path) == {}


def test_too_much_is_refused_and_says_how_to_leave_something_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(project, "MAX_PROJECT_BYTES", 10)
    put(tmp_path, a="12345", b="123456")
    with pytest.raises(Failure) as caught:
        list(packed(str(tmp_path)))
    assert ".agentkernelignore" in caught.value.hint


def test_a_file_that_cannot_be_read_or_shrinks_meanwhile_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, growing="12345")
    measured = tarfile.TarFile.gettarinfo

    def shrink(archive: tarfile.TarFile, path: str, arcname: str) -> tarfile.TarInfo:
        member = measured(archive, path, arcname=arcname)
        (tmp_path / "growing").write_text("1")
        return member

    monkeypatch.setattr(tarfile.TarFile, "gettarinfo", shrink)
    with pytest.raises(Failure, match="growing cannot be read"):
        list(packed(str(tmp_path)))
