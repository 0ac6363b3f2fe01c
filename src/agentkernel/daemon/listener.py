"""The daemon's lock and its listening socket."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agentkernel.home.places import Places, check_owned, prepare
from agentkernel.model.errors import Busy, Denied

BACKLOG = 512


@contextmanager
def locked(places: Places) -> Iterator[None]:
    """Hold the one lock of this home for the length of a block.

    Raises:
        Busy: another daemon holds it.
    """
    descriptor = os.open(places.lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            raise Busy(
                f"a daemon already runs for {places.home} (pid {pid})",
                hint="use it, or stop it: agentkernel daemon stop",
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """A listening Unix socket, 0600; the file is removed at the end if it is still ours. A stale one is replaced.

    Raises:
        Busy: somebody answers there already.
        Refused: its folder is not safe.
    """
    prepare(path.parent)
    check_owned(path.parent)
    if _answers(path):
        raise Busy(f"another daemon answers at {path}", hint="stop it, or set AGENTKERNEL_SOCKET to another path")
    temporary = path.with_name(f".{secrets.token_hex(4)}")
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(temporary))
        temporary.chmod(0o600)
        listener.listen(BACKLOG)
        listener.setblocking(False)
        temporary.rename(path)
        ours = _inode(path)
        try:
            yield listener
        finally:
            if _inode(path) == ours:
                path.unlink(missing_ok=True)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        listener.close()


def check_peer(connection: socket.socket) -> None:
    """Refuse anyone but our own user and root, by the credentials that the kernel took at connect.

    Raises:
        Denied: another user.
    """
    _pid, uid, _gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if uid not in (os.geteuid(), 0):
        raise Denied(
            f"this daemon serves uid {os.geteuid()} only, not uid {uid}",
            hint="run a daemon of your own: agentkernel run",
        )


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        facts = path.lstat()
    except FileNotFoundError:
        return None
    return facts.st_dev, facts.st_ino
