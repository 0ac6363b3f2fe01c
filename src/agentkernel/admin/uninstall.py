"""`agentkernel uninstall`: name all that we made on this host, and remove it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agentkernel.images import namespace
from agentkernel.images.manifest import disk_bytes
from agentkernel.images.shelf import TAG
from agentkernel.images.store import Store
from agentkernel.model.errors import AgentkernelError, Refused


@dataclass(frozen=True, slots=True)
class Made:
    """One folder that is ours. `what` says what is in it."""

    path: Path
    what: str
    size_bytes: int


def all_we_made(store: Store) -> list[Made]:
    """The folders that exist: nothing is written outside of them.

    Raises:
        Refused: a variable names a folder that we did not make.
    """
    places = (
        (store.data, "images, kernels, tools, templates, downloaded packages"),
        (store.state, "configuration, recipes, snapshots, socket, journal, logs"),
    )
    found = [Made(path, what, disk_bytes(path)) for path, what in places if path.is_dir()]
    for made in found:
        if not _is_ours(made.path):
            raise Refused(
                f"{made.path} does not look like a folder that agentkernel made",
                hint="look at AGENTKERNEL_DATA and AGENTKERNEL_HOME; what is ours there has to be removed by hand",
            )
    return found


def _is_ours(path: Path) -> bool:
    """It carries our tag, our name, or a daemon's lock and journal."""
    if path.is_symlink() or path in (Path("/"), Path.home()):
        return False
    signs = ("daemon.lock", "journal.db")
    return "agentkernel" in path.name or (path / TAG).is_file() or all((path / sign).is_file() for sign in signs)


async def remove(made: Made) -> int:
    """Remove one of them; returns the bytes freed.

    Raises:
        AgentkernelError: something in it could not be removed.
    """
    await namespace.remove(made.path)
    if made.path.exists():
        raise AgentkernelError(
            f"{made.path} could not be removed completely",
            hint="does the daemon still run, or are there files of root?",
        )
    return made.size_bytes
