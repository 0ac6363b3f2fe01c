"""Real sandboxes for tests: the artefacts they boot from, a birth that remembers, and what a program said in one."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio

from agentkernel.drivers.contract import Driver, Guest
from agentkernel.drivers.firecracker import FirecrackerDriver
from agentkernel.drivers.firecracker.driver import Place
from agentkernel.drivers.qemu import QemuDriver
from agentkernel.drivers.vmm.trials import Trials
from agentkernel.images.store import Store
from agentkernel.model.execution import ExecEvent, ExecRequest, Exited, NotStarted, Started, Stderr, Stdout
from agentkernel.model.ids import SandboxId, new_sandbox_id
from agentkernel.model.kinds import Backend, Vmm
from agentkernel.model.readiness import Identity
from agentkernel.model.spec import BootSpec, Rlimit

ENVIRONMENT = (b"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", b"LANG=C.UTF-8")
COMMAND_S = 120.0


def store_at(state: Path) -> Store:
    """Artefacts from the user's data folder (AGENTKERNEL_DATA moves it), everything else below `state`."""
    return Store({**os.environ, "AGENTKERNEL_HOME": str(state)})


def prepare(store: Store, runtime: str = "base") -> None:
    """Have everything there that a microVM boots from; what is missing is fetched and built."""

    async def fetch() -> None:
        await store.ensure(runtime)
        await store.tool("qemu")
        await store.kernel()

    anyio.run(fetch)


def qemu_driver(store: Store) -> QemuDriver:
    """The driver as the daemon makes it."""
    return QemuDriver(store, Trials(store.data / "readiness", store.state / "trials"))


def firecracker_driver(store: Store) -> FirecrackerDriver:
    """The driver as the daemon makes it; the program is the host's own, no stand-in."""
    place = Place("", os.environ, store.data)
    return FirecrackerDriver(store, place, Trials(store.data / "readiness", store.state / "trials"))


def firecracker_spec(store: Store, **changes: int) -> BootSpec:
    """The same machine, by Firecracker."""
    return replace(qemu_spec(store, **changes), vmm=Vmm.FIRECRACKER)


def qemu_spec(store: Store, **changes: int) -> BootSpec:
    """A small microVM of the base runtime."""
    sizes = {"memory_mib": 256, "disk_mib": 64, "pids": 256} | changes
    return BootSpec(Backend.MICROVM, "base", store.resolve("base"), vmm=Vmm.QEMU, **sizes)


@dataclass(slots=True)
class Cradle:
    """A birth outside of any engine: it keeps what the driver records."""

    directory: Path
    id: SandboxId = field(default_factory=new_sandbox_id)
    identity: Identity = field(
        default_factory=lambda: Identity(f"sandbox-{secrets.token_hex(4)}", secrets.token_bytes(16))
    )
    facts: dict[str, str | int] = field(default_factory=dict)
    disk: Path | None = None

    async def record(self, **facts: str | int) -> None:
        """Keep them."""
        self.facts.update(facts)


