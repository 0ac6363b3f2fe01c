"""Sockets and disks of one machine, in its private folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from agentkernel.model.errors import Busy

SCRATCH = "scratch.ext4"
"""The private disk, in its machine's folder."""


@contextmanager
def _short(directory: Path, name: str) -> Iterator[str]:
    """A path that fits into a socket address's 107 bytes however deep the folder lies: through its descriptor."""
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)


def listen_below(directory: Path, name: str) -> socket.socket:
    """A listening Unix socket in that folder. Bound by us, so that nobody waits for a file to appear."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        with _short(directory, name) as path:
            listener.bind(path)
        listener.listen(1)
    except BaseException:
        listener.close()
        raise
    return listener


def connect_below(directory: Path, name: str) -> socket.socket:
    """A connection to a socket in that folder; at once, as soon as somebody listens and before they accept. Never
    waits: where too many wait already, it is an OSError.
    """
    connection = socket.socket(socket.AF_UNIX)
    connection.setblocking(False)
    try:
        with _short(directory, name) as path:
            connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return connection


def opened(path: Path, flags: int, files: ExitStack, mode: int = 0o600) -> int:
    """A descriptor that closes with `files`."""
    descriptor = os.open(path, flags | os.O_CLOEXEC, mode)
    files.callback(os.close, descriptor)
    return descriptor


def both_ways(path: Path, files: ExitStack) -> tuple[int, int]:
    """The file for reading, and for reading and writing."""
    return opened(path, os.O_RDONLY, files), opened(path, os.O_RDWR, files)


def keep_alone(disk: int) -> None:
    """Have a disk, opened for writing, for one machine. The lock is the open file's: it ends with the last who has
    that, which for QEMU is QEMU.

    Raises:
        Busy: another machine has it.
    """
    try:
        fcntl.flock(disk, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Busy("another sandbox uses this disk", hint="stop that one first") from None


def keep_disk(blank: Path, disk: Path) -> None:
    """Have a lasting disk there: a copy of the blank one, whole or not at all, unless there is one already."""
    if disk.exists():
        return
    beside = disk.with_name(f".{disk.name}.{secrets.token_hex(4)}")
    try:
        copy_sparse(blank, beside)
        with contextlib.suppress(FileExistsError):  # somebody was quicker
            disk.hardlink_to(beside)
    finally:
        beside.unlink(missing_ok=True)


def copy_sparse(source: Path, target: Path) -> None:
    """Copy the data of a sparse file and leave its holes; 0600."""
    with source.open("rb") as reader, open(os.open(target, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600), "wb") as writer:
        os.ftruncate(writer.fileno(), os.fstat(reader.fileno()).st_size)
        copy_data(reader.fileno(), writer.fileno())


def copy_data(reader: int, writer: int) -> None:
    """Copy what is no hole, to the same places."""
    for start, end in _extents(reader, os.fstat(reader).st_size):
        position = start
        while position < end:
            copied = _copy(reader, writer, position, end - position)
            if copied == 0:
                raise OSError(errno.EIO, "a file became shorter while it was copied")
            position += copied


def _copy(reader: int, writer: int, position: int, size: int) -> int:
    """Some bytes from one file to the same place of another, within the kernel; returns how many."""
    try:
        return os.copy_file_range(reader, writer, size, position, position)
    except OSError as error:
        # Linux 5.19 refuses it between kinds of file systems (copy_file_range(2), VERSIONS), others where one lacks it.
        if error.errno not in {errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}:
            raise
    os.lseek(writer, position, os.SEEK_SET)
    return os.sendfile(writer, reader, position, size)


def _extents(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    position = 0
    while position < size:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError:
            return  # ENXIO: nothing but hole from here on
        position = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, position
