"""Archives: what they may make, and each attack beside the harmless thing that it imitates."""

from __future__ import annotations

import errno
import io
import os
import tarfile
from pathlib import Path

import pytest

from .peer import DONE, TAR_IN, Frame, Peer, failure, text, u32, u64

OWNER = 1000 if os.geteuid() == 0 else os.geteuid()


def member(
    name: str, kind: bytes = tarfile.REGTYPE, *, link: str = "", mode: int = 0o644, content: bytes = b""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.size, info.mtime = kind, link, mode, len(content), 1_600_000_000
    info.uid = info.gid = 0
    return info, content


def archive(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def send(peer: Peer, directory: Path, raw: bytes, *, piece_bytes: int = 65536, owner: str = "") -> Frame:
    return peer.upload(TAR_IN, text(str(directory)) + u32(0) + text(owner), raw, piece_bytes)


HELLO_FILE = member("hello", content=b"hello")


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("piece_bytes", [100, 512, 65536])
def test_all_that_is_allowed_is_made(peer: Peer, shared: Path, form: int, piece_bytes: int) -> None:
    long = (
        "d/" + "/".join(["a" * 60] * 3) + "/file"
        if form == tarfile.USTAR_FORMAT
        else "d/" + "/".join(["ü" * 90] * 4) + "/file"
    )
    raw = archive(
        member("./", tarfile.DIRTYPE, mode=0o755),
        member("d", tarfile.DIRTYPE, mode=0o750),
        member("./d/./file", mode=0o755, content=b"x" * 70_000),
        member(long, content=b"deep"),
        member("d/empty"),
        member("d/link", tarfile.SYMTYPE, link="file"),
        member("d/out", tarfile.SYMTYPE, link="/usr/bin/env"),
        member("d/hard", tarfile.LNKTYPE, link="d/file"),
        form=form,
    )
    done = send(peer, shared / "made" / "here", raw, piece_bytes=piece_bytes)
    assert (done.kind, done.payload) == (DONE, u64(8))
    root = shared / "made" / "here"
    assert (root / "d" / "file").read_bytes() == b"x" * 70_000
    assert (root / "d" / "file").stat().st_mode & 0o7777 == 0o755
    assert (root / "d" / "file").stat().st_mtime == 1_600_000_000
    assert (root / "d").stat().st_mode & 0o7777 == 0o750
    assert (root / long).read_bytes() == b"deep"
    assert (root / "d" / "link").readlink() == Path("file")
    assert (root / "d" / "out").readlink() == Path("/usr/bin/env")
    assert (root / "d" / "hard").samefile(root / "d" / "file")
    for path in [root, *root.rglob("*")]:
        assert path.lstat().st_uid == OWNER, path


def test_an_archive_may_be_unpacked_over_itself(peer: Peer, shared: Path) -> None:
    raw = archive(
        member("d", tarfile.DIRTYPE),
        HELLO_FILE,
        member("l", tarfile.SYMTYPE, link="hello"),
        member("h", tarfile.LNKTYPE, link="hello"),
    )
    for _ in range(2):
        assert send(peer, shared, raw).kind == DONE
    assert (shared / "h").read_bytes() == b"hello"


def attack(name: str, *members: tuple[tarfile.TarInfo, bytes]) -> object:
    return pytest.param(members, id=name)


@pytest.mark.parametrize(
    "members",
    [
        attack("absolute", member("/tmp/ak-escape", content=b"x")),
        attack("dot dot", member("../escape", content=b"x")),
        attack("dot dot within", member("a/../../escape", content=b"x")),
        attack("dot dot that stays inside", member("a/../b", content=b"x")),
        attack("only dot dot", member("..", tarfile.DIRTYPE)),
        attack("through a link", member("l", tarfile.SYMTYPE, link=".."), member("l/escape", content=b"x")),
        attack(
            "through a link that stays inside",
            member("d", tarfile.DIRTYPE),
            member("l", tarfile.SYMTYPE, link="d"),
            member("l/x", content=b"x"),
        ),
        attack("directory over a link", member("l", tarfile.SYMTYPE, link=".."), member("l", tarfile.DIRTYPE)),
        attack("directory below a link", member("l", tarfile.SYMTYPE, link=".."), member("l/escape", tarfile.DIRTYPE)),
        attack("hard link outside", member("h", tarfile.LNKTYPE, link="../outside")),
        attack("hard link absolute", member("h", tarfile.LNKTYPE, link="/etc/passwd")),
        attack(
            "hard link through a link",
            member("l", tarfile.SYMTYPE, link=".."),
            member("h", tarfile.LNKTYPE, link="l/outside"),
        ),
        attack(
            "hard link to a link",
            member("l", tarfile.SYMTYPE, link="../outside"),
            member("h", tarfile.LNKTYPE, link="l"),
        ),
        attack("hard link to nothing", member("h", tarfile.LNKTYPE, link="")),
        attack("character device", member("c", tarfile.CHRTYPE)),
        attack("block device", member("b", tarfile.BLKTYPE)),
        attack("fifo", member("p", tarfile.FIFOTYPE)),
        attack("file named dot", member(".", content=b"x")),
        attack("sparse file of GNU", member("s", tarfile.GNUTYPE_SPARSE)),
    ],
)
def test_what_would_leave_the_directory_is_refused(
    peer: Peer, shared: Path, members: tuple[tuple[tarfile.TarInfo, bytes], ...]
) -> None:
    outside = shared / "outside"
    outside.write_text("untouched")
    root = shared / "root"
    refused = send(peer, root, archive(HELLO_FILE, *members))
    number, blamed = failure(refused)
    assert (number, blamed.rstrip("/")) == (errno.EPERM, members[-1][0].name)
    assert (root / "hello").read_text() == "hello"  # what came before it was fine
    assert outside.read_text() == "untouched"
    assert outside.stat().st_nlink == 1
    assert not (shared / "escape").exists()
    assert not Path("/tmp/ak-escape").exists()
    assert sorted(entry.name for entry in shared.iterdir()) == ["outside", "root"]


def test_a_file_replaces_a_link_instead_of_writing_through_it(peer: Peer, shared: Path) -> None:
    (shared / "outside").write_text("untouched")
    root = shared / "root"
    root.mkdir()
    (root / "link").symlink_to(shared / "outside")
    os.link(shared / "outside", root / "hard")
    assert send(peer, root, archive(member("link", content=b"new"), member("hard", content=b"new"))).kind == DONE
    assert (shared / "outside").read_text() == "untouched"
    assert not (root / "link").is_symlink()
    assert (root / "hard").read_text() == "new"


def test_a_link_in_place_of_the_directory_is_refused(peer: Peer, shared: Path) -> None:
    (shared / "elsewhere").mkdir()
    (shared / "link").symlink_to(shared / "elsewhere")
    assert failure(send(peer, shared / "link", archive(HELLO_FILE)))[0] in (errno.ELOOP, errno.ENOTDIR)
    assert list((shared / "elsewhere").iterdir()) == []


def test_set_id_bits_are_dropped(peer: Peer, shared: Path) -> None:
    raw = archive(member("f", mode=0o6755, content=b"x"), member("d", tarfile.DIRTYPE, mode=0o7755))
    assert send(peer, shared, raw, owner="root" if os.geteuid() == 0 else "").kind == DONE
    assert (shared / "f").stat().st_mode & 0o7777 == 0o755
    assert (shared / "d").stat().st_mode & 0o7777 == 0o1755


@pytest.mark.parametrize("cut", [0, 1, 511, 512, 600, 1023, 1024])
def test_a_truncated_archive_is_refused(peer: Peer, shared: Path, cut: int) -> None:
    raw = archive(HELLO_FILE, form=tarfile.USTAR_FORMAT)
    assert failure(send(peer, shared, raw[:cut]))[0] == errno.EBADMSG
    assert send(peer, shared, raw[:1536]).kind == DONE


def test_a_wrong_checksum_and_absurd_sizes_are_refused(peer: Peer, shared: Path) -> None:
    raw = bytearray(archive(HELLO_FILE, form=tarfile.USTAR_FORMAT))
    raw[0] ^= 1
    assert failure(send(peer, shared, bytes(raw)))[0] == errno.EBADMSG
    huge = member("huge")
    huge[0].size = 2**62
    info = huge[0].tobuf(tarfile.GNU_FORMAT)
    assert failure(send(peer, shared, info + bytes(1024)))[0] == errno.EBADMSG
    long = tarfile.TarInfo("././@LongLink")
    long.type, long.size = tarfile.GNUTYPE_LONGNAME, 10**9
    assert failure(send(peer, shared, long.tobuf(tarfile.GNU_FORMAT)))[0] == errno.EBADMSG


def test_a_directory_is_not_replaced_by_a_file(peer: Peer, shared: Path) -> None:
    (shared / "hello").mkdir()
    assert failure(send(peer, shared, archive(HELLO_FILE)))[0] == errno.EISDIR
    (shared / "file").touch()
    assert failure(send(peer, shared, archive(member("file/below", content=b"x"))))[0] in (errno.ENOTDIR, errno.EPERM)
    assert failure(send(peer, shared, archive(member("file", tarfile.DIRTYPE))))[0] == errno.ENOTDIR


def test_flags_are_reserved(peer: Peer, shared: Path) -> None:
    assert failure(peer.upload(TAR_IN, text(str(shared)) + u32(1) + text(""), b""))[0] == errno.EINVAL
