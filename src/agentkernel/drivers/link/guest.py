"""A sandbox, as the engine sees it."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Self

import anyio
from anyio.abc import ByteStream

from agentkernel.drivers.link.files import LinkFiles
from agentkernel.drivers.link.process import LinkProcess
from agentkernel.drivers.link.session import Session
from agentkernel.drivers.link.words import os_error, printable
from agentkernel.model.errors import Unsupported
from agentkernel.model.execution import ExecRequest
from agentkernel.model.readiness import GuestFacts, Identity
from agentkernel.wire import control
from agentkernel.wire.attach import EPOCH_BYTES, MARK
from agentkernel.wire.frames import GENERATION
from agentkernel.wire.program import Failed

ENTROPY_BYTES = 32
SANDBOX_UID = 1000


def new_epoch() -> bytes:
    """16 random bytes that no attach record begins with."""
    while (epoch := secrets.token_bytes(EPOCH_BYTES)).startswith(MARK):
        """One in four thousand million."""
    return epoch


class LinkGuest(LinkFiles):
    """`Guest` over the guest link. Made by `attach`."""

    def __init__(self, session: Session, *, pids: int) -> None:
        super().__init__(session)
        self._pids = pids
        self.facts = GuestFacts(frozenset(), {})

    @classmethod
    @asynccontextmanager
    async def attach(
        cls, stream: ByteStream, identity: Identity, *, pids: int = 0, used: bool = False, epoch: bytes | None = None
    ) -> AsyncIterator[Self]:
        """A guest that has been greeted. The stream belongs to this block while it lasts, and is closed by its owner
        afterwards; it may then be attached to again. The deadline is the caller's.

        Args:
            stream: to something that speaks the guest link, with whatever an older conversation left in it.
            pids: most processes at once inside, 0 for no limit.
            used: the stream has carried an earlier host that may have stopped in the middle of a frame, so 64 KiB of
                zeros go
                first. Not needed where the guest has seen a hang-up, or was quiesced.
            epoch: 16 bytes; fresh random ones unless a test says otherwise.

        Raises:
            Broken: the stream ended, or something else answered.
            Unsupported: the guest is of another generation.
        """
        session = Session(stream, epoch or new_epoch())
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.read)
            tasks.start_soon(session.write)
            try:
                await session.attach(used=used)
                guest = cls(session, pids=pids)
                await guest.identify(identity)
                yield guest
            except Exception as error:  # raised again below, where the task group does not wrap it
                failure = error
            finally:
                session.fail("its block was left")
                tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def identify(self, identity: Identity) -> None:
        clock_ns, entropy = time.time_ns(), secrets.token_bytes(ENTROPY_BYTES)
        hello = control.Hello(GENERATION, entropy, clock_ns, identity.hostname, identity.machine_id, self._pids)
        welcome = await self._session.ask(hello, control.Welcome)
        if welcome.generation != GENERATION:
            raise Unsupported(
                f"the sandbox's agent speaks generation {welcome.generation} of the guest link, not {GENERATION}",
                hint="build the image again with this version of agentkernel",
            )
        facts = dict(fact.split("=", 1) for fact in welcome.facts)
        self.facts = GuestFacts(frozenset(welcome.features), facts)

    async def refresh(self) -> None:
        """Does not wait for the answer: a guest takes frames in their order, so that a program which is started now
        finds it done, a round trip sooner.
        """
        await self._session.room()
        self._session.tell(control.Refresh(time.time_ns(), secrets.token_bytes(ENTROPY_BYTES)), control.Refreshed)

    async def exec(self, request: ExecRequest) -> LinkProcess:
        """Start a program. Raises Refused for a request of more than 2 MiB, Busy when 64 operations are under way,
        Unsupported for another user where the guest has only one.
        """
        self._need("exec")
        if request.stdin:
            self._need("stdin")
        if request.terminal is not None:
            self._need("pty")
        wanted = replace(request, user=self._whom(request.user))
        await self._session.room()
        return LinkProcess(self._session, wanted)

    async def ping(self) -> None:
        await self._session.ask(control.Ping(secrets.randbits(64)), control.Pong)

    async def mount_disk(
        self, serial: str, file_system: str, binds: Mapping[str, str], *, owner_uid: int = SANDBOX_UID
    ) -> None:
        """Mount a disk and bind directories of it, owned by that uid. Raises OSError with what the guest says has
        failed.
        """
        self._need("mount")
        pairs = tuple(f"{directory}:{target}" for directory, target in binds.items())
        mounted = await self._session.ask(control.Mount(serial, file_system, owner_uid, pairs), control.Mounted)
        if mounted.errno:
            raise os_error(Failed(mounted.errno, mounted.what), printable(mounted.what))

    async def quiesce(self) -> None:
        """Make the guest fall silent at a frame boundary, for a save. Until `resume`, what others send is held back.

        Raises:
            Refused: it is quiesced, or about to be.
        """
        try:
            await self._session.ask(control.Quiesce(), control.Quiesced)
        except anyio.get_cancelled_exc_class():
            self._session.take_back_quiesce()
            raise

    def resume(self) -> None:
        """Let the guest speak again. Never waits. Raises Refused when it is not quiesced."""
        self._session.resume()

    async def shut_down(self) -> None:
        await self._session.ask(control.Shutdown(), control.Ending)

    async def wait_broken(self) -> str:
        return await self._session.wait_broken()
