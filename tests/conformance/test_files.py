"""Files: there and back, errors, owners, atomicity."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Awaitable, Callable

import anyio
import pytest

from agentkernel.drivers.contract import Guest
from agentkernel.model.errors import Refused
from tests.conformance.candidates import Subject
from tests.support.machines import Machine, run, settles, shell

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

EVERY_BYTE = bytes(range(256))
ODD_NAMES = ["with space", "two\nlines", "\u4f60\u597d", "-rf", "*", "'quoted\"", "x" * 255]


@pytest.fixture
async def place(machine: Machine) -> str:
    """An empty directory of this test's own."""
    path = f"/workspace/files-{os.urandom(4).hex()}"
    await machine.guest.make_directory(path)
    return path


@pytest.mark.behaviour("files.round-trip")
@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 262_144, 3_000_001])
async def test_content_comes_back_as_it_was_written(subject: Subject, guest: Guest, place: str, size: int) -> None:
    content = os.urandom(size)
    await guest.write_file(f"{place}/file", content)
    assert await guest.read_file(f"{place}/file") == content


@pytest.mark.behaviour("files.seen-by-programs")
async def test_programs_see_what_was_written_and_we_what_they_wrote(subject: Subject, guest: Guest, place: str) -> None:
    await guest.write_file(f"{place}/in", EVERY_BYTE)
    assert (await run(guest, "cat", f"{place}/in")).stdout == EVERY_BYTE
    assert (await shell(guest, f"printf there > {place}/out")).code == 0
    assert await guest.read_file(f"{place}/out") == b"there"


@pytest.mark.behaviour("files.ranges")
async def test_a_file_is_read_in_ranges_and_never_past_the_limit(subject: Subject, guest: Guest, place: str) -> None:
    await guest.write_file(f"{place}/file", b"0123456789")
    assert await guest.read_file(f"{place}/file", offset=4) == b"456789"
    assert await guest.read_file(f"{place}/file", offset=8, limit=2) == b"89"
    assert await guest.read_file(f"{place}/file", offset=100) == b""
    with pytest.raises(Refused):
        await guest.read_file(f"{place}/file", limit=9)


@pytest.mark.behaviour("files.unsized")
async def test_a_file_without_a_size_is_read_whole_and_never_past_the_limit(subject: Subject, guest: Guest) -> None:
    assert (await shell(guest, "test -r /proc/cpuinfo")).code == 0
    with pytest.raises(Refused):
        await guest.read_file("/dev/../proc/cpuinfo", limit=10)
    assert (await guest.read_file("/proc/version")).startswith(b"Linux version ")


@pytest.mark.behaviour("files.names")
@pytest.mark.parametrize("name", ODD_NAMES, ids=range(len(ODD_NAMES)))
async def test_names_are_taken_as_they_are(subject: Subject, guest: Guest, place: str, name: str) -> None:
    await guest.write_file(f"{place}/{name}", b"x")
    assert [entry.name for entry in await guest.list_directory(place)] == [name]
    assert (await guest.stat(f"{place}/{name}")).name == name
    await guest.rename(f"{place}/{name}", f"{place}/plain")
    await guest.rename(f"{place}/plain", f"{place}/{name}")
    await guest.remove(f"{place}/{name}")
    assert await guest.list_directory(place) == []


@pytest.mark.behaviour("files.facts")
async def test_stat_and_list_tell_the_same_facts(subject: Subject, guest: Guest, place: str) -> None:
    await guest.write_file(f"{place}/file", b"12345", mode=0o640)
    await guest.make_directory(f"{place}/folder", mode=0o711)
    await shell(guest, f"ln -s nowhere {place}/link; mkfifo {place}/pipe")
    listed = {entry.name: entry for entry in await guest.list_directory(place)}
    assert {name: entry.kind for name, entry in listed.items()} == {
        "file": "f",
        "folder": "d",
        "link": "l",
        "pipe": "o",
    }
    for name, entry in listed.items():
        assert await guest.stat(f"{place}/{name}") == entry
    file, folder = listed["file"], listed["folder"]
    assert (file.size, file.mode & 0o7777, file.uid, file.gid) == (5, 0o640, 1000, 1000)
    assert (folder.mode & 0o7777, folder.uid) == (0o711, 1000)
    assert abs(file.modified_s - time.time()) < 60
    assert (await guest.stat("/")).kind == "d"


