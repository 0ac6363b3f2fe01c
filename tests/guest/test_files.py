"""File requests: what they do, what they refuse, and that nothing can hang them."""

from __future__ import annotations

import errno
import os
import struct
import time
from pathlib import Path

import pytest

from .peer import (
    CANCEL,
    DATA,
    DATA_BACK,
    DONE,
    END,
    ENTRIES,
    FAILED,
    LIST,
    MKDIR,
    READ,
    REMOVE,
    RENAME,
    STAT,
    WINDOW_BYTES,
    WRITE,
    Frame,
    Peer,
    failure,
    text,
    u32,
    u64,
)

ATOMIC, APPEND, PARENTS, NEW = 1, 2, 4, 8
OWNER = 1000 if os.geteuid() == 0 else os.geteuid()


def write(peer: Peer, path: Path, content: bytes, *, mode: int = 0o644, flags: int = 0, owner: str = "") -> Frame:
    return peer.upload(WRITE, text(str(path)) + u32(mode) + u32(flags) + text(owner), content)


def refusal(frame: Frame) -> int:
    return failure(frame)[0]


def parse_entries(payload: bytes) -> list[tuple[bytes, str, int, int, int, int, int]]:
    (count,) = struct.unpack_from("<I", payload)
    at, found = 4, []
    for _ in range(count):
        (length,) = struct.unpack_from("<I", payload, at)
        name = payload[at + 4 : at + 4 + length]
        letter, mode, size, modified, uid, gid = struct.unpack_from("<cIQQII", payload, at + 4 + length)
        found.append((name, letter.decode(), mode, size, modified, uid, gid))
        at += 4 + length + 29
    assert at == len(payload)
    return found


@pytest.mark.parametrize("flags", [0, ATOMIC, APPEND, NEW, ATOMIC | NEW])
@pytest.mark.parametrize("size", [0, 1, 65536, 1_500_000])
def test_what_is_written_is_read_back(peer: Peer, shared: Path, flags: int, size: int) -> None:
    path = shared / "file"
    content = os.urandom(size)
    done = write(peer, path, content, mode=0o640, flags=flags)
    assert (done.kind, done.payload) == (DONE, u64(size))
    assert path.read_bytes() == content
    assert path.stat().st_mode & 0o7777 == 0o640
    assert path.stat().st_uid == OWNER
    got, done = peer.download(str(path))
    assert got == content
    assert (done.kind, done.payload) == (DONE, u64(size) + u32(0o640))
    assert [entry.name for entry in shared.iterdir()] == ["file"]


def test_ranges_are_read(peer: Peer, shared: Path) -> None:
    (shared / "file").write_bytes(bytes(range(256)) * 1000)
    assert peer.download(str(shared / "file"), 255, 3)[0] == b"\xff\x00\x01"
    assert peer.download(str(shared / "file"), 255_999)[0] == b"\xff"
    assert peer.download(str(shared / "file"), 10**9)[0] == b""
    assert peer.download(str(shared / "file"), 0, 0)[1].kind == DONE
    assert refusal(peer.download(str(shared / "file"), 2**63)[1]) == errno.EINVAL
    assert peer.download("/proc/self/stat")[0].startswith(b"1" if os.getpid() == 1 else b"")


def test_atomic_replacement_shows_the_old_file_until_the_end(peer: Peer, shared: Path) -> None:
    path = shared / "file"
    path.write_text("old")
    channel = peer.channel()
    peer.tell(channel, WRITE, text(str(path)) + u32(0o600) + u32(ATOMIC) + text(""))
    peer.tell(channel, DATA, b"new")
    peer.ping()
    assert path.read_text() == "old"
    assert len(list(shared.iterdir())) == 2
    peer.tell(channel, END)
    assert peer.wait_for(channel, DONE).payload == u64(3)
    assert path.read_text() == "new"
    assert len(list(shared.iterdir())) == 1


