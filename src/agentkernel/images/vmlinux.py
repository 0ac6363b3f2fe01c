"""The uncompressed kernel inside a bzImage. Pure.

QEMU enters such an ELF file through its PVH note, which skips the real-mode and decompression code; emulated, that
saves a second.
Source: Documentation/arch/x86/boot.rst of the Linux kernel (setup_sects, payload_offset, payload_length).
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
from collections.abc import Callable
from functools import partial
from typing import NamedTuple


def _gunzip(data: bytes) -> bytes:
    return gzip.decompress(data)


def _lzma(container: int, data: bytes) -> bytes:
    """Only the first stream: the kernel's build appends four bytes to it."""
    decompressor = lzma.LZMADecompressor(container)
    plain = decompressor.decompress(data)
    if not decompressor.eof:
        raise EOFError("it ends in the middle of a stream")
    return plain


_STDLIB: dict[bytes, Callable[[bytes], bytes]] = {
    b"\x1f\x8b": _gunzip,
    b"BZh": bz2.decompress,
    b"\xfd7zXZ\0": partial(_lzma, lzma.FORMAT_XZ),
    b"\x5d\0\0": partial(_lzma, lzma.FORMAT_ALONE),
}
_PROGRAMS = {b"\x28\xb5\x2f\xfd": "zstd", b"\x02\x21\x4c\x18": "lz4", b"\x04\x22\x4d\x18": "lz4"}


class Payload(NamedTuple):
    """Compressed kernel; `program` unpacks it from standard input to output, None means that `unpack` can."""

    data: bytes
    program: str | None


def payload_of(image: bytes) -> Payload | None:
    """What a bzImage carries; None when this is not one, or one of an unknown compression."""
    if len(image) < 0x250 or image[0x202:0x206] != b"HdrS" or _u16(image, 0x206) < 0x208:
        return None
    start = ((image[0x1F1] or 4) + 1) * 512 + _u32(image, 0x248)
    data = image[start : start + _u32(image, 0x24C)]
    if any(data.startswith(magic) for magic in _STDLIB):
        return Payload(data, None)
    program = next((name for magic, name in _PROGRAMS.items() if data.startswith(magic)), None)
    # The kernel's build appends the unpacked size to what these programs wrote, and they take it for a damaged second
    # stream.
    return Payload(data[:-4], program) if program else None


def unpack(payload: Payload) -> bytes | None:
    """The kernel, by the standard library; None when the data is damaged."""
    for magic, decompress in _STDLIB.items():
        if payload.data.startswith(magic):
            try:
                return decompress(payload.data)
            except (OSError, EOFError, lzma.LZMAError):
                return None
    return None


def is_elf(data: bytes) -> bool:
    """Whether this is an ELF file, as vmlinux is."""
    return data.startswith(b"\x7fELF")


def _u16(data: bytes, at: int) -> int:
    return int(struct.unpack_from("<H", data, at)[0])


def _u32(data: bytes, at: int) -> int:
    return int(struct.unpack_from("<I", data, at)[0])
