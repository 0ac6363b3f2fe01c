"""The journal's file, its one table, and its single writer."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread

from agentkernel.model.errors import AgentkernelError
from agentkernel.model.ids import SandboxId
from agentkernel.model.kinds import Backend, Vmm

T = TypeVar("T")

SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE IF NOT EXISTS sandboxes (
    id TEXT PRIMARY KEY,
    backend TEXT NOT NULL,
    vmm TEXT,
    directory TEXT NOT NULL,
    facts TEXT NOT NULL
) STRICT
"""

INTEND = """
INSERT INTO sandboxes VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET facts = json_remove(facts, '$.left')
"""


@dataclass(frozen=True, slots=True)
class Leftover:
    """One sandbox that was made, or about to be, and never reported gone."""

    id: SandboxId
    backend: Backend
    vmm: Vmm | None
    directory: Path
    facts: Mapping[str, str | int]


class Journal:
    """All calls are serialised on one writer; each returns when its row is committed.

    Committed means that it survives the death of this process. WAL with `synchronous=NORMAL` does not promise the same
    for a power failure, and need not: no process outlives that, and directories are found by listing as well.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._writer = anyio.CapacityLimiter(1)

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path) -> AsyncIterator[Journal]:
        """Open, creating it (0600) when missing. A file that is not a journal is put aside, never deleted."""
        connection = await anyio.to_thread.run_sync(_connect_or_put_aside, path)
        try:
            yield cls(connection)
        finally:
            connection.close()

    async def intend(self, sandbox: SandboxId, backend: Backend, vmm: Vmm | None, directory: Path) -> None:
        """Commit that this sandbox is about to be made, before anything of it is. One that is left from an earlier try
        keeps its facts.
        """
        row = (sandbox, str(backend), None if vmm is None else str(vmm), str(directory), "{}")
        await self._write(lambda db: db.execute(INTEND, row))

    async def record(self, sandbox: SandboxId, facts: Mapping[str, str | int]) -> None:
        """Add facts to a sandbox's row; the newest value of a name wins."""
        patch = json.dumps(dict(facts))
        await self._write(
            lambda db: db.execute("UPDATE sandboxes SET facts = json_patch(facts, ?) WHERE id = ?", (patch, sandbox))
        )

    async def forget(self, sandbox: SandboxId) -> None:
        """Nothing is left of it."""
        await self._write(lambda db: db.execute("DELETE FROM sandboxes WHERE id = ?", (sandbox,)))

    async def leftovers(self) -> list[Leftover]:
        """Every row, oldest first."""
        rows = await self._write(
            lambda db: db.execute("SELECT id, backend, vmm, directory, facts FROM sandboxes ORDER BY rowid").fetchall()
        )
        return [
            Leftover(SandboxId(id_), Backend(backend), vmm and Vmm(vmm), Path(directory), json.loads(facts))
            for id_, backend, vmm, directory, facts in rows
        ]

    async def _write(self, action: Callable[[sqlite3.Connection], T]) -> T:
        def run() -> T:
            with self._connection:
                return action(self._connection)

        try:
            return await anyio.to_thread.run_sync(run, limiter=self._writer)
        except sqlite3.Error as err:
            raise AgentkernelError(
                f"the journal cannot be written: {err}", hint="free some space, or check the state folder's permissions"
            ) from err


def _connect_or_put_aside(path: Path) -> sqlite3.Connection:
    try:
        return _connect(path)
    except sqlite3.DatabaseError:
        if not path.exists():
            raise
        for suffix in ("", "-wal", "-shm"):
            part = path.with_name(path.name + suffix)
            if part.exists():
                part.rename(part.with_name(f"{part.name}.unreadable"))
        return _connect(path)


def _connect(path: Path) -> sqlite3.Connection:
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version not in (0, SCHEMA_VERSION):
            raise sqlite3.DatabaseError(f"schema version {version}, this program writes {SCHEMA_VERSION}")
        connection.execute(SCHEMA)
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        connection.commit()
    except BaseException:
        connection.close()
        raise
    return connection
