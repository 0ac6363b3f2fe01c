"""Answers one request: asks `policy` whether and by whom, `images` for what, and the engine to do it."""

from __future__ import annotations

import logging
import os
import posixpath
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import anyio.abc
from msgspec import UnsetType

from agentkernel import __version__
from agentkernel.daemon.builds import Builds, Images
from agentkernel.daemon.copies import Copies
from agentkernel.daemon.facts import optional, status_reply
from agentkernel.daemon.guest_door import GuestDoor
from agentkernel.daemon.placing import Place, Placing, wish_of
from agentkernel.drivers.contract import Process, Tell
from agentkernel.engine.command import Outcome, Sink, run_command
from agentkernel.engine.engine import Engine
from agentkernel.engine.groups import task_group
from agentkernel.engine.leases import Lease
from agentkernel.engine.timings import Stage
from agentkernel.home.places import Places
from agentkernel.model.errors import Refused
from agentkernel.model.execution import Started, Stderr, Stdout
from agentkernel.model.ids import LeaseId
from agentkernel.model.kinds import Mode
from agentkernel.policy.admission import Wish
from agentkernel.policy.config import Config
from agentkernel.policy.environment import CWD, exec_request
from agentkernel.policy.images import over
from agentkernel.policy.presets import PRESETS
from agentkernel.protocol import replies, requests
from agentkernel.protocol.codec import REQUESTS
from agentkernel.protocol.output import Capture, truncation
from agentkernel.protocol.requests import Request, given
from agentkernel.protocol.words import WireBackend

log = logging.getLogger(__name__)

FILL_DELAY_S = 1.0
"""How long the first fill stands back: a daemon is mostly started by somebody who waits for a boot of another key."""
PROTOCOL_VERSION = 1