@pytest.mark.parametrize("how", ["cancel", "epoch", "framing error", "overrun"])
def test_a_half_written_atomic_file_is_removed(peer: Peer, shared: Path, how: str) -> None:
    path = shared / "file"
    path.write_text("old")
    channel = peer.channel()
    peer.tell(channel, WRITE, text(str(path)) + u32(0o600) + u32(ATOMIC) + text(""))
    peer.tell(channel, DATA, b"half")
    peer.ping()
    if how == "cancel":
        peer.tell(channel, CANCEL)
        assert refusal(peer.wait_for(channel, FAILED)) == errno.ECANCELED
    elif how == "epoch":
        peer.attach()
    elif how == "framing error":
        peer.send(bytes(16))
        peer.attach()
    else:
        # A host that ignores credit can not overrun a file that takes all it gets: this is the positive control for
        # the window test of a program that reads nothing.
        for _ in range(8):
            peer.tell(channel, DATA, b"x" * 65536)
        peer.tell(channel, CANCEL)
        assert refusal(peer.wait_for(channel, FAILED)) == errno.ECANCELED
    if peer.next_channel == 1:
        peer.greet()
    assert [entry.name for entry in shared.iterdir()] == ["file"]
    assert path.read_text() == "old"


def test_write_flags_do_what_they_say(peer: Peer, shared: Path) -> None:
    path = shared / "a" / "b" / "file"
    assert refusal(write(peer, path, b"x")) == errno.ENOENT
    assert write(peer, path, b"one", flags=PARENTS).kind == DONE
    assert path.parent.stat().st_uid == path.parent.parent.stat().st_uid == OWNER
    assert write(peer, path, b"two", flags=APPEND).kind == DONE
    assert path.read_bytes() == b"onetwo"
    for flags in (NEW, NEW | ATOMIC):
        assert refusal(write(peer, path, b"x", flags=flags)) == errno.EEXIST
    path.chmod(0o755)
    assert write(peer, path, b"3", mode=0o600).kind == DONE
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"3", 0o755)  # a file that is there keeps its mode
    for flags in (ATOMIC | APPEND, 16, 1 << 31):
        assert refusal(write(peer, path, b"x", flags=flags)) == errno.EINVAL
    assert path.read_bytes() == b"3"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_files_belong_to_the_owner_that_was_named(peer: Peer, shared: Path) -> None:
    for owner, ids in (("root", (0, 0)), ("1234", (1234, 1234)), ("5:6", (5, 6))):
        assert write(peer, shared / "file", b"x", flags=ATOMIC, owner=owner).kind == DONE
        got = (shared / "file").stat()
        assert (got.st_uid, got.st_gid) == ids
    assert refusal(write(peer, shared / "file", b"x", owner="nobody-of-that-name")) == errno.ENOENT


def test_only_regular_files_are_read_and_written_and_none_of_the_others_hangs(peer: Peer, shared: Path) -> None:
    fifo, link, device = shared / "fifo", shared / "link", Path("/dev/null")
    os.mkfifo(fifo)
    link.symlink_to(shared / "target")
    assert refusal(peer.download(str(fifo))[1]) == errno.EINVAL
    assert refusal(peer.download(str(device))[1]) == errno.EINVAL
    assert refusal(peer.download(str(shared))[1]) == errno.EISDIR
    assert refusal(peer.download(str(shared / "none"))[1]) == errno.ENOENT
    assert refusal(write(peer, shared, b"x")) == errno.EISDIR
    for flags in (0, ATOMIC, APPEND):
        assert refusal(write(peer, fifo, b"x", flags=flags)) == errno.EINVAL
        assert refusal(write(peer, device, b"x", flags=flags)) == errno.EINVAL
    assert refusal(write(peer, link, b"x")) == errno.ELOOP
    assert write(peer, link, b"x", flags=ATOMIC).kind == DONE
    assert not link.is_symlink()
    assert not (shared / "target").exists()


