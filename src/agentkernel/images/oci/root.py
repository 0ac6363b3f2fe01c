"""The tree that layers are put into, by system calls alone. Used by `unpack`, where there is nothing outside of it."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator

from agentkernel.images.oci.layers import Unfit, checked_path, kept_xattrs, shown
from agentkernel.images.oci.tarstream import Entry, Kind

_HOLE = 4096
MOUNT_POINTS = ("proc", "sys", "dev")
DIRECTORIES: dict[str, tuple[int, int]] = {
    **dict.fromkeys(MOUNT_POINTS, (0o755, 0)),
    **{"tmp": (0o1777, 0), "run": (0o755, 0), "etc": (0o755, 0), "root": (0o700, 0), "home": (0o755, 0)},
    **{"home/sandbox": (0o755, 1000), "workspace": (0o755, 1000), "scratch": (0o755, 1000)},
}
"""What a sandbox needs of its root, made where an image has it not: mode and owner."""

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
