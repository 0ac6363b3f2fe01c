"""One builder at a time: file locks that other processes see, waited for without holding up the event loop."""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from agentkernel.images import process


@asynccontextmanager
async def locked(path: Path) -> AsyncIterator[None]:
    """Hold the lock file `path` exclusively. It ends with the process however that ends, so a crash leaves no lock
    behind."""
    descriptor = _open(path)
    try:
        if not _try(descriptor):
            # A lock belongs to the open file, not to the process: the child that waits for it on our descriptor gets it
            # for us, and can be killed when we are cancelled, which a thread that hangs in flock(2) cannot.
            await process.run(["flock", "--exclusive", str(descriptor)], pass_fds=[descriptor])
        yield
    finally:
        os.close(descriptor)


@contextmanager
def lock_if_free(path: Path) -> Iterator[bool]:
    """Hold the lock if nobody else does; says whether."""
    descriptor = _open(path)
    try:
        yield _try(descriptor)
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
