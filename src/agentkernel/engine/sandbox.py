"""One sandbox's life, from the row in the journal to the row's removal. Each runs in a task of its own."""

from __future__ import annotations

import errno
import logging
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.to_thread

from agentkernel.drivers.contract import Driver, Guest
from agentkernel.engine.command import WARM_UP, run_command
from agentkernel.engine.reaping import LEFT
from agentkernel.engine.templates import MOST_FAILURES, Templates
from agentkernel.engine.timings import Stage, Timings
from agentkernel.journal import Journal
from agentkernel.model.errors import AgentkernelError, Broken, Refused
from agentkernel.model.ids import SandboxId
from agentkernel.model.kinds import Feature
from agentkernel.model.readiness import Identity, Readiness
from agentkernel.policy.environment import exec_request
from agentkernel.pool.events import Booted, BootFailed, Died, Event, Gone, Key

log = logging.getLogger(__name__)

HEARTBEAT_S = 20.0
"""How often a running sandbox is pinged: a dead process is noticed at once by its stream's end, a hung one by this."""
HEARTBEAT_GRACE_S = 30.0
"""How long it may take to answer; an emulated guest on a busy host is slow, not dead."""


WARM_UP_S = 30.0
"""How long one command of a recipe's warm-up may take before it is killed; the sandbox is as good without it."""


NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN}
"""A full disk, no descriptor, no memory, no process."""


def new_identity() -> Identity:
    """A hostname `sandbox-<8 hex>` and a machine id that nobody has had."""
    return Identity(hostname=f"sandbox-{secrets.token_hex(4)}", machine_id=secrets.token_bytes(16))


@dataclass(slots=True)
class Birth:
    """What a driver is handed for a new sandbox (`drivers.contract.Birth`).

    Attributes:
        left: what could not be removed, in words; empty when nothing of it is left.
    """

    id: SandboxId
    directory: Path
    identity: Identity
    journal: Journal
    disk: Path | None = None
    left: str = ""

    async def record(self, **facts: str | int) -> None:
        """Commit facts to this sandbox's row."""
        self.left = str(facts.get(LEFT, self.left))
        await self.journal.record(self.id, facts)


@dataclass(slots=True, eq=False)
class Sandbox:
    """A sandbox of the pool: booting, warm, lent or ending. `guest` is there between Booted and the end.

    Attributes:
        lent: it belongs to a caller; set at once when the pool says so, and never taken back.
        still: its processors are stopped, or about to be: for its idleness, or because its caller wants it.
    """

    id: SandboxId
    key: Key
    driver: Driver
    readiness: Readiness
    identity: Identity = field(default_factory=new_identity)
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    ending: bool = False
    was_warm: bool = False
    template: Path | None = None
    lent: bool = False
    still: bool = False
    _guest: Guest | None = None
    _turn: anyio.Lock = field(default_factory=anyio.Lock)

    @property
    def guest(self) -> Guest:
        """The running guest.

        Raises:
            Broken: it has ended.
            Refused: its caller has paused it.
        """
        if self.still and self._guest is not None:
            raise Refused("the sandbox is paused", hint="resume it first")
        return self._any_guest

    @property
    def _any_guest(self) -> Guest:
        if self._guest is None:
            raise Broken("the sandbox has ended", hint="take another one")
        return self._guest

    async def ping(self) -> None:
        """One round trip, unless it stands still. Raises Broken or TimeoutError when it does not answer."""
        async with self._turn:
            if not self.still:
                with anyio.fail_after(HEARTBEAT_GRACE_S):
                    await self._any_guest.ping()

    async def rest(self) -> None:
        """Pause for idleness; not when it is lent, or just about to be."""
        async with self._turn:
            if not self.lent:
                self.still = True
                await self._any_guest.pause()

    async def pause(self) -> None:
        """Pause for its caller. Commands that run stop where they are. Raises Broken."""
        async with self._turn:
            self.still = True
            await self._any_guest.pause()

    async def save(self, folder: Path) -> None:
        """Write all of it to an empty folder; it stands still meanwhile. Raises Refused when it is paused, Broken."""
        async with self._turn:
            await self.guest.save(folder)

    async def wake(self) -> None:
        """Go on, with the right time. Costs nothing where it runs. Raises Broken."""
        if self.still:
            async with self._turn:
                await self._any_guest.unpause()
                self.still = False
                await self._any_guest.refresh()

    def end(self) -> None:
        """Begin its destruction; `live` reports Gone when nothing is left."""
        self.ending = True
        self.scope.cancel()