@pytest.mark.parametrize("path", ["", "relative", "./x", "../x"])
def test_paths_are_absolute(peer: Peer, path: str) -> None:
    for kind, rest in ((STAT, b""), (LIST, b""), (REMOVE, u32(0)), (RENAME, text("/tmp/x")), (READ, u64(0) + u64(1))):
        assert failure(peer.ask(kind, text(path) + rest)) == (errno.EINVAL, path)
    assert refusal(peer.ask(STAT, text("/" + "a" * 5000))) == errno.ENAMETOOLONG


def test_stat_and_list_tell_entries(peer: Peer, shared: Path) -> None:
    (shared / "f").write_bytes(b"12345")
    (shared / "f").chmod(0o4711)
    os.utime(shared / "f", (1, 1_600_000_000))
    (shared / "d").mkdir(mode=0o700)
    (shared / "l").symlink_to("f")
    os.mkfifo(shared / "o")
    os.link(shared / "f", os.fsencode(shared) + b"/\xff\xfe")
    me = os.geteuid(), os.getegid()
    [entry] = parse_entries(u32(1) + peer.ask(STAT, text(str(shared / "f"))).payload)
    assert entry == (b"f", "f", 0o4711, 5, 1_600_000_000, *me)
    channel = peer.channel()
    peer.tell(channel, LIST, text(str(shared)))
    entries = parse_entries(peer.wait_for(channel, ENTRIES).payload)
    assert peer.wait_for(channel, DONE).payload == b""
    assert {name: letter for name, letter, *_ in entries} == {
        b"f": "f",
        b"d": "d",
        b"l": "l",
        b"o": "o",
        b"\xff\xfe": "f",
    }
    assert refusal(peer.ask(LIST, text(str(shared / "f")))) == errno.ENOTDIR
    assert refusal(peer.ask(LIST, text(str(shared / "none")))) == errno.ENOENT
    assert peer.ask(LIST, text(str(shared / "d"))).kind == DONE
    assert parse_entries(u32(1) + peer.ask(STAT, text("/")).payload)[0][0] == b"/"


def test_a_big_directory_comes_in_pieces_and_a_huge_one_is_refused(peer: Peer, shared: Path) -> None:
    for i in range(3000):
        (shared / f"{i:0200}").touch()
    channel = peer.channel()
    peer.tell(channel, LIST, text(str(shared)))
    names: list[bytes] = []
    while (frame := peer.wait_for(channel, ENTRIES, DONE)).kind == ENTRIES:
        names += [name for name, *_ in parse_entries(frame.payload)]
    assert sorted(names) == [b"%0200d" % i for i in range(3000)]
    for i in range(65_537 - 3000):
        os.link(shared / ("0" * 200), shared / str(i))
    channel = peer.channel()
    peer.tell(channel, LIST, text(str(shared)))
    while (frame := peer.wait_for(channel, ENTRIES, DONE, FAILED)).kind == ENTRIES:
        pass
    assert refusal(frame) == errno.E2BIG
    began = time.monotonic()
    channel = peer.channel()
    peer.tell(channel, REMOVE, text(str(shared)) + u32(1))
    peer.ping()
    assert shared.exists(), "the ping was to be answered while the removal was under way"
    assert peer.wait_for(channel, DONE, FAILED).kind == DONE
    assert time.monotonic() - began < 20


def test_directories_are_made(peer: Peer, shared: Path) -> None:
    def make(path: Path, flags: int = 0, mode: int = 0o750) -> Frame:
        return peer.ask(MKDIR, text(str(path)) + u32(mode) + u32(flags) + text(""))

    assert make(shared / "d").kind == DONE
    assert ((shared / "d").stat().st_mode & 0o777, (shared / "d").stat().st_uid) == (0o750, OWNER)
    assert refusal(make(shared / "d")) == errno.EEXIST
    assert make(shared / "d", 1).kind == DONE
    assert refusal(make(shared / "x" / "y")) == errno.ENOENT
    assert make(shared / "x" / "y", 1).kind == DONE
    assert (shared / "x").stat().st_mode & 0o777 == 0o755
    (shared / "f").touch()
    assert refusal(make(shared / "f", 1)) == errno.EEXIST
    assert refusal(make(shared / "z", 2)) == errno.EINVAL
    assert make(Path("/"), 1).kind == DONE
    assert refusal(make(Path("/"))) == errno.EEXIST