@dataclass(frozen=True, slots=True)
class Machine:
    """One sandbox that runs, and the host's side of it."""

    guest: Guest
    birth: Cradle
    spec: BootSpec

    @property
    def pid(self) -> int:
        """The program behind it, as the driver recorded it."""
        return int(self.birth.facts["pid"])

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send the program behind it a signal."""
        os.kill(self.pid, number)


def cradle(place: Path) -> Cradle:
    """A birth with a folder of its own below `place`."""
    birth = Cradle(place)
    birth.directory = place / birth.id
    birth.directory.mkdir(mode=0o700, parents=True)
    return birth


@asynccontextmanager
async def booted(driver: Driver, spec: BootSpec, place: Path) -> AsyncIterator[Machine]:
    """A sandbox that booted for this caller."""
    birth = cradle(place)
    async with driver.boot(spec, birth) as guest:
        yield Machine(guest, birth, spec)


async def unprepared(_guest: Guest) -> None:
    """Nothing is done in a template before it is frozen."""


@asynccontextmanager
async def cloned(driver: Driver, spec: BootSpec, place: Path) -> AsyncIterator[Machine]:
    """A copy of the template of that specification, which is made when it is not there."""
    template = await driver.template(spec, cradle(place), unprepared)
    birth = cradle(place)
    async with driver.clone(template, spec, birth) as guest:
        yield Machine(guest, birth, spec)


@dataclass(frozen=True, slots=True)
class Ran:
    """What one program said, and how it ended."""

    events: Sequence[ExecEvent]

    @property
    def stdout(self) -> bytes:
        """All of its standard output."""
        return b"".join(event.data for event in self.events if isinstance(event, Stdout))

    @property
    def stderr(self) -> bytes:
        """All of its standard error."""
        return b"".join(event.data for event in self.events if isinstance(event, Stderr))

    @property
    def text(self) -> str:
        """Standard output as text, without white space around it."""
        return self.stdout.decode().strip()

    @property
    def end(self) -> Exited:
        """How it ended; a test that gets here with a program that never started fails."""
        assert isinstance(self.events[-1], Exited), self.events[-1]
        assert isinstance(self.events[0], Started)
        return self.events[-1]

    @property
    def refusal(self) -> NotStarted:
        """Why it did not start."""
        assert isinstance(self.events[-1], NotStarted), self.events[-1]
        assert len(self.events) == 1
        return self.events[-1]

    @property
    def code(self) -> int:
        """Its exit code."""
        return self.end.code


def request(
    *argv: str | bytes,
    env: tuple[bytes, ...] = ENVIRONMENT,
    cwd: str = "/workspace",
    user: str = "",
    stdin: bool = False,
    rlimits: tuple[Rlimit, ...] = (),
    make_cwd: bool = False,
) -> ExecRequest:
    """A request with the environment that programs usually have."""
    return ExecRequest(tuple(map(os.fsencode, argv)), env, cwd, user, rlimits, stdin, make_cwd=make_cwd)


async def run(guest: Guest, *argv: str | bytes, stdin: bytes | None = None, **changes: object) -> Ran:
    """Run a program to its end; `stdin` is sent and closed."""
    return await run_request(guest, request(*argv, stdin=stdin is not None, **changes), stdin)  # type: ignore[arg-type]


async def run_request(guest: Guest, wanted: ExecRequest, stdin: bytes | None = None) -> Ran:
    """The same, for a request that is made already."""
    with anyio.fail_after(COMMAND_S):
        process = await guest.exec(wanted)
        if stdin is None:
            return Ran([event async for event in process])
        events: list[ExecEvent] = []

        async def feed() -> None:
            await process.send_stdin(stdin)
            await process.close_stdin()

        async with anyio.create_task_group() as group:
            group.start_soon(feed)
            events.extend([event async for event in process])
    return Ran(events)


async def shell(guest: Guest, script: str, **changes: object) -> Ran:
    """Run a script of the guest's shell."""
    return await run(guest, "/bin/sh", "-c", script, **changes)  # type: ignore[arg-type]


async def processes_with(guest: Guest, mark: str) -> int:
    """How many processes in the sandbox have that word in their command line (the one that asks does not)."""
    script = 'printf "%s" "$MARK" | grep -alf - /proc/[0-9]*/cmdline 2>/dev/null | wc -l'
    return int((await shell(guest, script, env=(*ENVIRONMENT, b"MARK=" + mark.encode()))).text)


async def settles(condition: Callable[[], Awaitable[bool]], *, within_s: float = 20.0) -> bool:
    """Whether a condition, which nobody announces, comes to hold in that time."""
    with anyio.move_on_after(within_s):
        while not await condition():  # noqa: ASYNC110
            await anyio.sleep(0.05)
        return True
    return False


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except (FileNotFoundError, ProcessLookupError):
        return False
