"""The half of LinkGuest that moves files."""

from __future__ import annotations

import posixpath
from abc import ABC
from collections.abc import AsyncIterator
from dataclasses import replace

from agentkernel.drivers.contract import Guest
from agentkernel.drivers.link.session import Session
from agentkernel.drivers.link.transfer import Transfer, transfer
from agentkernel.drivers.link.words import printable
from agentkernel.model.errors import Refused, Unsupported
from agentkernel.model.execution import FileEntry
from agentkernel.wire import files
from agentkernel.wire.fields import Payload
from agentkernel.wire.program import Failed

MOST_FILE_BYTES = 256 * 1024 * 1024
"""What `read_file` takes when its caller names no limit: a guest must not choose how much memory the host uses."""

OWN_USER = frozenset({"", "sandbox", "1000", "1000:1000"})
"""What the sandbox's own user is called in requests."""


class LinkFiles(Guest, ABC):
    """File operations of `Guest`. Each is one channel; a caller that is cancelled leaves nothing half written."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def _need(self, feature: str) -> None:
        self._session.check()
        if feature not in self.facts.features:
            raise Unsupported(f"this sandbox has no {feature}")

    def _whom(self, user: str) -> str:
        """A user as this guest understands it: an agent without root knows none but itself, and has no name for it."""
        if "user-root" in self.facts.features:
            return user
        if user in OWN_USER:
            return ""
        raise Unsupported(
            "this sandbox has one user, sandbox (uid 1000)", hint="leave the user out, or take another backend"
        )

    async def _simple(self, request: Payload, path: str) -> Transfer:
        self._need("files")
        async with transfer(self._session, request, path) as under_way:
            await under_way.answer(files.Done)
        return under_way

    async def read_file(self, path: str, *, offset: int = 0, limit: int | None = None) -> bytes:
        """As the contract says; without `limit`, 256 MiB."""
        self._need("files")
        most_bytes = MOST_FILE_BYTES if limit is None else limit
        # One byte more tells a file that is too long from one that just fits, also where sizes are not known (/proc).
        async with transfer(self._session, files.Read(path, offset, most_bytes + 1), path) as under_way:
            await under_way.answer(files.ReadDone)
        if len(under_way.content) > most_bytes:
            raise Refused(f"the file holds more than {most_bytes} bytes", hint="read it in ranges, or raise the limit")
        return bytes(under_way.content)

    async def write_file(
        self, path: str, content: bytes, *, mode: int = 0o644, owner: str = "", make_parents: bool = False
    ) -> None:
        self._need("files")
        flags = files.ATOMIC | (files.MAKE_PARENTS if make_parents else 0)
        async with transfer(self._session, files.Write(path, mode, flags, self._whom(owner)), path) as under_way:
            await under_way.send(content)
            under_way.send_end()
            await under_way.answer(files.CountDone)

    async def put_archive(self, directory: str, chunks: AsyncIterator[bytes], *, owner: str = "") -> int:
        self._need("tar-in")
        async with transfer(self._session, files.TarIn(directory, 0, self._whom(owner)), directory) as under_way:
            async for chunk in chunks:
                await under_way.send(chunk)
                if under_way.ended:
                    break
            under_way.send_end()
            done = await under_way.answer(files.CountDone, lambda failed: _member(failed, directory))
        return done.count

    async def stat(self, path: str) -> FileEntry:
        self._need("files")
        async with transfer(self._session, files.Stat(path), path) as under_way:
            done = await under_way.answer(files.StatDone)
        return replace(done.entry, name=posixpath.basename(path.rstrip("/")) or "/")

    async def list_directory(self, path: str) -> list[FileEntry]:
        return (await self._simple(files.ListDirectory(path), path)).entries

    async def make_directory(self, path: str, *, mode: int = 0o755, parents: bool = False, owner: str = "") -> None:
        flags = files.WITH_PARENTS if parents else 0
        await self._simple(files.MakeDirectory(path, mode, flags, self._whom(owner)), path)

    async def remove(self, path: str, *, recursive: bool = False) -> None:
        await self._simple(files.Remove(path, files.RECURSIVE if recursive else 0), path)

    async def rename(self, source: str, target: str) -> None:
        await self._simple(files.Rename(source, target), source)


def _member(failed: Failed, directory: str) -> str:
    """An archive's error is about a member of it, where the guest names one."""
    return printable(failed.what) or directory
