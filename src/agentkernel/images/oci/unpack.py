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
import shutil
import stat
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from agentkernel.images.oci.layers import (
    Limits,
    Tally,
    Unfit,
    changes,
    checked_path,
    is_made,
    kept_xattrs,
    shown,
)
from agentkernel.images.oci.tarstream import Entry, Kind, Reader, TarError
from agentkernel.images.oci.users import resolve

ADDRESS_SPACE_BYTES = 2 << 30
"""A stop for what decompression may take, whatever a layer claims."""
WINDOW_BYTES = 128 << 20
"""Of zstd, as its own program has it by default."""
_CAPABILITIES = {"CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "FSETID": 4, "SETFCAP": 31}
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION_3 = 0x20080522
_HOLE = 4096
_OF_THE_LAYER = (errno.ELOOP, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EEXIST, errno.EINVAL, errno.EPERM, errno.ENOENT)
"""What the kernel says to a layer that is made to be in the way of itself."""

MOUNT_POINTS = ("proc", "sys", "dev")
DIRECTORIES: dict[str, tuple[int, int]] = {
    **dict.fromkeys(MOUNT_POINTS, (0o755, 0)),
    **{"tmp": (0o1777, 0), "run": (0o755, 0), "etc": (0o755, 0), "root": (0o700, 0), "home": (0o755, 0)},
    **{"home/sandbox": (0o755, 1000), "workspace": (0o755, 1000), "scratch": (0o755, 1000)},
}
"""What a sandbox needs of its root, made where an image has it not: mode and owner."""


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


Content = Callable[[], bytes]


class Root:
    """The tree that grows. All paths are below it because there is nothing else; a final name is never followed."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._times: dict[bytes, int] = {}

    def make(self, entry: Entry, content: Content) -> None:
        """Put one entry where it belongs, in place of what is there; a directory keeps what is in it."""
        path = checked_path(entry.name)
        if not path:
            self._dress(self._fd, b".", entry, follow=True)
            return
        with self._parent(path, make=True) as (parent, name):
            found = _look(parent, name)
            if found is not None and not (stat.S_ISDIR(found.st_mode) and entry.kind is Kind.DIRECTORY):
                if entry.kind is Kind.HARD_LINK and self._is_same(entry, found):
                    return
                _remove(parent, name)
                found = None
            match entry.kind:
                case Kind.DIRECTORY:
                    if found is None:
                        os.mkdir(name, 0o700, dir_fd=parent)
                    self._times[path] = entry.mtime_ns
                case Kind.FILE:
                    _write(parent, name, entry.size, content)
                case Kind.SYMLINK:
                    os.symlink(entry.target, name, dir_fd=parent)
                case Kind.FIFO:
                    os.mkfifo(name, 0o600, dir_fd=parent)
                case Kind.HARD_LINK:
                    self._link(entry, parent, name)
                    return  # what it links to has its own owner
                case Kind.DEVICE:
                    return
            self._dress(parent, name, entry, follow=False)

    def _is_same(self, entry: Entry, found: os.stat_result) -> bool:
        """A link to itself, or to what it is a link to already, which must not be removed first."""
        with self._parent(checked_path(entry.target), make=False) as (folder, target):
            there = _look(folder, target)
        return there is not None and (there.st_dev, there.st_ino) == (found.st_dev, found.st_ino)

    def _link(self, entry: Entry, parent: int, name: bytes) -> None:
        with self._parent(checked_path(entry.target), make=False) as (folder, target):
            found = _look(folder, target)
            if found is None or stat.S_ISDIR(found.st_mode):
                raise Unfit(f"{shown(entry.name)} is a hard link to {shown(entry.target)}, which is no file")
            os.link(target, name, src_dir_fd=folder, dst_dir_fd=parent, follow_symlinks=False)

    @staticmethod
    def _dress(parent: int, name: bytes, entry: Entry, *, follow: bool) -> None:
        """Owner first: giving a file away takes its set-id bits and capabilities."""
        try:
            os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=follow)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise Unfit(
                f"{shown(entry.name)} belongs to {entry.uid}:{entry.gid}, beyond this user's subordinate ids"
            ) from error
        if entry.kind is not Kind.SYMLINK:
            os.chmod(name, entry.mode, dir_fd=parent)
        if entry.kind in (Kind.FILE, Kind.DIRECTORY):
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            try:
                for stale in os.listxattr(fd):
                    os.removexattr(fd, stale)
                for key, value in kept_xattrs(entry):
                    os.setxattr(fd, key, value)
            finally:
                os.close(fd)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=follow)

    def remove(self, path: bytes) -> None:
        """What a whiteout names, with all below it; that it is not there is fine."""
        with (
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
            self._parent(path, make=False) as (parent, name),
        ):
            if _look(parent, name) is not None:
                _remove(parent, name)

    def empty(self, path: bytes) -> None:
        """What an opaque whiteout names stays, without what is in it."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            fd = os.open(path or b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._fd)
            try:
                for name in os.listdir(fd):  # noqa: PTH208
                    _remove(fd, os.fsencode(name))
            finally:
                os.close(fd)

    def finish(self, cwd: str) -> None:
        """What a sandbox needs of its root and the image has not, its working directory too; and directories' times.

        Raises:
            Unfit: something else is in the place of such a directory.
        """
        wanted = {name.encode(): facts for name, facts in DIRECTORIES.items()}
        for path, (mode, owner) in {**wanted, checked_path(cwd.encode().lstrip(b"/")): (0o755, 0)}.items():
            if not path or self._is_directory(path, follow=path.decode(errors="replace") not in MOUNT_POINTS):
                continue
            with self._parent(path, make=True) as (parent, name):
                if _look(parent, name) is not None:
                    raise Unfit(f"{shown(b'/' + path)} is no directory in it")
                os.mkdir(name, mode, dir_fd=parent)
                os.chown(name, owner, owner, dir_fd=parent)
        for path, mtime_ns in self._times.items():
            if self._is_directory(path, follow=False):
                os.utime(path, ns=(mtime_ns, mtime_ns), dir_fd=self._fd, follow_symlinks=False)

    def special_modes(self) -> list[str]:
        """Set-id and sticky files, `MODE PATH` each, for whoever makes the tree again (it is a shell's `read`). Names
        that such a line cannot hold are left out: they lose their bits there."""
        found = []
        for folder, names, files, fd in os.fwalk(b".", dir_fd=self._fd):
            for name in (*names, *files):
                facts = os.stat(name, dir_fd=fd, follow_symlinks=False)
                path = (folder + b"/" + name)[2:]
                if facts.st_mode & 0o7000 and not stat.S_ISLNK(facts.st_mode) and not set(path) & set(b"\n\\ \t"):
                    found.append(f"{stat.S_IMODE(facts.st_mode):o} {path.decode(errors='surrogateescape')}")
        return [line for line in found if line.isprintable()]

    def _is_directory(self, path: bytes, *, follow: bool) -> bool:
        try:
            return stat.S_ISDIR(os.stat(path, dir_fd=self._fd, follow_symlinks=follow).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False

    @contextlib.contextmanager
    def _parent(self, path: bytes, *, make: bool) -> Iterator[tuple[int, bytes]]:
        """The directory of a path, made with those above it where that is asked for, and the last name."""
        folder, _, name = path.rpartition(b"/")
        flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        try:
            fd = os.open(folder or b".", flags, dir_fd=self._fd)
        except FileNotFoundError:
            if not make:
                raise
            at = b""
            for part in folder.split(b"/"):
                at = at + b"/" + part if at else part
                with contextlib.suppress(FileExistsError):
                    os.mkdir(at, 0o755, dir_fd=self._fd)
            fd = os.open(folder, flags, dir_fd=self._fd)
        try:
            yield fd, name
        finally:
            os.close(fd)


def _look(parent: int, name: bytes) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _remove(parent: int, name: bytes) -> None:
    """Whatever it is, with all below it."""
    found = _look(parent, name)
    if found is not None and stat.S_ISDIR(found.st_mode):
        shutil.rmtree(os.fsdecode(name), dir_fd=parent)
    else:
        os.unlink(name, dir_fd=parent)


def _write(parent: int, name: bytes, size: int, content: Content) -> None:
    """A new file; what is zeros in it takes no room."""
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)
    try:
        while piece := content():
            if piece.count(0) == len(piece) >= _HOLE:
                os.lseek(fd, len(piece), os.SEEK_CUR)
                continue
            while piece:
                piece = piece[os.write(fd, piece) :]
        os.ftruncate(fd, size)
    finally:
        os.close(fd)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
