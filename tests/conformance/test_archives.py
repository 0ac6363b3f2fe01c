"""Tar streams into a sandbox: what is taken, and what is not."""

from __future__ import annotations

import errno
import io
import os
import tarfile
from collections.abc import AsyncIterator, Callable

import pytest

from agentkernel.drivers.contract import Guest
from tests.conformance.candidates import Subject
from tests.support.machines import Machine, shell

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

Fill = Callable[[tarfile.TarFile], None]


@pytest.fixture
async def place(machine: Machine) -> str:
    """A directory that is not there yet."""
    return f"/workspace/archive-{os.urandom(4).hex()}"


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, mode
    return info


def put(name: str, content: bytes = b"", mode: int = 0o644) -> Fill:
    def fill(archive: tarfile.TarFile) -> None:
        info = member(name, mode=mode)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))

    return fill


def add(name: str, kind: bytes, link: str = "", mode: int = 0o755) -> Fill:
    return lambda archive: archive.addfile(member(name, kind, link, mode))


def packed(*fills: Fill, form: int = tarfile.PAX_FORMAT) -> bytes:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w", format=form) as archive:
        for fill in fills:
            fill(archive)
    return whole.getvalue()


async def cut(content: bytes, size: int = 7000) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


LONG = "/".join(["a-folder-with-a-long-name"] * 6) + "/" + "x" * 150


@pytest.mark.behaviour("archive.taken")
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])
async def test_an_archive_is_extracted_as_it_is(subject: Subject, guest: Guest, place: str, form: int) -> None:
    big = os.urandom(700_000)
    content = packed(
        put("file", b"plain"),
        add("folder", tarfile.DIRTYPE, mode=0o711),
        put("folder/big", big, mode=0o755),
        put(LONG, b"long"),
        put("\u4f60\u597d", b"unicode"),
        add("link", tarfile.SYMTYPE, "folder/big"),
        add("hard", tarfile.LNKTYPE, "file"),
        add("to-the-outside", tarfile.SYMTYPE, "/etc/passwd"),
        form=form,
    )
    assert await guest.put_archive(place, cut(content)) == 8
    assert await guest.read_file(f"{place}/link") == big
    assert await guest.read_file(f"{place}/{LONG}") == b"long"
    assert await guest.read_file(f"{place}/\u4f60\u597d") == b"unicode"
    assert (await guest.stat(f"{place}/folder")).mode & 0o777 == 0o711
    assert (await guest.stat(f"{place}/folder/big")).mode & 0o777 == 0o755
    same = await shell(guest, f"stat -c %i:%h {place}/file {place}/hard | uniq | wc -l; cat {place}/hard")
    assert same.text == "1\nplain"
    owners = await shell(guest, f"find {place} ! -uid 1000 -o ! -gid 1000")
    assert owners.stdout == b""


@pytest.mark.behaviour("archive.owner")
async def test_members_belong_to_whom_they_are_given(subject: Subject, guest: Guest, place: str) -> None:
    await guest.put_archive(place, cut(packed(put("a/file"))), owner="12:34")
    for name in ("a", "a/file"):
        entry = await guest.stat(f"{place}/{name}")
        assert (entry.uid, entry.gid) == (12, 34)


ATTACKS: dict[str, tuple[Fill, ...]] = {
    "dots": (put("../escaped"),),
    "dots further down": (put("a/../../escaped"),),
    "absolute": (put("/workspace/escaped"),),
    "through a link": (add("way", tarfile.SYMTYPE, ".."), put("way/escaped")),
    "through an absolute link": (add("way", tarfile.SYMTYPE, "/workspace"), put("way/escaped")),
    "through two links": (add("b", tarfile.SYMTYPE, ".."), add("a", tarfile.SYMTYPE, "b"), put("a/escaped")),
    "a directory over a link": (add("way", tarfile.SYMTYPE, ".."), add("way/escaped", tarfile.DIRTYPE)),
    "a hard link to the outside": (add("escaped", tarfile.LNKTYPE, "/etc/shadow"),),
    "a hard link up": (add("escaped", tarfile.LNKTYPE, "../../etc/shadow"),),
    "a hard link through a link": (add("way", tarfile.SYMTYPE, "/etc"), add("escaped", tarfile.LNKTYPE, "way/shadow")),
    "a character device": (add("escaped", tarfile.CHRTYPE),),
    "a block device": (add("escaped", tarfile.BLKTYPE),),
    "a pipe": (add("escaped", tarfile.FIFOTYPE),),
}


