"""`agentkernel uninstall`: name all that we made on this host, and remove it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agentkernel.images import namespace
from agentkernel.images.manifest import disk_bytes
from agentkernel.images.store import Store
from agentkernel.model.errors import AgentkernelError, Refused


@dataclass(frozen=True, slots=True)
class Made:
    """One folder that is ours. `what` says what is in it."""

    path: Path
    what: str
    size_bytes: int


def all_we_made(store: Store) -> list[Made]:
    """The folders that exist: nothing is written outside of them."""
    places = (
        (store.data, "images, kernels, tools, templates, downloaded packages"),
        (store.state, "configuration, recipes, socket, journal, logs"),
    )
    return [Made(path, what, disk_bytes(path)) for path, what in places if path.is_dir()]


async def remove(made: Made) -> int:
    """Remove one of them; returns the bytes freed.

    Raises:
        Refused: it is not a folder that we could have made.
        AgentkernelError: something in it could not be removed.
    """
    if made.path in (Path("/"), Path.home()) or made.path.is_symlink():
        raise Refused(f"{made.path} is not removed", hint="look at AGENTKERNEL_DATA and AGENTKERNEL_HOME")
    await namespace.remove(made.path)
    if made.path.exists():
        raise AgentkernelError(
            f"{made.path} could not be removed completely",
            hint="does the daemon still run, or does root own files in it?",
        )
    return made.size_bytes
