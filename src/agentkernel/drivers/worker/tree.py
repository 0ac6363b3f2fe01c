"""The sandbox's own file tree, below one folder: nothing of it is reached through a link that leaves it."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agentkernel.model.execution import FileEntry

SYS_OPENAT2 = 437
"""The same on every architecture. Source: openat2(2)."""
RESOLVE_IN_ROOT = 0x10
OWNER = 1000
"""Who owns everything, as programs and callers see it."""
FOLDERS = ("workspace", "scratch", "tmp", "home/sandbox", "run/agentkernel", "etc")

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class Tree:
    """Everything below `root`, which is made when it is missing. Paths are absolute, as programs see them."""

    def __init__(self, root: Path) -> None:
        for folder in FOLDERS:
            (root / folder).mkdir(parents=True, exist_ok=True)
        self.path = root
        self._root = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        """It is of no use afterwards; its files stay."""
        os.close(self._root)

    def open(self, path: str, flags: int, mode: int = 0) -> int:
        """A descriptor; symbolic links lead where they lead inside. Raises OSError with `path`."""
        how = _OpenHow(flags | os.O_CLOEXEC, mode, RESOLVE_IN_ROOT)
        name = os.fsencode(path)
        number = int(_libc.syscall(SYS_OPENAT2, self._root, name, ctypes.byref(how), ctypes.sizeof(how)))
        if number < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), path)
        return number

    @contextmanager
    def parent(self, path: str) -> Iterator[tuple[int, str]]:
        """The directory that holds a path, open, and the name in it; `.` for the root itself."""
        folder, _, name = path.rstrip("/").rpartition("/")
        if name in {".", ".."}:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
        number = self.open(folder or "/", os.O_PATH | os.O_DIRECTORY)
        try:
            yield number, name or "."
        except OSError as error:
            error.filename = path
            raise
        finally:
            os.close(number)

    def make_parents(self, path: str) -> None:
        """Make the directories above a path that are missing."""
        folder = path.rstrip("/").rpartition("/")[0]
        if folder:
            self.make_directory(folder, 0o755, parents=True)

    def make_directory(self, path: str, mode: int, *, parents: bool) -> None:
        """Make a directory; with `parents` those above it too, and it may be there."""
        if parents and path.rstrip("/"):
            try:
                os.close(self.open(path, os.O_PATH | os.O_DIRECTORY))
                return
            except FileNotFoundError:
                self.make_parents(path)
            except NotADirectoryError:
                self.entry(path)  # something above it is no directory, else it is itself there and none
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from None
        elif parents:
            return
        with self.parent(path) as (folder, name):
            os.mkdir(name, mode & 0o777, dir_fd=folder)
            os.chmod(name, mode & 0o777, dir_fd=folder)

    def write(self, path: str, content: bytes) -> None:
        """Replace a file of ours by a new one, at once."""
        with self.parent(path) as (folder, name):
            beside = os.open(f".{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644, dir_fd=folder)
            with os.fdopen(beside, "wb") as file:
                file.write(content)
            os.rename(f".{name}", name, src_dir_fd=folder, dst_dir_fd=folder)

    def entry(self, path: str) -> FileEntry:
        """Facts of a path; of a symbolic link, its own."""
        with self.parent(path) as (folder, name):
            return _entry(
                path.rstrip("/").rpartition("/")[2] or "/", os.stat(name, follow_symlinks=False, dir_fd=folder)
            )

    def entries(self, path: str) -> list[FileEntry]:
        """What is in a directory."""
        folder = self.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            names = os.listdir(folder)  # noqa: PTH208  # a descriptor, not a path
            return [_entry(name, os.stat(name, follow_symlinks=False, dir_fd=folder)) for name in sorted(names)]
        finally:
            os.close(folder)

    def remove(self, path: str, *, recursive: bool) -> None:
        """Remove a file or an empty directory, or all that is below."""
        with self.parent(path) as (folder, name):
            if not stat.S_ISDIR(os.stat(name, follow_symlinks=False, dir_fd=folder).st_mode):
                os.unlink(name, dir_fd=folder)
            elif recursive:
                shutil.rmtree(name, dir_fd=folder)
            else:
                os.rmdir(name, dir_fd=folder)

    def rename(self, source: str, target: str) -> None:
        """Within this tree."""
        with self.parent(source) as (old, old_name), self.parent(target) as (new, new_name):
            os.rename(old_name, new_name, src_dir_fd=old, dst_dir_fd=new)

    def is_directory(self, path: str) -> bool:
        """Whether it is one that can be entered."""
        try:
            os.close(self.open(path, os.O_PATH | os.O_DIRECTORY))
        except OSError:
            return False
        return True

    def free_kib(self) -> int:
        """Room that is left."""
        facts = os.statvfs(self.path)
        return facts.f_bavail * facts.f_frsize // 1024


def _entry(name: str, facts: os.stat_result) -> FileEntry:
    kinds = {stat.S_IFREG: "f", stat.S_IFDIR: "d", stat.S_IFLNK: "l"}
    return FileEntry(
        name=name,
        kind=kinds.get(stat.S_IFMT(facts.st_mode), "o"),
        mode=stat.S_IMODE(facts.st_mode),
        size=facts.st_size,
        modified_s=max(0, int(facts.st_mtime)),
        uid=OWNER,
        gid=OWNER,
    )