class Service:
    """One daemon's answers. `stopping` is set by whoever decides that it ends."""

    def __init__(self, engine: Engine, images: Images, config: Config, home: Places) -> None:
        self.stopping = anyio.Event()
        self.last_used_s = time.monotonic()
        self._engine = engine
        self._builds = Builds(images)
        self._config = config
        self._door = GuestDoor(home.home / "guest", engine.leases)
        self._doors: anyio.abc.TaskGroup | None = None
        self._placing = Placing(engine, self._builds, config)
        self._copies = Copies(engine, self._placing, self._acquired, self._opened)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Build images and serve the leases' sockets for the length of a block."""
        self._door.clear()
        async with self._builds.running(), task_group() as self._doors:
            yield
            self._doors.cancel_scope.cancel()

    async def drain(self) -> None:
        """End every sandbox; whoever uses one or waits for one is told."""
        await self._engine.drain()

    @property
    def active(self) -> bool:
        """Whether somebody uses a sandbox or waits for one."""
        return not self._engine.idle

    async def answer(self, request: Request) -> replies.Reply:
        """The reply to any request that has exactly one and belongs to no stream.

        Raises:
            Whatever the `error` reply is to say.
        """
        self.last_used_s = time.monotonic()
        try:
            return await self._answer(request)
        finally:
            self.last_used_s = time.monotonic()

    async def _answer(self, request: Request) -> replies.Reply:
        match request:
            case requests.Exec():
                return await self._exec(request)
            case requests.Acquire():
                return await self._acquire(request)
            case requests.Release(id=lease, request_id=request_id):
                self._engine.release(LeaseId(lease))
                return replies.Released(request_id=request_id)
            case requests.LeaseRenew(id=lease, request_id=request_id):
                self._engine.leases.get(LeaseId(lease))
                return replies.Renewed(id=lease, expires_in_s=self._ttl_s, request_id=request_id)
            case (
                requests.SandboxPause()
                | requests.SandboxResume()
                | requests.SandboxFork()
                | requests.SnapshotTake()
                | requests.SnapshotRestore()
                | requests.SnapshotList()
                | requests.SnapshotRemove()
            ):
                return await self._copies.answer(request)
            case requests.Prewarm():
                return await self._prewarm(request)
            case requests.Status():
                self._engine.try_all()
                return status_reply(self._engine, request)
            case requests.Hello(request_id=request_id):
                return replies.HelloReply(
                    version=__version__,
                    protocol=PROTOCOL_VERSION,
                    pid=os.getpid(),
                    busy=self.active,
                    commands=sorted(REQUESTS),
                    request_id=request_id,
                )
            case requests.Shutdown(request_id=request_id):
                return replies.ShuttingDown(request_id=request_id)
            case _:
                raise Refused("Invalid request: this command needs a stream of this connection")

    @property
    def _ttl_s(self) -> int:
        return round(self._engine.leases.ttl_s)

    # --- which sandbox ------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def placed(self, request: requests.Run, tell: Tell | None = None) -> AsyncIterator[Place]:
        """The lease that the request names, else a fresh sandbox that ends with the block."""
        self.last_used_s = time.monotonic()
        if request.sandbox:
            with self._engine.leases.used(LeaseId(request.sandbox)) as lease:
                self._placing.admit_to(lease.sandbox.key.spec, wish_of(request))
                yield Place(lease.sandbox, lease.spec)
            return
        aim = await self._placing.aim(wish_of(request), request.compatibility_mode, tell)
        sandbox = await self._engine.lend(aim.key)
        try:
            yield Place(sandbox, aim.defaults)
        finally:
            self.last_used_s = time.monotonic()
            self._engine.give_back(sandbox)

    # --- commands -----------------------------------------------------------------------------------------------------

    async def run(
        self,
        request: requests.Run,
        place: Place,
        *,
        sink: Sink,
        on_process: Callable[[Process], None] | None = None,
        on_deadline: Callable[[], None] = lambda: None,
    ) -> Outcome:
        """Refresh the sandbox, put the request's files there, run the command to its end."""
        stdin = given(request.stdin)
        command = exec_request(
            request.command or place.command(),
            env={**place.defaults.env, **request.env},
            cwd=request.cwd or place.defaults.cwd,
            user=request.user or place.defaults.user,
            stdin=stdin is not None or on_process is not None,
        )
        guest = place.sandbox.guest
        with self._engine.timings.measure(Stage.IDENTITY):
            await guest.refresh()
        for file in request.files:
            path = posixpath.join(command.cwd or CWD, file.path)
            try:
                await guest.write_file(path, file.content, mode=file.mode, make_parents=True)
            except OSError as err:
                raise Refused(f"the file {path} cannot be written: {err.strerror}", hint="choose another path") from err
        timeout_ms = given(request.timeout_ms)
        return await run_command(
            guest,
            command,
            stdin=stdin or b"",
            timeout_s=None if timeout_ms is None else timeout_ms / 1000,
            sink=sink,
            timings=self._engine.timings,
            on_process=on_process,
            on_deadline=on_deadline,
        )

    async def _exec(self, request: requests.Exec) -> replies.Executed:
        cap_bytes = self._config.daemon.output_cap_bytes
        stdout, stderr = Capture(cap_bytes), Capture(cap_bytes)

        def keep(event: Started | Stdout | Stderr) -> None:
            if isinstance(event, Stdout):
                stdout.feed(event.data)
            elif isinstance(event, Stderr):
                stderr.feed(event.data)

        with self._engine.timings.measure(Stage.TOTAL):
            async with self.placed(request) as place:
                outcome = await self.run(request, place, sink=keep)
        if outcome.problem:
            stderr.feed(f"agentkernel: {outcome.problem}\n".encode())
        with self._engine.timings.measure(Stage.REPLY):
            out, err = stdout.text(), stderr.text()
            return replies.Executed(
                exit_code=outcome.exit_code,
                stdout=out.text,
                stderr=err.text,
                signal=optional(outcome.signal),
                timed_out=optional(outcome.timed_out or None),
                truncated=optional(truncation(out, err)),
                stdout_bytes=optional(out.raw),
                stderr_bytes=optional(err.raw),
                request_id=request.request_id,
                **place.facts(),
            )

    async def put_archive(self, request: requests.ArchivePut, chunks: AsyncIterator[bytes]) -> int:
        """Extract a tar stream in a lease's sandbox; the number of its members."""
        self.last_used_s = time.monotonic()
        with self._engine.leases.used(LeaseId(request.id)) as lease:
            try:
                return await lease.sandbox.guest.put_archive(request.path, chunks, owner=request.owner)
            except OSError as err:
                raise Refused(
                    f"the archive cannot be extracted: {err.strerror}: {err.filename}",
                    hint="names stay below the target folder; links, devices and set-id bits that leave it are refused",
                ) from err

    # --- leases and the pool ------------------------------------------------------------------------------------------

    async def _acquire(self, request: requests.Acquire) -> replies.Acquired:
        aim = await self._placing.aim(wish_of(request), request.compatibility_mode)
        lease = await self._engine.acquire(aim.key, over(aim.defaults, request.env, request.cwd, request.user))
        try:
            await lease.sandbox.guest.refresh()
        except BaseException:
            self._engine.release(lease.id)  # nobody learns of it, so nobody would release it
            raise
        return self._acquired(lease, request.request_id)

    def _acquired(self, lease: Lease, request_id: str | UnsetType) -> replies.Acquired:
        return replies.Acquired(
            id=lease.id,
            vsock_path=optional(self._opened(lease)),
            expires_in_s=self._ttl_s,
            request_id=request_id,
            **Place(lease.sandbox).facts(),
        )

    def _opened(self, lease: Lease) -> str | None:
        """The socket of a lease; None where there can be none."""
        path = self._door.open(lease, self._doors) if self._doors is not None else None
        return None if path is None else str(path)

    async def _prewarm(self, request: requests.Prewarm) -> replies.Prewarmed:
        mode, backend = request.compatibility_mode, WireBackend(request.backend).choice
        aim = await self._placing.aim(Wish(PRESETS[mode].runtime, backend), mode)
        count = await self._engine.prewarm((aim.key,))  # before it is filled, or others than this call make them
        self._placing.fill(aim.key)
        return replies.Prewarmed(compatibility_mode=str(mode), count=count, request_id=request.request_id)

    async def fill(self) -> None:
        """Once after the start: fill the configured modes whose images are built, when nobody is waiting."""
        await anyio.sleep(FILL_DELAY_S)
        backend = WireBackend(self._config.pool.prewarm_backend).choice
        for mode in map(Mode, self._config.pool.prewarm):
            runtime = PRESETS[mode].runtime
            try:
                if self._builds.is_built(runtime):
                    self._placing.fill((await self._placing.aim(Wish(runtime, backend), mode)).key)
            except Refused as err:
                log.warning("cannot prewarm", extra={"mode": str(mode), "reason": err.message})
