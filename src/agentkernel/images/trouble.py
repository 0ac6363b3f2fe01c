"""What went wrong, in words: operating system errors and the last words of programs, made into errors that say what
to do."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from agentkernel.model.errors import AgentkernelError, Busy, Refused

_FULL = ("No space left on device", "Disk quota exceeded", "don't have enough free space", "not enough space")
_FULL_MIB = 4
"""With less than this free a program that failed had no room, whatever it managed to say."""
_OFFLINE = (
    "Could not resolve",
    "Temporary failure resolving",
    "Temporary failure in name resolution",
    "Could not connect",
    "Unable to connect",
    "Connection failed",
    "Connection timed out",
    "Connection refused",
    "Network is unreachable",
    "Failed to fetch",
    "Failed to establish a new connection",
)
_UNSIGNED = ("NO_PUBKEY", "is not signed", "signatures couldn't be verified", "signatures were invalid", "BADSIG")


class ChildError(AgentkernelError):
    """A program that we ran ended badly.

    Attributes:
        output: the end of what it wrote, at most a few thousand characters.
    """

    def __init__(self, program: str, status: int, output: str) -> None:
        last = next((line for line in reversed(output.splitlines()) if line.strip()), "it said nothing")
        super().__init__(f"{program} failed with status {status}: {last.strip()[:300]}")
        self.output = output


def free_mib(folder: Path) -> int:
    """MiB that this user may still write on the file system of `folder`."""
    facts = os.statvfs(folder)
    return facts.f_bavail * facts.f_frsize // (1 << 20)


def no_space(doing: str, folder: Path, need_mib: int | None) -> Busy:
    """The error for a full disk: what filled up, how much is free, how much it takes."""
    need = f"; it needs about {need_mib} MiB" if need_mib else ""
    return Busy(
        f"no space left in {folder} while {doing}: {free_mib(folder)} MiB free{need}",
        hint="free some space, run `agentkernel images prune`, or point AGENTKERNEL_DATA to a larger disk; "
        "nothing partial was kept",
    )


def explained(error: Exception, *, doing: str, folder: Path, need_mib: int | None = None) -> AgentkernelError:
    """The error to raise instead of `error`, which happened while `doing` something that writes to `folder`."""
    if isinstance(error, OSError):
        return _from_errno(error, doing, folder, need_mib)
    if isinstance(error, ChildError):
        return _from_output(error, doing, folder, need_mib)
    if isinstance(error, AgentkernelError):
        return error
    return AgentkernelError(f"{doing} failed: {error}", hint="this is a fault of agentkernel; please report it")


def _from_errno(error: OSError, doing: str, folder: Path, need_mib: int | None) -> AgentkernelError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return no_space(doing, folder, need_mib)
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return Refused(
            f"cannot write {error.filename or folder} while {doing}: {error.strerror}",
            hint="make the data folder writable for this user, or point AGENTKERNEL_DATA to one that is",
        )
    return AgentkernelError(f"{doing} failed: {error}")


def _from_output(error: ChildError, doing: str, folder: Path, need_mib: int | None) -> AgentkernelError:
    if any(words in error.output for words in _FULL) or free_mib(folder) < _FULL_MIB:
        return no_space(doing, folder, need_mib)
    if any(words in error.output for words in _UNSIGNED):
        return Refused(
            f"the package archive's signature did not verify while {doing}: {error.message}",
            hint="install the archive's keyring (debian-archive-keyring or ubuntu-keyring); unsigned packages "
            "are never used",
        )
    if any(words in error.output for words in _OFFLINE):
        return Busy(
            f"the package archive cannot be reached while {doing}: {error.message}",
            hint="check the network and proxy, or set AGENTKERNEL_MIRROR to a reachable archive, then run the "
            "same again",
        )
    return AgentkernelError(f"{doing} failed: {error.message}")
