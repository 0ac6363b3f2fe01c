"""One file operation: a request, perhaps bytes one way or the other, one answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from agentkernel.drivers.link.bell import Bell
from agentkernel.drivers.link.session import Session
from agentkernel.drivers.link.words import os_error
from agentkernel.model.execution import FileEntry
from agentkernel.wire.fields import Payload
from agentkernel.wire.files import Cancel, End, Entries, GuestData
from agentkernel.wire.program import Failed

Answer = TypeVar("Answer", bound=Payload)


class Transfer:
    """Receives for a file channel. Made by `transfer`.

    Attributes:
        content: what came of a file; consumed as it comes, because what was asked for bounds it.
        entries: what came of a directory.
    """

    def __init__(self, session: Session, request: Payload, path: str) -> None:
        self.content = bytearray()
        self.entries: list[FileEntry] = []
        self._session = session
        self._path = path
        self._bell = Bell()
        self._end: Payload | None = None
        self._channel = session.open(request, self)

    def received(self, message: Payload) -> None:
        """Keep what came; wake the caller for credit and for the end."""
        match message:
            case GuestData(data=data):
                self.content += data
                self._session.consumed(self._channel, len(data))
                return
            case Entries(entries=entries):
                self.entries.extend(entries)
                return
        if message.last:
            self._end = message
        self._bell.ring()

    def broken(self) -> None:
        """Wake the caller."""
        self._bell.ring()

    @property
    def ended(self) -> bool:
        """Whether the guest has answered: more input is pointless."""
        return self._end is not None

    async def send(self, content: bytes) -> None:
        """Pass content on, as the guest takes it."""
        await self._session.send_input(self._channel, self._bell, content)

    def send_end(self) -> None:
        """That was all of it."""
        self._session.send(self._channel, End())

    async def answer(self, answer_type: type[Answer], describe: Callable[[Failed], str] | None = None) -> Answer:
        """Wait for the end. Raises OSError as the guest reports it; `describe` finds its path when it is not the
        request's.
        """
        while self._end is None:
            self._session.check()
            await self._bell.heard()
        if isinstance(self._end, Failed):
            raise os_error(self._end, describe(self._end) if describe else self._path)
        if not isinstance(self._end, answer_type):
            raise TypeError("an answer belongs to another request")
        return self._end

    def leave(self) -> None:
        """Cancel it, if it has not ended."""
        self._session.abandon(self._channel, Cancel())


@asynccontextmanager
async def transfer(session: Session, request: Payload, path: str) -> AsyncIterator[Transfer]:
    """One operation; leaving the block early cancels it, and the reader throws away what still comes."""
    under_way = Transfer(session, request, path)
    try:
        yield under_way
    finally:
        under_way.leave()
