"""The engine: the pool's hands. Owns the tasks, the clock, the waiters and the leases."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import anyio
import anyio.abc
import anyio.to_thread

from agentkernel.drivers.contract import Driver, Guest
from agentkernel.engine.command import WARM_UP, run_command
from agentkernel.engine.groups import task_group
from agentkernel.engine.leases import Lease, Leases
from agentkernel.engine.probes import DriverKey, Probes
from agentkernel.engine.reaping import reap_again_forever, reap_leftovers
from agentkernel.engine.sandbox import WARM_UP_S, Nursery, Sandbox, conceived, live, new_identity
from agentkernel.engine.snapshots import Snapshot, Snapshots
from agentkernel.engine.templates import Templates
from agentkernel.engine.timings import Stage, Timings
from agentkernel.journal import Journal
from agentkernel.model.errors import Busy, Refused, Unsupported
from agentkernel.model.ids import LeaseId, SandboxId, SnapshotId, new_sandbox_id
from agentkernel.model.kinds import Feature
from agentkernel.model.readiness import Readiness
from agentkernel.model.spec import BootSpec, LeaseSpec
from agentkernel.policy.environment import exec_request
from agentkernel.pool.events import (
    Asked,
    Boot,
    Command,
    Configured,
    Counts,
    Destroy,
    Drained,
    Event,
    Fail,
    GaveBack,
    HostLimits,
    Key,
    Lend,
    Limits,
    PrewarmAsked,
    Prewarmed,
    Ticked,
    Ticket,
    Withdrawn,
)
from agentkernel.pool.machine import Pool

log = logging.getLogger(__name__)

DRAIN_S = 4.0
"""How long a shutdown waits for sandboxes to end; the supervisors kill what is left when this process ends."""


@dataclass(slots=True, eq=False)
class _Waiter:
    """One ticket's caller: the event is set once `answer` is there."""

    event: anyio.Event = field(default_factory=anyio.Event)
    answer: Lend | Prewarmed | Fail | None = None


