import bz2
import gzip
import lzma
import struct

import pytest

from agentkernel.images import vmlinux

ELF = b"\x7fELF" + bytes(range(256)) * 40


def bzimage(payload: bytes, *, sectors: int = 4) -> bytes:
    """A file with the header fields that the boot protocol puts there."""
    head = bytearray((sectors + 1) * 512)
    head[0x1F1] = sectors
    head[0x202:0x206] = b"HdrS"
    head[0x206:0x208] = struct.pack("<H", 0x20F)
    head[0x248:0x250] = struct.pack("<II", 100, len(payload))
    return bytes(head) + bytes(100) + payload + b"the rest of the image"


@pytest.mark.parametrize(
    "packed",
    [
        gzip.compress(ELF),
        bz2.compress(ELF),
        lzma.compress(ELF, lzma.FORMAT_XZ) + struct.pack("<I", len(ELF)),
        lzma.compress(ELF, lzma.FORMAT_ALONE),
    ],
    ids=["gzip", "bzip2", "xz with the size behind it", "lzma"],
)
def test_the_standard_library_unpacks_what_it_can(packed):
    payload = vmlinux.payload_of(bzimage(packed))
    assert payload is not None
    assert payload.program is None
    assert vmlinux.unpack(payload) == ELF


@pytest.mark.parametrize(
    ("magic", "program"), [(b"\x28\xb5\x2f\xfd", "zstd"), (b"\x02\x21\x4c\x18", "lz4"), (b"\x04\x22\x4d\x18", "lz4")]
)
def test_other_formats_name_the_program_and_lose_the_size_behind_them(magic, program):
    payload = vmlinux.payload_of(bzimage(magic + b"packed" + struct.pack("<I", 99)))
    assert payload == (magic + b"packed", program)


@pytest.mark.parametrize(
    "image", [b"", b"MZ" + bytes(5000), ELF, bzimage(b"unknown format")], ids=["empty", "EFI", "ELF", "unknown"]
)
def test_what_is_not_understood_is_left_as_it_is(image):
    assert vmlinux.payload_of(image) is None


@pytest.mark.parametrize("packed", [gzip.compress(ELF)[:50], lzma.compress(ELF)[:40] + b"junkjunk"])
def test_damaged_data_is_told_from_a_kernel(packed):
    payload = vmlinux.payload_of(bzimage(packed))
    assert payload is not None
    assert not vmlinux.is_elf(vmlinux.unpack(payload) or b"")