def test_what_is_removed_is_gone_and_what_is_refused_is_not(peer: Peer, shared: Path) -> None:
    outside = shared / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    tree = shared / "tree"
    deep = tree
    for _ in range(200):
        deep = deep / "d"
    deep.mkdir(parents=True)
    (tree / "link").symlink_to(outside)
    for i in range(300):
        (tree / str(i)).touch()

    def remove(path: Path, flags: int = 0) -> Frame:
        return peer.ask(REMOVE, text(str(path)) + u32(flags))

    assert refusal(remove(tree)) == errno.ENOTEMPTY
    assert remove(tree, 1).kind == DONE
    assert not tree.exists()
    assert (outside / "kept").exists()
    assert remove(outside / "kept").kind == DONE
    assert remove(outside).kind == DONE
    assert refusal(remove(outside, 1)) == errno.ENOENT
    assert refusal(remove(Path("/"), 1)) == errno.EBUSY
    assert refusal(remove(shared, 2)) == errno.EINVAL
    (shared / "link").symlink_to("/etc")
    assert remove(shared / "link", 1).kind == DONE
    assert Path("/etc/passwd").exists()


def test_a_tree_that_is_too_deep_is_refused_and_not_a_crash(peer: Peer, shared: Path) -> None:
    home = os.open(".", os.O_RDONLY)
    try:
        os.chdir(shared)
        for _ in range(300):
            Path("d").mkdir()
            os.chdir("d")
    finally:
        os.fchdir(home)
        os.close(home)
    assert refusal(peer.ask(REMOVE, text(str(shared / "d")) + u32(1))) == errno.ENAMETOOLONG
    assert peer.ask(REMOVE, text(str(shared / "d") + "/d" * 100) + u32(1)).kind == DONE
    assert peer.ask(REMOVE, text(str(shared / "d")) + u32(1)).kind == DONE


def test_a_rename_moves_and_its_failures_are_told(peer: Peer, shared: Path) -> None:
    (shared / "a").write_text("a")
    assert peer.ask(RENAME, text(str(shared / "a")) + text(str(shared / "b"))).kind == DONE
    assert (shared / "b").read_text() == "a"
    assert refusal(peer.ask(RENAME, text(str(shared / "a")) + text(str(shared / "b")))) == errno.ENOENT


def test_a_read_waits_for_credit_and_delays_nobody(peer: Peer, shared: Path) -> None:
    (shared / "big").write_bytes(bytes(3_000_000))
    channel = peer.channel()
    peer.tell(channel, READ, text(str(shared / "big")) + u64(0) + u64(2**64 - 1))
    got = 0
    while got < WINDOW_BYTES:
        got += len(peer.wait_for(channel, DATA_BACK).payload)
    assert got == WINDOW_BYTES
    assert peer.run(["echo", "beside"]).stdout == b"beside\n"
    assert peer.ping()[2] == 1
    peer.tell(channel, CANCEL)
    assert refusal(peer.wait_for(channel, FAILED)) == errno.ECANCELED
    assert peer.ping()[2] == 0


def test_frames_that_do_not_fit_a_file_channel_are_framing_errors(peer: Peer, shared: Path) -> None:
    (shared / "big").write_bytes(bytes(3_000_000))
    channel = peer.channel()
    peer.tell(channel, READ, text(str(shared / "big")) + u64(0) + u64(2**64 - 1))
    while not peer.silent_for(0.2):
        pass
    peer.buffer.clear()
    peer.tell(channel, DATA, b"x")
    assert peer.silent_for(0.2)
    peer.attach()
    peer.greet()
    assert peer.ping()[2] == 0