class Engine:
    """Lends sandboxes and takes them back. Enter `running` first; everything it made is gone when that block is left.

    Args:
        directory: where each sandbox gets a private folder; 0700.
        snapshots: what is saved of them; beside `directory` unless given.
        queue_timeout_s: how long a request may wait for room.
        lease_ttl_s: how long a lease lives after its last use.
        templates: clone sandboxes from a template where the driver can; else all boot cold.
        idle_pause_s: a sandbox that nobody took for so long is paused, where its driver can; 0 for never.
    """

    def __init__(
        self,
        *,
        drivers: Mapping[DriverKey, Driver],
        journal: Journal,
        directory: Path,
        limits: HostLimits,
        snapshots: Snapshots | None = None,
        queue_timeout_s: float = 60.0,
        lease_ttl_s: float = 3600.0,
        templates: bool = True,
        idle_pause_s: float = 0.0,
    ) -> None:
        self.drivers = drivers
        self.timings = Timings()
        self.leases = Leases(lease_ttl_s, self.give_back)
        self.snapshots = snapshots or Snapshots(directory.with_name("snapshots"))
        self._limits = limits
        self._journal = journal
        self._directory = directory
        self._queue_timeout_s = queue_timeout_s
        self._pool = Pool(limits, new_sandbox_id)
        self._templates = Templates(self._make_template, self.timings, enabled=templates)
        self._nursery = Nursery(
            journal,
            directory,
            self.timings,
            self._templates,
            self._tell,
            lambda: self._pool.counts().waiting > 0,
            idle_pause_s,
        )
        self._tickets = itertools.count(1)
        self._waiters: dict[Ticket, _Waiter] = {}
        self._sandboxes: dict[SandboxId, Sandbox] = {}
        self._probes = Probes(drivers)
        self._wake = anyio.Event()
        self._emptied = anyio.Event()
        self._group: anyio.abc.TaskGroup

    # --- life ---------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Engine]:
        """Reap what a crash left, serve; destroy everything at the end."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        await reap_leftovers(self._journal, self.drivers, self._directory)
        await anyio.to_thread.run_sync(self.snapshots.clear)
        async with anyio.create_task_group() as group, self._templates.running(), self._probes.running():
            self._group = group
            group.start_soon(self._tick)
            group.start_soon(self.leases.expire_forever)
            group.start_soon(reap_again_forever, self._journal, self.drivers)
            try:
                yield self
            finally:
                with anyio.CancelScope(shield=True):
                    await self.drain()
                group.cancel_scope.cancel()

    async def drain(self) -> None:
        """Fail the waiters and destroy every sandbox; returns when nothing is left, or after `DRAIN_S`."""
        self._tell(Drained())
        with anyio.move_on_after(DRAIN_S):
            while self._sandboxes:
                self._emptied = anyio.Event()
                await self._emptied.wait()
        if self._sandboxes:
            log.warning("left to their supervisors", extra={"sandboxes": len(self._sandboxes)})

    # --- drivers ------------------------------------------------------------------------------------------------------

    async def readiness(self, *keys: DriverKey) -> dict[DriverKey, Readiness]:
        """The verdicts of these drivers, tried now where nobody has. Unknown keys are left out."""
        return await self._probes.verdicts(*keys)

    def readiness_now(self) -> dict[DriverKey, Readiness]:
        """The verdicts that are in."""
        return dict(self._probes.known)

    def try_all(self) -> None:
        """Begin to try every driver that nobody has tried; returns at once."""
        for key in self.drivers:
            self._probes.begin(key)

    # --- lending ------------------------------------------------------------------------------------------------------

    def configure(self, key: Key, limits: Limits, *, fill: bool = False) -> None:
        """Make a key known to the pool."""
        self._tell(Configured(key, limits, fill))

    async def lend(self, key: Key) -> Sandbox:
        """A sandbox that nobody has used; whoever gets it must `give_back`.

        Raises:
            Busy: no room within the queue's time, or shutting down.
            Refused, Broken: it could not be made; the cause.
        """
        began_s = time.perf_counter()
        answer = await self._ask(lambda ticket: Asked(ticket, key), self._queue_timeout_s)
        if not key.origin:
            self.timings.add(Stage.QUEUE, time.perf_counter() - began_s)
        lent = cast(Lend, answer)
        sandbox = self._sandboxes[lent.sandbox]
        sandbox.was_warm = lent.warm
        try:
            await sandbox.wake()
        except BaseException:
            self.give_back(sandbox)
            raise
        return sandbox

    async def prewarm(self, keys: tuple[Key, ...]) -> int:
        """Fill each key to its minimum; the number of sandboxes that this call made."""
        answer = await self._ask(lambda ticket: PrewarmAsked(ticket, keys), None)
        return cast(Prewarmed, answer).count

    def give_back(self, sandbox: Sandbox) -> None:
        """The caller is done with it. Returns at once; its destruction goes on in the background."""
        self._tell(GaveBack(sandbox.id))

    async def _ask(self, event: Callable[[Ticket], Event], timeout_s: float | None) -> Lend | Prewarmed:
        ticket = Ticket(next(self._tickets))
        waiter = self._waiters[ticket] = _Waiter()
        try:
            self._tell(event(ticket))
            if waiter.answer is None:
                with anyio.move_on_after(timeout_s):
                    await waiter.event.wait()
        except BaseException:
            self._withdraw(ticket, waiter)
            raise
        finally:
            del self._waiters[ticket]
        match waiter.answer:
            case Fail(cause=cause):
                raise cause
            case None:
                self._tell(Withdrawn(ticket))
                raise Busy(
                    f"no sandbox became free within {timeout_s:.0f} s",
                    hint="try again later, or raise [pool] max_sandboxes or queue_timeout_s",
                )
            case answer:
                return answer

    def _withdraw(self, ticket: Ticket, waiter: _Waiter) -> None:
        if isinstance(waiter.answer, Lend):
            self._tell(GaveBack(waiter.answer.sandbox))
        else:
            self._tell(Withdrawn(ticket))

    # --- leases -------------------------------------------------------------------------------------------------------

    async def acquire(self, key: Key, spec: LeaseSpec | None = None) -> Lease:
        """Lend under a name: the lease lives until `release`, or until nobody used it for its time to live."""
        return self.leases.add(await self.lend(key), spec or LeaseSpec())

    def release(self, lease: LeaseId) -> None:
        """End a lease and its sandbox; an unknown one is fine."""
        self.leases.end(lease)

    # --- pause --------------------------------------------------------------------------------------------------------

    async def pause(self, lease_id: LeaseId) -> None:
        """Stop a lease's sandbox where it is, until `resume`. What runs in it stops, what is asked of it is refused.

        Raises:
            NotFound: there is no such lease.
            Unsupported: its driver cannot.
            Broken: it has ended.
        """
        with self.leases.used(lease_id) as lease:
            need(lease.sandbox, Feature.PAUSE)
            await lease.sandbox.pause()

    async def resume(self, lease_id: LeaseId) -> None:
        """Let it go on, with the right time; fine for one that runs. Raises as `pause`."""
        with self.leases.used(lease_id) as lease:
            need(lease.sandbox, Feature.PAUSE)
            await lease.sandbox.wake()

    # --- snapshots and forks ------------------------------------------------------------------------------------------

    async def snapshot(self, lease_id: LeaseId) -> Snapshot:
        """Save a lease's sandbox, files and processes included; it stands still for a moment and goes on.

        Raises:
            NotFound: there is no such lease.
            Refused: its driver cannot, it is paused, or there is no room for one more snapshot.
            Broken: it has ended.
        """
        with self.leases.used(lease_id) as lease:
            sandbox = lease.sandbox
            need(sandbox, Feature.SNAPSHOT)
            with self.timings.measure(Stage.SAVE):
                return await self.snapshots.take(sandbox.key.spec, sandbox.key.mode, lease.spec, sandbox.save)

    async def restore(self, snapshot_id: SnapshotId) -> Lease:
        """A new sandbox, with an identity of its own, that goes on where the saved one stood.

        Raises:
            NotFound: there is no such snapshot.
            Refused: its driver is not there, or this host is not the one that it was taken on.
            Busy, Broken: as `lend`.
        """
        snapshot = self.snapshots.get(snapshot_id)
        origin = str(self.snapshots.folder(snapshot_id))
        (sandbox,) = await self._restored(Key(snapshot.spec, snapshot.mode, origin), 1)
        return self.leases.add(sandbox, snapshot.lease)

    async def fork(self, lease_id: LeaseId, count: int) -> list[Lease]:
        """So many independent copies of a lease's sandbox, all or none; it goes on first.

        Raises:
            NotFound: there is no such lease.
            Refused: its driver cannot, it is paused, the host never holds so many, or the disk is full.
            Busy, Broken: as `lend`; or the sandbox has ended.
        """
        with self.leases.used(lease_id) as lease:
            sandbox = lease.sandbox
            need(sandbox, Feature.FORK)
            if count >= self._limits.max_sandboxes:
                raise Refused(
                    f"{count} forks and their parent are more than the {self._limits.max_sandboxes} sandboxes that may "
                    "be at once",
                    hint="raise [pool] max_sandboxes",
                )
            key, began_s = sandbox.key, time.perf_counter()
            async with self.snapshots.passing(key.spec, sandbox.save) as origin:
                self.timings.add(Stage.SAVE, time.perf_counter() - began_s)
                children = await self._restored(Key(key.spec, key.mode, str(origin)), count)
            return [self.leases.add(child, lease.spec) for child in children]

    async def _restored(self, key: Key, count: int) -> list[Sandbox]:
        """So many of that key, or none."""
        driver_key = (key.spec.backend, key.spec.vmm)
        if not (await self.readiness(driver_key)):
            raise Unsupported(f"Unsupported: {key.spec.backend} has no driver here")
        found: list[Sandbox] = []

        async def one() -> None:
            found.append(await self.lend(key))

        try:
            async with task_group() as group:
                for _ in range(count):
                    group.start_soon(one)
        except BaseException:
            for sandbox in found:
                self.give_back(sandbox)
            raise
        return found

    # --- facts --------------------------------------------------------------------------------------------------------

    def counts(self) -> Counts:
        """How many sandboxes are in which state."""
        return self._pool.counts()

    @property
    def idle(self) -> bool:
        """Nobody uses a sandbox or waits for one."""
        counts = self._pool.counts()
        return not (counts.in_use or counts.waiting)

    # --- the pool's hands ---------------------------------------------------------------------------------------------

    def _tell(self, event: Event) -> None:
        for command in self._pool.feed(event, time.monotonic()):
            self._carry_out(command)
        self._wake.set()

    def _carry_out(self, command: Command) -> None:
        match command:
            case Boot(sandbox=identifier, key=key):
                self._boot(identifier, key)
            case Destroy(sandbox=identifier):
                self._sandboxes[identifier].end()
            case Lend() | Prewarmed() | Fail():
                if isinstance(command, Lend):
                    self._sandboxes[command.sandbox].lent = True
                waiter = self._waiters[command.ticket]
                waiter.answer = command
                waiter.event.set()

    def _boot(self, identifier: SandboxId, key: Key) -> None:
        driver_key = (key.spec.backend, key.spec.vmm)
        sandbox = Sandbox(identifier, key, self.drivers[driver_key], self._probes.known[driver_key])
        self._sandboxes[identifier] = sandbox
        self._group.start_soon(self._live, sandbox)

    async def _make_template(self, spec: BootSpec, driver: Driver) -> Path:
        async def prepare(guest: Guest) -> None:
            await run_command(guest, WARM_UP)
            for command in spec.warm_up:
                with suppress(Refused):
                    await run_command(guest, exec_request(command), timeout_s=WARM_UP_S)

        place = conceived(new_sandbox_id(), driver, new_identity(), self._journal, self._directory)
        async with place as birth:
            return await driver.template(spec, birth, prepare)

    async def _live(self, sandbox: Sandbox) -> None:
        try:
            await live(sandbox, self._nursery)
        finally:
            del self._sandboxes[sandbox.id]
            if not self._sandboxes:
                self._emptied.set()

    async def _tick(self) -> None:
        """Tell the pool that time has passed, when it wants to know and no later."""
        while True:
            self._wake = anyio.Event()
            due_s = self._pool.next_tick_s
            with anyio.move_on_after(None if due_s is None else max(0.0, due_s - time.monotonic())) as timer:
                await self._wake.wait()
            if timer.cancelled_caught:
                self._tell(Ticked())


def need(sandbox: Sandbox, feature: Feature) -> None:
    """Raise Unsupported for what a sandbox's driver does not declare."""
    if feature not in sandbox.driver.capabilities:
        backend = sandbox.key.spec.backend
        raise Unsupported(f"Unsupported: {backend} has no {feature}", hint="use a backend that declares it")
