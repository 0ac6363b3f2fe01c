"""`agentkernel uninstall`: name all that we made on this host, and remove it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import anyio

from agentkernel.drivers.contract import Driver
from agentkernel.images import namespace
from agentkernel.images.manifest import disk_bytes
from agentkernel.images.shelf import TAG
from agentkernel.images.store import Store
from agentkernel.model.errors import AgentkernelError, Refused
from agentkernel.model.ids import Digest

ENGINE_S = 60.0
"""For one engine; it removes an image of 200 MB in a second."""


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


async def clear_engines(
    drivers: Mapping[str, Driver], keep: Collection[Digest] | None, *, deadline_s: float = ENGINE_S
) -> list[str]:
    """What container engines held of ours, and not any more. An engine that does not answer keeps what it has: there
    need not be one.

    Args:
        keep: as `Driver.clear`.
    """
    gone: list[str] = []
    for name, driver in drivers.items():
        with anyio.move_on_after(deadline_s), suppress(AgentkernelError):
            gone += [f"{name}: {what}" for what in await driver.clear(keep)]
    return gone