@pytest.mark.behaviour("files.many")
async def test_a_directory_of_thousands_is_listed_whole(subject: Subject, guest: Guest, place: str) -> None:
    script = f"cd {place} && seq -f 'a-rather-long-name-of-a-file-%g' 3000 | xargs touch"
    assert (await shell(guest, script)).code == 0
    assert len({entry.name for entry in await guest.list_directory(place)}) == 3000
    await guest.remove(place, recursive=True)


async def check_owners(guest: Guest, place: str, wanted: dict[str, tuple[int, int]]) -> None:
    """Make a file and a folder for each owner, and look whose they are."""
    for owner, ids in wanted.items():
        await guest.write_file(f"{place}/file", b"", owner=owner)
        await guest.make_directory(f"{place}/folder", owner=owner)
        for name in ("file", "folder"):
            entry = await guest.stat(f"{place}/{name}")
            assert (entry.uid, entry.gid) == ids, (owner, name)
        await guest.remove(f"{place}/folder")


@pytest.mark.behaviour("files.owner")
async def test_files_belong_to_the_user(subject: Subject, guest: Guest, place: str) -> None:
    await check_owners(guest, place, dict.fromkeys(("", "sandbox", "1000"), (1000, 1000)))


@pytest.mark.behaviour("files.owner-other")
async def test_files_belong_to_whom_they_are_given(subject: Subject, guest: Guest, place: str) -> None:
    await check_owners(guest, place, {"root": (0, 0), "7:8": (7, 8), "0": (0, 0)})
    with pytest.raises(OSError, match="file"):
        await guest.write_file(f"{place}/file", b"", owner="nobody-knows")


Call = Callable[[Guest, str], Awaitable[object]]
ERRORS: dict[str, tuple[int, Call]] = {
    "read what is not there": (errno.ENOENT, lambda guest, at: guest.read_file(f"{at}/no")),
    "read a directory": (errno.EISDIR, lambda guest, at: guest.read_file(at)),
    "read a pipe": (errno.EINVAL, lambda guest, at: guest.read_file(f"{at}/pipe")),
    "read through a file": (errno.ENOTDIR, lambda guest, at: guest.read_file(f"{at}/file/x")),
    "read a name too long": (errno.ENAMETOOLONG, lambda guest, at: guest.read_file(f"{at}/{'x' * 256}")),
    "read a circle of links": (errno.ELOOP, lambda guest, at: guest.read_file(f"{at}/circle")),
    "write into nothing": (errno.ENOENT, lambda guest, at: guest.write_file(f"{at}/no/file", b"x")),
    "write over a directory": (errno.EISDIR, lambda guest, at: guest.write_file(f"{at}/full", b"x")),
    "stat what is not there": (errno.ENOENT, lambda guest, at: guest.stat(f"{at}/no")),
    "list what is not there": (errno.ENOENT, lambda guest, at: guest.list_directory(f"{at}/no")),
    "list a file": (errno.ENOTDIR, lambda guest, at: guest.list_directory(f"{at}/file")),
    "make what is there": (errno.EEXIST, lambda guest, at: guest.make_directory(f"{at}/full")),
    "make below nothing": (errno.ENOENT, lambda guest, at: guest.make_directory(f"{at}/no/deep")),
    "remove what is not there": (errno.ENOENT, lambda guest, at: guest.remove(f"{at}/no")),
    "remove what is not empty": (errno.ENOTEMPTY, lambda guest, at: guest.remove(f"{at}/full")),
    "rename what is not there": (errno.ENOENT, lambda guest, at: guest.rename(f"{at}/no", f"{at}/yes")),
    "rename across file systems": (errno.EXDEV, lambda guest, at: guest.rename(f"{at}/file", "/tmp/file")),
    "rename over what is not empty": (errno.ENOTEMPTY, lambda guest, at: guest.rename(f"{at}/empty", f"{at}/full")),
}


@pytest.mark.behaviour("files.errors")
@pytest.mark.parametrize(("number", "call"), ERRORS.values(), ids=ERRORS)
async def test_a_failure_is_the_guests_own_error(
    subject: Subject, guest: Guest, place: str, number: int, call: Call
) -> None:
    await shell(guest, f"cd {place} && touch file && mkfifo pipe && mkdir -p full/x empty && ln -s circle circle")
    with pytest.raises(OSError) as caught:
        await call(guest, place)
    assert errno.errorcode[caught.value.errno or 0] == errno.errorcode[number]
    assert caught.value.filename
    await guest.remove(place, recursive=True)


@pytest.mark.behaviour("files.errors")
@pytest.mark.parametrize("path", ["/proc/new", "/sys/new"])
async def test_where_nothing_can_be_made_the_kernel_says_why(subject: Subject, guest: Guest, path: str) -> None:
    with pytest.raises(OSError) as caught:
        await guest.write_file(path, b"x")
    assert caught.value.errno in {errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS}
    assert caught.value.filename


