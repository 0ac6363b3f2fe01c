"""The program that unpacks layers. Started in private namespaces (`images.namespace`), it opens the layers, chroots
into the tree, gives up every capability but those to give files their owners, and only then looks at what strangers
wrote.

`python -P -m agentkernel.images.oci.unpack JOB`: JOB is a JSON file that `unpacking` writes. Says one JSON object per
line: `{"layer": n}` for progress, at the end `{"done": ...}`, or `{"refused": ...}`, `{"full": ...}`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gzip
import hashlib
import io
import json
import os
import resource
import stat
import struct
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from agentkernel.images.oci.layers import (
    Limits,
    Tally,
    Unfit,
    changes,
    is_made,
    shown,
)
from agentkernel.images.oci.root import Root
from agentkernel.images.oci.tarstream import Reader, TarError
from agentkernel.images.oci.users import resolve

ADDRESS_SPACE_BYTES = 2 << 30
"""A stop for what decompression may take, whatever a layer claims."""
WINDOW_BYTES = 128 << 20
"""Of zstd, as its own program has it by default."""
_CAPABILITIES = {"CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "FSETID": 4, "SETFCAP": 31}
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION_3 = 0x20080522
_OF_THE_LAYER = (errno.ELOOP, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EEXIST, errno.EINVAL, errno.EPERM, errno.ENOENT)
"""What the kernel says to a layer that is made to be in the way of itself."""


@dataclass(frozen=True, slots=True)
class Layer:
    """Where a layer lies: a part of a file, its digest (empty: unknown), and that of what it unpacks to."""

    path: str
    diff_id: str
    digest: str = ""
    offset: int = 0
    size: int = 0


def main(job_file: str) -> int:
    """Do the job; the exit status is 0 when it could be said how it went."""
    job = json.loads(Path(job_file).read_bytes())
    layers = [Layer(**layer) for layer in job["layers"]]
    files = [Path(layer.path).open("rb", buffering=0) for layer in layers]  # noqa: SIM115
    confine(job["tree"])
    tally = Tally(Limits(**job["limits"]))
    doing = "the image"
    try:
        root = Root(os.open("/", os.O_RDONLY | os.O_DIRECTORY))
        for number, (layer, file) in enumerate(zip(layers, files, strict=True), start=1):
            doing = f"layer {number} of {len(layers)}"
            say(layer=number, of=len(layers))
            apply(layer, file, root, tally)
        doing = "the image"
        root.finish(job["cwd"])
        user = resolve(job["user"], _text_of("/etc/passwd"), _text_of("/etc/group"))
        modes = root.special_modes()
    except (Unfit, TarError, zlib.error, gzip.BadGzipFile, EOFError, zstandard.ZstdError) as error:
        say(refused=f"{doing}: {error}")
    except (RecursionError, MemoryError):
        say(refused=f"{doing}: it is nested or compressed beyond what is taken")
    except OSError as error:
        where = shown(os.fsencode(error.filename)) if isinstance(error.filename, str | bytes) else "a file"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            say(full=doing)
        elif error.errno in _OF_THE_LAYER:
            say(refused=f"{doing}: {where} cannot be made: {error.strerror}")
        else:
            raise
    else:
        say(done={"user": user, "modes": modes, "devices": tally.devices, "entries": tally.entries})
    return 0


def say(**words: object) -> None:
    """One line of output."""
    print(json.dumps(words), flush=True)


def confine(tree: str) -> None:
    """Nothing but the tree is below `/` from here on, and there is no way back: chroot(2) is among what is given up."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    os.chroot(tree)
    os.chdir("/")
    os.umask(0)
    last = 63
    for number in set(range(last)) - set(_CAPABILITIES.values()):
        libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)  # those that this kernel does not know answer EINVAL
    kept = sum(1 << number for number in _CAPABILITIES.values())
    low, high = kept & 0xFFFFFFFF, kept >> 32
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    sets = struct.pack("=6I", low, low, 0, high, high, 0)
    if libc.capset(header, sets) != 0 or libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "capabilities cannot be given up")


def apply(layer: Layer, file: BinaryIO, root: Root, tally: Tally) -> None:
    """One layer onto what is there: looked at as a whole first, with its digests, then done.

    Raises:
        Unfit: it is not what it should be.
    """
    with _opened(layer, file) as (stream, packed):
        reader = Reader(stream.read)
        found = changes(reader, tally)
        stream.drain(tally.limits.content_bytes)
        packed.drain()
        for what, digest, wanted in (
            ("content", packed.digest(), layer.digest),
            ("uncompressed content", stream.digest(), layer.diff_id),
        ):
            if wanted and digest != wanted:
                raise Unfit(f"its {what} has the digest {digest}, not {wanted}")
    for path in found.removed:
        root.remove(path)
    for path in found.emptied:
        root.empty(path)
    with _opened(layer, file) as (stream, _):
        reader = Reader(stream.read)
        for entry in reader:
            if is_made(entry):
                root.make(entry, reader.content)


class Hashed(io.RawIOBase):
    """A readable that hashes what goes through it, up to an end if one is given."""

    def __init__(self, source: Any, end: int | None = None) -> None:
        super().__init__()
        self._source = source
        self._left = end
        self._hash = hashlib.sha256()
        self.count = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """For whoever wants it as a file."""
        piece = self.read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)

    def read(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes, never all there are."""
        size = 1 << 18 if size < 0 else size
        size = size if self._left is None else min(size, self._left)
        piece = bytes(self._source.read(size)) if size else b""
        if self._left is not None:
            self._left -= len(piece)
        self._hash.update(piece)
        self.count += len(piece)
        return piece

    def drain(self, most: int = 1 << 62) -> None:
        """Read on to the end. Raises Unfit when more than `most` bytes follow."""
        began = self.count
        while self.read(1 << 18):
            if self.count - began > most:
                raise Unfit("there is more behind its end than an image may have")

    def digest(self) -> str:
        """Of what went through."""
        return "sha256:" + self._hash.hexdigest()


@contextlib.contextmanager
def _opened(layer: Layer, file: BinaryIO) -> Iterator[tuple[Hashed, Hashed]]:
    """The layer uncompressed, and as it lies there; both from the start."""
    file.seek(layer.offset)
    magic = file.read(4)
    file.seek(layer.offset)
    packed = Hashed(file, layer.size)
    if magic[:2] == b"\x1f\x8b":
        with gzip.GzipFile(fileobj=io.BufferedReader(packed, 1 << 18)) as plain:
            yield Hashed(plain), packed
    elif magic == b"\x28\xb5\x2f\xfd":
        unpacker = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES)
        with unpacker.stream_reader(
            io.BufferedReader(packed, 1 << 18), read_across_frames=True, closefd=False
        ) as plain:
            yield Hashed(plain), packed
    else:
        yield Hashed(packed), packed


def _text_of(path: str) -> bytes:
    """What a small file of the image holds; nothing where it is none."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if stat.S_ISREG(os.fstat(fd).st_mode):
                return os.read(fd, 1 << 20)
        finally:
            os.close(fd)
    return b""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