@dataclass(frozen=True, slots=True)
class Nursery:
    """What every sandbox's life needs of its surroundings.

    Attributes:
        hurried: whether callers wait for a sandbox; then each is theirs as soon as it can execute.
        idle_pause_s: a sandbox that nobody took for so long is paused, where its driver can; 0 for never.
    """

    journal: Journal
    directory: Path
    timings: Timings
    templates: Templates
    tell: Callable[[Event], None]
    hurried: Callable[[], bool]
    idle_pause_s: float


async def live(sandbox: Sandbox, nursery: Nursery) -> None:
    """Come up, report, wait for the end, report. Raises nothing: every outcome is an event."""
    failure: Exception | None = None
    booted = False
    try:
        with sandbox.scope:
            try:
                async with _running(sandbox, nursery) as guest:
                    booted = True
                    sandbox._guest = guest
                    nursery.tell(Booted(sandbox.id))
                    reason = await _until_dead(sandbox, guest, nursery.idle_pause_s)
                    log.warning("sandbox died", extra={"sandbox": sandbox.id, "reason": reason})
                    nursery.tell(Died(sandbox.id))
                    await anyio.sleep_forever()
            except Exception as err:
                failure = err
                if not isinstance(err, AgentkernelError):
                    log.exception("driver failed", extra={"sandbox": sandbox.id})
    finally:
        sandbox._guest = None
        if sandbox.ending:
            nursery.tell(Gone(sandbox.id))
        elif not booted:
            cause = failure or Broken("the boot was cut off")
            nursery.tell(BootFailed(sandbox.id, cause, final=isinstance(cause, Refused)))
        else:
            nursery.tell(Died(sandbox.id))


@asynccontextmanager
async def conceived(
    sandbox: SandboxId, driver: Driver, identity: Identity, journal: Journal, directory: Path
) -> AsyncIterator[Birth]:
    """The journal's row, committed before anything is made, and a private folder; both are gone after the block, unless
    the driver says that something is left: then the row stays, for a later try.
    """
    birth = Birth(sandbox, directory / sandbox, identity, journal)
    await journal.intend(sandbox, driver.backend, driver.vmm, birth.directory)
    try:
        birth.directory.mkdir(mode=0o700)
        yield birth
    finally:
        with anyio.CancelScope(shield=True):
            await _bury(birth)


class _TemplateOfNoUse(Exception):
    """A clone did not come up, and its template was reported: next time there is another one, or none."""


@asynccontextmanager
async def _running(sandbox: Sandbox, nursery: Nursery) -> AsyncIterator[Guest]:
    """A guest that has run its throwaway commands, or goes on from its origin. A template that fails costs it time and
    nothing else.
    """
    async with AsyncExitStack() as stack:
        for _ in range(MOST_FAILURES):
            with suppress(_TemplateOfNoUse):
                yield await stack.enter_async_context(_attempt(sandbox, nursery))
                return
        yield await stack.enter_async_context(_attempt(sandbox, nursery, cold=True))


@asynccontextmanager
async def _attempt(sandbox: Sandbox, nursery: Nursery, *, cold: bool = False) -> AsyncIterator[Guest]:
    """One machine; left without a trace."""
    began_s, ended_s = time.perf_counter(), None
    place = conceived(sandbox.id, sandbox.driver, sandbox.identity, nursery.journal, nursery.directory)
    async with place as birth:
        try:
            async with _machine(sandbox, nursery, birth, cold=cold) as guest:
                if not sandbox.key.origin:
                    with suppress(Refused):  # not every sandbox runs any program
                        await run_command(guest, WARM_UP)
                    await _warm_up(guest, sandbox, nursery)
                nursery.timings.add(_stage(sandbox), time.perf_counter() - began_s)
                try:
                    yield guest
                finally:
                    ended_s = time.perf_counter()
        finally:
            if ended_s is not None:
                nursery.timings.add(Stage.DESTROY, time.perf_counter() - ended_s)


