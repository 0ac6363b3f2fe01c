"""Extracts a tar stream below a directory, and nowhere else.

Source: guest/PROTOCOL.md 7, `TAR_IN`.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from agentkernel.drivers.worker.tree import Tree

BLOCK_BYTES = 512
COPY_BYTES = 1 << 18
ENTER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class _Blocks:
    """A stream that remembers what it gave last: at an archive's end a block of zeros, not nothing."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.last = b""

    def read(self, size: int) -> bytes:
        self.last = self._stream.read(size)
        return self.last


def extract(tree: Tree, directory: str, stream: BinaryIO) -> int:
    """The number of members. Raises OSError: EPERM with the name of a member that does not stay inside or is none of
    file, directory and link; EBADMSG for what is no archive, or not all of one.
    """
    blocks, count = _Blocks(stream), 0
    base = tree.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        with tarfile.open(fileobj=blocks, mode="r|", bufsize=BLOCK_BYTES) as archive:  # type: ignore[call-overload]
            for member in archive:
                _Member(base, member).place(archive)
                count += 1
        if blocks.last.strip(b"\0") or not blocks.last:
            raise tarfile.ReadError("it ends without a block of zeros")
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise _error(errno.EBADMSG, directory) from error
    finally:
        os.close(base)
    return count


class _Member:
    """One member, and the directory that it goes below."""

    def __init__(self, base: int, member: tarfile.TarInfo) -> None:
        self._base = base
        self._member = member
        self._parts = self._inside(member.name)

    def _inside(self, name: str) -> tuple[str, ...]:
        parts = tuple(part for part in name.split("/") if part not in {"", "."})
        if name.startswith("/") or ".." in parts:
            raise _error(errno.EPERM, self._member.name)
        return parts

    def place(self, archive: tarfile.TarFile) -> None:
        """Make it, in place of what is there."""
        member = self._member
        if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
            raise _error(errno.EPERM, member.name)
        if not self._parts:
            if not member.isdir():
                raise _error(errno.EISDIR, member.name)
            return
        try:
            with self._folder(self._parts[:-1], make=True) as folder:
                self._make(archive, folder, self._parts[-1])
        except OSError as error:
            error.filename = member.name
            raise

    def _make(self, archive: tarfile.TarFile, folder: int, name: str) -> None:
        member = self._member
        self._clear(folder, name)
        if member.isdir():
            with suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=folder)
            os.chmod(name, member.mode & 0o777 | stat.S_IRWXU, dir_fd=folder)
        elif member.issym():
            os.symlink(member.linkname, name, dir_fd=folder)
        elif member.islnk():
            self._link(folder, name)
        else:
            self._write(archive, folder, name)

    def _clear(self, folder: int, name: str) -> None:
        """Remove what is there; a directory gives way to nothing and takes a directory's place."""
        try:
            is_directory = stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            return
        if not is_directory:
            os.unlink(name, dir_fd=folder)
        elif not self._member.isdir():
            raise _error(errno.EISDIR, self._member.name)

    def _link(self, folder: int, name: str) -> None:
        *above, source = self._inside(self._member.linkname) or ("",)
        with self._folder(tuple(above), make=False) as place:
            if not stat.S_ISREG(os.stat(source, dir_fd=place, follow_symlinks=False).st_mode):
                raise _error(errno.EPERM, self._member.name)
            os.link(source, name, src_dir_fd=place, dst_dir_fd=folder, follow_symlinks=False)

    def _write(self, archive: tarfile.TarFile, folder: int, name: str) -> None:
        content = archive.extractfile(self._member)
        with os.fdopen(os.open(name, CREATE, 0o600, dir_fd=folder), "wb") as file:
            if content is not None:
                shutil.copyfileobj(content, file, COPY_BYTES)
            file.flush()
            os.fchmod(file.fileno(), self._member.mode & 0o777)
            os.utime(file.fileno(), (self._member.mtime, self._member.mtime))

    @contextmanager
    def _folder(self, parts: tuple[str, ...], *, make: bool) -> Iterator[int]:
        """A directory below the base, open; never through a symbolic link."""
        here = os.dup(self._base)
        try:
            for part in parts:
                there = self._enter(here, part, make=make)
                os.close(here)
                here = there
            yield here
        finally:
            os.close(here)

    def _enter(self, here: int, part: str, *, make: bool) -> int:
        if make:
            with suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=here)
        try:
            return os.open(part, ENTER, dir_fd=here)
        except NotADirectoryError:
            is_link = stat.S_ISLNK(os.stat(part, dir_fd=here, follow_symlinks=False).st_mode)
            raise _error(errno.EPERM if is_link else errno.ENOTDIR, self._member.name) from None


def _error(number: int, name: str) -> OSError:
    return OSError(number, os.strerror(number), name)
