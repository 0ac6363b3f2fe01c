import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.layers import hard_link, member, symlink, tar

from agentkernel.images.oci.layers import Limits, Tally, Unfit, changes, checked_path, is_made, kept_xattrs
from agentkernel.images.oci.tarstream import Entry, Kind, Reader, TarError


def read(layer, limits=None):
    tally = Tally(limits or Limits())
    return changes(Reader(io.BytesIO(layer).read), tally), tally


def entries(layer):
    return list(Reader(io.BytesIO(layer).read))


def test_what_the_standard_library_writes_is_read():
    long, word = "d/" * 60 + "name" * 20, "ü" * 60
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
            for info, content in (member(long, b"x" * 1000, uid=3_000_000, mtime=7), symlink(word, long), member("d/")):
                archive.addfile(info, io.BytesIO(content) if info.isreg() else None)
        file, link, folder = entries(buffer.getvalue())
        assert (file.name, file.size, file.uid, file.mtime_ns) == (long.encode(), 1000, 3_000_000, 7 * 10**9)
        assert (link.name, link.target, link.kind) == (word.encode(), long.encode(), Kind.SYMLINK)
        assert (folder.name.rstrip(b"/"), folder.kind, folder.mode) == (b"d", Kind.DIRECTORY, 0o755)


def test_content_is_read_piece_by_piece_and_skipped_otherwise():
    reader = Reader(io.BytesIO(tar(member("a", b"1" * 700), member("b", b"2" * 10))).read)
    found = [(entry.name, reader.content(300) if entry.name == b"a" else reader.content()) for entry in reader]
    assert found == [(b"a", b"1" * 300), (b"b", b"2" * 10)]


def test_whiteouts_are_told_from_files():
    found, _ = read(tar(member("a/.wh.gone"), member("b/.wh..wh..opq"), member(".wh.top"), member(".wh..wh.plnk/1.2")))
    assert (found.removed, found.emptied) == ([b"a/gone", b"top"], [b"b"])


def test_what_becomes_a_file_and_what_not():
    device = member("dev/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3)
    found = entries(tar(device, member("x/.wh.y"), member("x/.what")))
    assert [is_made(entry) for entry in found] == [False, False, True]
    assert read(tar(device))[1].devices == 1


def test_extended_attributes_for_the_guest_are_kept_and_those_for_its_overlay_are_not():
    names = ("security.capability", "user.mine", "user.overlay.opaque", "trusted.overlay.opaque", "security.selinux")
    layer = tar(member("x", pax_headers={f"SCHILY.xattr.{name}": "v" for name in names}))
    assert [name for name, _ in kept_xattrs(entries(layer)[0])] == [b"security.capability", b"user.mine"]


@pytest.mark.parametrize(
    "layer",
    [
        tar(member("../escape")),
        tar(member("a/../../escape")),
        tar(member("/etc/passwd")),
        tar(hard_link("a", "/etc/passwd")),
        tar(hard_link("a", "../outside")),
        tar(hard_link("a", ".")),
        tar(symlink("a", "")),
        tar(member("a"), member("a")),
        tar(member("a/"), member("a")),
        tar(member("./a"), member("a")),
        tar(member(".wh.")),
        tar(member("x/.wh..")),
        tar(member("x/.wh...")),
        tar(member(".wh.x/y")),
        tar(member("x/" * 300)),
        tar(member("x" * 300)),
        tar(member(".", b"x")),
        tar(symlink(".", "/etc")),
        tar(member("a", uid=2**32 - 1)),
        tar(member("a", type=tarfile.GNUTYPE_SPARSE)),
        tar(member("a", b"x"))[:700],
        tar(member("a", b"x" * 3000))[:2000],
        b"x" * 512,
        tar(member("a")).replace(b"ustar", b"Ustar", 1),
    ],
)
def test_a_hostile_or_damaged_layer_is_refused(layer):
    with pytest.raises((Unfit, TarError)):
        read(layer)


@pytest.mark.parametrize(
    "layer",
    [
        tar(),
        b"",
        tar(member("a/"), member("a/"), member("./a/b"), member("./")),
        tar(symlink("a", "../../../etc"), hard_link("b", "a")),
        tar(member("..a/b..", b"x"), member("a\nb"), member("a b\\")),
    ],
)
def test_an_honest_layer_is_taken(layer):
    read(layer)


def test_a_bomb_is_stopped_by_what_it_says_before_it_is_unpacked():
    layer = tar(member("a", b"x" * 600), member("b", b"x" * 600), member("c"))
    read(layer, Limits(1200, 3))
    with pytest.raises(Unfit, match="more than 1199 bytes"):
        read(layer, Limits(1199, 3))
    with pytest.raises(Unfit, match="more than 2 entries"):
        read(layer, Limits(1200, 2))


def test_an_extended_header_cannot_take_all_memory():
    with pytest.raises(TarError, match="extended header of"):
        read(tar(member("a", pax_headers={"comment": "x" * (2 << 20)})))
    read(tar(member("a", pax_headers={"comment": "x" * (1 << 19)})))


def test_sizes_are_never_believed_of_what_has_no_content():
    with pytest.raises(TarError):
        list(Reader(io.BytesIO(tarfile_with_size_on_link()).read))


def tarfile_with_size_on_link():
    info, _ = hard_link("a", "b")
    info.size = 512
    return info.tobuf(tarfile.USTAR_FORMAT) + bytes(1024)


GOOD = tar(member("a/"), member("a/" + "long" * 40, b"x" * 700), symlink("b", "a"), hard_link("c", "b"))


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=6), st.integers(0, len(GOOD)))
def test_any_spoiled_layer_is_taken_or_refused_and_never_leads_out(spoiled, length):
    layer = bytearray(GOOD)
    for at, value in spoiled:
        layer[at] = value
    try:
        found, _ = read(bytes(layer[:length]))
    except (Unfit, TarError):
        return
    for path in found.removed + found.emptied:
        assert not path.startswith(b"/")
        assert b".." not in path.split(b"/")


@given(st.binary(max_size=2000), st.sampled_from(list(Kind)))
def test_any_name_is_plain_or_refused(name, kind):
    try:
        path = checked_path(name)
    except Unfit:
        return
    assert not path.startswith(b"/")
    assert all(part not in (b"", b".", b"..") for part in path.split(b"/")) or path == b""
    is_made(Entry(name, kind))
