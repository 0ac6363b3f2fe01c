"""Saved sandboxes on disk: a folder each, private, whole or not there. They outlive the daemon."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from agentkernel.model.errors import NotFound, Refused
from agentkernel.model.ids import Digest, SnapshotId, new_snapshot_id
from agentkernel.model.kinds import Backend, Mode, Vmm
from agentkernel.model.spec import BootSpec, LeaseSpec

MOST_SNAPSHOTS = 64
MOST_BYTES = 32 << 30
FACTS = "snapshot.json"
UNFINISHED = "."
"""First character of a folder that no snapshot's id names: in the making, or for one fork only."""
MIB = 1 << 20

Save = Callable[[Path], Awaitable[None]]
"""Writes a sandbox to an empty folder."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A saved sandbox.

    Attributes:
        spec, mode: of the sandbox that it was taken of.
        lease: what held for that one's commands.
        taken_s: seconds since 1970.
        size_bytes: on the disk, holes not counted.
    """

    id: SnapshotId
    spec: BootSpec
    mode: Mode
    lease: LeaseSpec
    taken_s: float
    size_bytes: int


class Snapshots:
    """All below one folder, which is made when it is needed; 0700.

    Args:
        most, most_bytes: when there are as many, or they take as much room, none is taken any more.
    """

    def __init__(self, directory: Path, *, most: int = MOST_SNAPSHOTS, most_bytes: int = MOST_BYTES) -> None:
        self._directory = directory
        self._most = most
        self._most_bytes = most_bytes
        self._taking = anyio.Lock()

    def clear(self) -> None:
        """Remove what a crash left unfinished."""
        for folder in self._directory.glob(f"{UNFINISHED}*"):
            shutil.rmtree(folder, ignore_errors=True)

    def folder(self, snapshot: SnapshotId) -> Path:
        """Where its files are. Raises NotFound."""
        folder = self._directory / snapshot
        if not re.fullmatch(r"[0-9a-f]{32}", snapshot) or not (folder / FACTS).is_file():
            raise NotFound("no such snapshot, or it was removed", hint="`snapshot_list` names those that are there")
        return folder

    def get(self, snapshot: SnapshotId) -> Snapshot:
        """Its facts. Raises NotFound, and Refused for one that is damaged."""
        try:
            return _decode(snapshot, json.loads((self.folder(snapshot) / FACTS).read_text()))
        except (ValueError, KeyError, TypeError, AttributeError) as err:
            raise Refused("the snapshot is damaged", hint="remove it with snapshot_remove") from err

    def all(self) -> list[Snapshot]:
        """Oldest first; damaged ones are left out."""
        found: list[Snapshot] = []
        for path in self._directory.glob(f"*/{FACTS}"):
            with suppress(Refused):
                found.append(self.get(SnapshotId(path.parent.name)))
        return sorted(found, key=lambda snapshot: (snapshot.taken_s, snapshot.id))

    @asynccontextmanager
    async def passing(self, spec: BootSpec, save: Save) -> AsyncIterator[Path]:
        """A saved sandbox for the length of a block.

        Raises:
            Refused: the disk has no room for it.
        """
        folder = self._directory / f"{UNFINISHED}{new_snapshot_id()}"
        try:
            self._check_disk(spec)
            folder.mkdir(mode=0o700)
            await save(folder)
            yield folder
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(lambda: shutil.rmtree(folder, ignore_errors=True))

    async def take(self, spec: BootSpec, mode: Mode, lease: LeaseSpec, save: Save) -> Snapshot:
        """Save, and keep it. One at a time.

        Raises:
            Refused: there are too many already, or there is no room.
        """
        async with self._taking:
            taken = self.all()
            used = sum(snapshot.size_bytes for snapshot in taken)
            if len(taken) >= self._most or used + spec.memory_mib * MIB > self._most_bytes:
                raise Refused(
                    f"no room for one more snapshot: {len(taken)} of {self._most} are kept, "
                    f"{used // MIB} of {self._most_bytes // MIB} MiB",
                    hint="remove some with snapshot_remove",
                )
            async with self.passing(spec, save) as folder:
                snapshot = Snapshot(new_snapshot_id(), spec, mode, lease, time.time(), _size(folder))
                (folder / FACTS).write_text(_encode(snapshot))
                folder.rename(self._directory / snapshot.id)
        return snapshot

    async def remove(self, snapshot: SnapshotId) -> None:
        """Forget it; what was restored from it goes on. Raises NotFound."""
        gone = self._directory / f"{UNFINISHED}{new_snapshot_id()}"
        self.folder(snapshot).rename(gone)
        await anyio.to_thread.run_sync(lambda: shutil.rmtree(gone, ignore_errors=True))

    def _check_disk(self, spec: BootSpec) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        free = shutil.disk_usage(self._directory).free
        if free < spec.memory_mib * MIB:
            raise Refused(
                f"no room to save a sandbox of {spec.memory_mib} MiB: {free // MIB} MiB are free in {self._directory}",
                hint="free some space there, or remove snapshots",
            )


def _size(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.iterdir())


def _encode(snapshot: Snapshot) -> str:
    facts = asdict(snapshot)
    facts["lease"] = {name: facts["lease"][name] for name in ("env", "cwd", "user", "command")}
    del facts["id"]
    return json.dumps(facts)


def _decode(snapshot: SnapshotId, facts: dict[str, Any]) -> Snapshot:
    spec = facts["spec"]
    vmm = spec["vmm"] and Vmm(spec["vmm"])
    spec["warm_up"] = tuple(map(tuple, spec.get("warm_up", ())))
    spec |= {"backend": Backend(spec["backend"]), "vmm": vmm, "image": Digest(spec["image"])}
    lease = facts["lease"]
    lease["command"] = tuple(lease.get("command", ()))
    facts |= {"spec": BootSpec(**spec), "mode": Mode(facts["mode"]), "lease": LeaseSpec(**lease)}
    return Snapshot(id=snapshot, **facts)
