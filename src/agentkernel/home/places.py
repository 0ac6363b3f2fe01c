"""Where a daemon keeps its state and listens, and the checks that make those places its own."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agentkernel.model.errors import Refused

SOCKET_PATH_LIMIT = 100
"""Bytes. The kernel takes 107; clients in other languages stop a little earlier."""


@dataclass(frozen=True, slots=True)
class Places:
    """All below `home` (0700), but for a socket that was moved."""

    home: Path
    socket: Path

    @property
    def sandboxes(self) -> Path:
        """One private folder per live sandbox."""
        return self.home / "sandboxes"

    @property
    def snapshots(self) -> Path:
        """One private folder per snapshot; they outlive the daemon."""
        return self.home / "snapshots"

    @property
    def journal(self) -> Path:
        """The SQLite file."""
        return self.home / "journal.db"

    @property
    def log(self) -> Path:
        """The daemon's log."""
        return self.home / "daemon.log"

    @property
    def lock(self) -> Path:
        """Held for as long as a daemon lives; its content is that daemon's pid."""
        return self.home / "daemon.lock"

    @property
    def config(self) -> Path:
        """The user's configuration."""
        return self.home / "config.toml"

    @property
    def recipes(self) -> Path:
        """The user's own recipes."""
        return self.home / "recipes"


def places(environ: Mapping[str, str]) -> Places:
    """Where this user's daemon lives.

    Raises:
        Refused: there is no home directory, or the socket's path is too long; the hint says what to set.
    """
    if environ.get("AGENTKERNEL_HOME"):
        home = Path(environ["AGENTKERNEL_HOME"])
    elif environ.get("HOME"):
        home = Path(environ["HOME"]) / ".agentkernel"
    elif environ.get("XDG_RUNTIME_DIR"):
        home = Path(environ["XDG_RUNTIME_DIR"]) / "agentkernel"
    else:
        raise Refused("no home directory", hint="set AGENTKERNEL_HOME to a folder of your own")
    if not home.is_absolute():
        raise Refused(f"AGENTKERNEL_HOME is not an absolute path: {home}", hint="begin it with /")
    socket = Path(environ.get("AGENTKERNEL_SOCKET") or home / "daemon.sock")
    if len(os.fsencode(socket)) > SOCKET_PATH_LIMIT:
        raise Refused(
            f"the socket's path is longer than {SOCKET_PATH_LIMIT} bytes: {socket}",
            hint="set AGENTKERNEL_SOCKET to a shorter one",
        )
    return Places(home, socket)


def prepare(directory: Path) -> None:
    """Make a directory with 0700, or check one that is there; never change one that we did not make.

    Raises:
        Refused: somebody else could write to it.
    """
    try:
        directory.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        check_owned(directory)


def check_owned(directory: Path) -> None:
    """Refuse a directory where another user could put things in our place."""
    facts = directory.stat()
    if not stat.S_ISDIR(facts.st_mode):
        raise Refused(f"{directory} is not a directory", hint="move it away, or set AGENTKERNEL_HOME")
    if facts.st_uid not in (os.geteuid(), 0):
        raise Refused(f"{directory} belongs to another user", hint="set AGENTKERNEL_HOME to a folder of your own")
    if facts.st_mode & 0o022 and not facts.st_mode & stat.S_ISVTX:
        raise Refused(
            f"{directory} can be written by other users", hint=f"chmod go-w {directory}, or set AGENTKERNEL_HOME"
        )