@pytest.mark.behaviour("files.paths")
@pytest.mark.parametrize("path", ["", "relative", "./x"])
async def test_a_path_that_is_not_absolute_is_an_error(subject: Subject, guest: Guest, path: str) -> None:
    for call in (guest.read_file(path), guest.write_file(path, b""), guest.stat(path), guest.make_directory(path)):
        with pytest.raises((OSError, Refused)):
            await call
    with pytest.raises(Refused):
        await guest.read_file("/etc/host\0name")


@pytest.mark.behaviour("files.parents")
async def test_missing_parents_are_made_where_that_is_asked_for(subject: Subject, guest: Guest, place: str) -> None:
    await guest.write_file(f"{place}/a/b/file", b"x", make_parents=True)
    await guest.make_directory(f"{place}/c/d", parents=True)
    await guest.make_directory(f"{place}/c/d", parents=True)
    for made in ("a", "a/b", "c", "c/d"):
        assert (await guest.stat(f"{place}/{made}")).uid == 1000
    with pytest.raises(FileExistsError):
        await guest.make_directory(f"{place}/a/b/file", parents=True)


@pytest.mark.behaviour("files.remove")
async def test_a_tree_is_removed_and_what_its_links_point_to_stays(subject: Subject, guest: Guest, place: str) -> None:
    script = f"cd {place}; mkdir -p tree/a/b keep; touch tree/a/b/c keep/kept; ln -s ../keep tree/link; ln -s / tree/r"
    assert (await shell(guest, script)).code == 0
    await guest.remove(f"{place}/tree", recursive=True)
    assert [entry.name for entry in await guest.list_directory(place)] == ["keep"]
    assert [entry.name for entry in await guest.list_directory(f"{place}/keep")] == ["kept"]


@pytest.mark.behaviour("files.rename")
async def test_a_rename_replaces_a_file(subject: Subject, guest: Guest, place: str) -> None:
    await guest.write_file(f"{place}/new", b"new")
    await guest.write_file(f"{place}/old", b"old")
    await guest.rename(f"{place}/new", f"{place}/old")
    assert await guest.read_file(f"{place}/old") == b"new"
    assert len(await guest.list_directory(place)) == 1


@pytest.mark.behaviour("files.atomic")
async def test_a_write_is_seen_whole_or_not_at_all(subject: Subject, guest: Guest, place: str) -> None:
    """A reader inside watches the file while it is replaced, and while a replacement is cut off half way."""
    size = 400_000
    await guest.write_file(f"{place}/file", b"a" * size)
    watch = (
        f"while [ ! -e {place}/stop ]; do tr -d '\\n' < {place}/file | busybox md5sum; done | sort | uniq -c | wc -l"
    )
    async with anyio.create_task_group() as group:
        seen: list[str] = []

        async def look() -> None:
            seen.append((await shell(guest, watch)).text)

        group.start_soon(look)
        await anyio.sleep(0.3)
        for letter in (b"b", b"a", b"b"):
            await guest.write_file(f"{place}/file", letter * size)
        with anyio.move_on_after(0.005):
            await guest.write_file(f"{place}/file", b"c" * 50_000_000)
        assert await guest.read_file(f"{place}/file") == b"b" * size
        await guest.write_file(f"{place}/stop", b"")
    assert seen[0] in {"1", "2"}
    names = [entry.name for entry in await guest.list_directory(place)]
    assert sorted(names) == ["file", "stop"]


@pytest.mark.behaviour("files.replaced")
async def test_a_replaced_file_has_the_new_mode_and_old_readers_keep_the_old_one(
    subject: Subject, guest: Guest, place: str
) -> None:
    await guest.write_file(f"{place}/file", b"old", mode=0o600)
    async with anyio.create_task_group() as group:
        seen: list[bytes] = []

        async def hold() -> None:
            seen.append((await shell(guest, f"exec 3< {place}/file; touch {place}/open; sleep 1; cat <&3")).stdout)

        group.start_soon(hold)
        assert await settles(lambda: _there(guest, f"{place}/open"))
        await guest.write_file(f"{place}/file", b"new", mode=0o755)
    assert seen == [b"old"]
    assert (await guest.stat(f"{place}/file")).mode & 0o7777 == 0o755


async def _there(guest: Guest, path: str) -> bool:
    try:
        await guest.stat(path)
    except FileNotFoundError:
        return False
    return True