def _stage(sandbox: Sandbox) -> Stage:
    if sandbox.key.origin:
        return Stage.RESTORE
    return Stage.BOOT if sandbox.template is None else Stage.CLONE


@asynccontextmanager
async def _machine(sandbox: Sandbox, nursery: Nursery, birth: Birth, *, cold: bool) -> AsyncIterator[Guest]:
    """One that goes on from its origin, or a copy of a template where there is one, else a machine that boots."""
    spec, driver = sandbox.key.spec, sandbox.driver
    if sandbox.key.origin:
        async with driver.restore(Path(sandbox.key.origin), spec, birth) as guest:
            yield guest
        return
    sandbox.template = None if cold else await nursery.templates.get(spec, driver)
    if sandbox.template is None:
        async with driver.boot(spec, birth) as guest:
            yield guest
        return
    came_up = False
    try:
        async with driver.clone(sandbox.template, spec, birth) as guest:
            came_up = True
            nursery.templates.proved(spec)
            yield guest
    except (Broken, OSError) as err:
        if not came_up and not _for_want_of_room(err):
            await nursery.templates.suspect(spec, driver, sandbox.template)
            raise _TemplateOfNoUse from err
        raise


def _for_want_of_room(err: Exception) -> bool:
    """Whether the host had no room for one more: no template is to blame for that."""
    cause = err.__cause__ or err
    return isinstance(cause, OSError) and cause.errno in NO_ROOM


async def _warm_up(guest: Guest, sandbox: Sandbox, nursery: Nursery) -> None:
    """What this runtime's callers will probably start, as they will start it: it is in memory then, and, where the
    processor is emulated, translated. How the commands end is nobody's business.

    A clone has all of it in memory, and translates the first command only: the others cost more time and memory than
    they save its caller.
    """
    commands = sandbox.key.spec.warm_up
    for command in commands if sandbox.template is None else commands[:1]:
        if nursery.hurried():
            return
        with suppress(Refused):
            await run_command(guest, exec_request(command), timeout_s=WARM_UP_S)


async def _until_dead(sandbox: Sandbox, guest: Guest, idle_pause_s: float) -> str:
    """Return the reason once the guest's stream ended, or once it stopped answering pings. Pauses it when idle."""
    reason = ""
    async with anyio.create_task_group() as group:

        async def watch() -> None:
            nonlocal reason
            reason = await guest.wait_broken()
            group.cancel_scope.cancel()

        async def examine(act: Callable[[], Awaitable[None]]) -> None:
            nonlocal reason
            try:
                await act()
            except (TimeoutError, AgentkernelError) as err:
                reason = str(err) or f"no answer to a ping within {HEARTBEAT_GRACE_S:.0f} s"
                group.cancel_scope.cancel()

        async def heartbeat() -> None:
            while True:
                await anyio.sleep(HEARTBEAT_S)
                await examine(sandbox.ping)

        async def rest() -> None:
            await anyio.sleep(idle_pause_s)
            await examine(sandbox.rest)

        group.start_soon(watch)
        group.start_soon(heartbeat)
        if idle_pause_s and Feature.PAUSE in sandbox.driver.capabilities:
            group.start_soon(rest)
    return reason


async def _bury(birth: Birth) -> None:
    await anyio.to_thread.run_sync(lambda: shutil.rmtree(birth.directory, ignore_errors=True))
    if birth.left:
        log.warning("not all removed: tried again later", extra={"sandbox": birth.id, "reason": birth.left})
        return
    try:
        await birth.journal.forget(birth.id)
    except AgentkernelError as err:
        log.warning("row kept for the next start", extra={"sandbox": birth.id, "reason": err.message})