@pytest.mark.behaviour("archive.attacks")
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
async def test_what_leads_out_is_refused_by_name(
    subject: Subject, guest: Guest, place: str, attack: tuple[Fill, ...]
) -> None:
    with pytest.raises(PermissionError) as caught:
        await guest.put_archive(place, cut(packed(put("before", b"x"), *attack, put("after"))))
    assert caught.value.errno == errno.EPERM
    assert "escaped" in str(caught.value.filename)
    assert await guest.read_file(f"{place}/before") == b"x"
    assert [e.name for e in await guest.list_directory("/workspace") if e.name == "escaped"] == []
    assert "escaped" not in [entry.name for entry in await guest.list_directory(place)]


@pytest.mark.behaviour("archive.link-replaced")
async def test_a_file_replaces_a_link_of_its_name_and_what_it_points_to_stays(
    subject: Subject, guest: Guest, place: str
) -> None:
    await guest.write_file("/workspace/target", b"kept")
    content = packed(add("name", tarfile.SYMTYPE, "/workspace/target"), put("name", b"new"))
    await guest.put_archive(place, cut(content))
    assert await guest.read_file("/workspace/target") == b"kept"
    assert (await guest.stat(f"{place}/name")).kind == "f"
    await guest.remove("/workspace/target")


@pytest.mark.behaviour("archive.set-id")
async def test_set_id_bits_are_dropped(subject: Subject, guest: Guest, place: str) -> None:
    await guest.put_archive(place, cut(packed(put("tool", b"x", mode=0o6755))))
    entry = await guest.stat(f"{place}/tool")
    assert (entry.mode & 0o7777, entry.uid) == (0o755, 1000)


@pytest.mark.behaviour("archive.set-id-root")
async def test_set_id_bits_of_what_is_roots_are_dropped(subject: Subject, guest: Guest, place: str) -> None:
    await guest.put_archive(place, cut(packed(put("tool", b"x", mode=0o6755))), owner="root")
    entry = await guest.stat(f"{place}/tool")
    assert (entry.mode & 0o7777, entry.uid) == (0o755, 0)


@pytest.mark.behaviour("archive.truncated")
@pytest.mark.parametrize("kept", [100, 700, 1500], ids=["in a header", "in a file", "in a later file"])
async def test_a_truncated_archive_is_an_error(subject: Subject, guest: Guest, place: str, kept: int) -> None:
    content = packed(put("a", b"x" * 400), put("b", b"y" * 4000), form=tarfile.USTAR_FORMAT)
    with pytest.raises(OSError) as caught:
        await guest.put_archive(place, cut(content[:kept]))
    assert caught.value.errno == errno.EBADMSG


@pytest.mark.behaviour("archive.rubbish")
async def test_what_is_no_archive_is_an_error(subject: Subject, guest: Guest, place: str) -> None:
    with pytest.raises(OSError):
        await guest.put_archive(place, cut(os.urandom(100_000)))
    await guest.ping()


@pytest.mark.behaviour("archive.cut-off")
async def test_an_archive_whose_sender_fails_harms_nothing(subject: Subject, guest: Guest, place: str) -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield packed(put("a", b"x" * 400))[:600]
        raise ValueError("the sender's own")

    with pytest.raises(ValueError, match="the sender's own"):
        await guest.put_archive(place, failing())
    assert await guest.put_archive(place, cut(packed(put("b")))) == 1
