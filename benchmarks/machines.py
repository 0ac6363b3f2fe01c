"""MicroVMs without the daemon: made by the driver as the engine has it made, row in the journal included."""

from __future__ import annotations

import os
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentkernel.drivers import contract
from agentkernel.drivers.contract import Guest
from agentkernel.drivers.link import LinkGuest
from agentkernel.drivers.link.session import Session
from agentkernel.drivers.qemu import QemuDriver, driver
from agentkernel.drivers.qemu.accelerator import Verdicts
from agentkernel.engine.command import WARM_UP, run_command
from agentkernel.engine.sandbox import conceived, new_identity
from agentkernel.images.store import Store
from agentkernel.journal import Journal
from agentkernel.model.ids import SandboxId, new_sandbox_id
from agentkernel.model.kinds import Backend, Vmm
from agentkernel.model.readiness import Identity
from agentkernel.model.spec import BootSpec
from agentkernel.policy.environment import exec_request


@dataclass
class Birth:
    """What the engine would hand the driver; the facts are kept."""

    directory: Path
    id: SandboxId
    identity: Identity
    stages: Stages
    commit: Callable[..., Any]
    facts: dict[str, str | int] = field(default_factory=dict)
    disk: Path | None = None

    async def record(self, **facts: str | int) -> None:
        """Commit what the driver says, and keep it."""
        self.facts.update(facts)
        with self.stages.measure("journal: record"):
            await self.commit(**facts)

    def pss_mib(self) -> dict[str, float]:
        """Proportional set size of QEMU, and of its parts: what is shared counts once over all machines."""
        lines = Path(f"/proc/{self.facts['pid']}/smaps_rollup").read_text().splitlines()
        return {
            line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.startswith(("Pss", "Private"))
        }


class Stages:
    """Milliseconds by stage."""

    def __init__(self) -> None:
        self.samples: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Time a block."""
        began = time.perf_counter()
        yield
        self.samples[name].append((time.perf_counter() - began) * 1000)


@contextmanager
def _clocked(stages: Stages) -> Iterator[None]:
    """A clock beside each step of the driver's."""
    steps: list[tuple[Any, str, str]] = [
        (QemuDriver, "_private", "scratch disk, sockets"),
        (QemuDriver, "_started", "supervisor, QEMU, its row"),
        (driver, "load", "device state loaded"),
        (Session, "attach", "link: attached"),
        (LinkGuest, "identify", "link: identity"),
        (LinkGuest, "mount_disk", "link: disk mounted"),
    ]
    kept = [(owner, name, vars(owner)[name]) for owner, name, _ in steps]
    for owner, name, label in steps:
        setattr(owner, name, _timed(vars(owner)[name], label, stages))
    try:
        yield
    finally:
        for owner, name, original in kept:
            setattr(owner, name, original)


def _timed(step: Any, label: str, stages: Stages) -> Any:
    function = step.__func__ if isinstance(step, staticmethod) else step

    async def timed(*args: Any, **named: Any) -> Any:
        with stages.measure(label):
            return await function(*args, **named)

    return staticmethod(timed) if isinstance(step, staticmethod) else timed


@dataclass
class Host:
    """A driver and the place for its sandboxes."""

    driver: QemuDriver
    spec: BootSpec
    directory: Path
    journal: Journal
    warm_up: Sequence[Sequence[str]]
    stages: Stages

    def booted(self) -> AbstractAsyncContextManager[tuple[Guest, Birth]]:
        """One microVM, cold."""
        return self._made(lambda birth: self.driver.boot(self.spec, birth))

    def cloned(self, template: Path) -> AbstractAsyncContextManager[tuple[Guest, Birth]]:
        """One copy of a template."""
        return self._made(lambda birth: self.driver.clone(template, self.spec, birth))

    @asynccontextmanager
    async def _made(
        self, make: Callable[[contract.Birth], AbstractAsyncContextManager[Guest]]
    ) -> AsyncIterator[tuple[Guest, Birth]]:
        identifier = new_sandbox_id()
        place = conceived(identifier, self.driver, new_identity(), self.journal, self.directory)
        with self.stages.measure("journal: intend"):
            own = await place.__aenter__()
        try:
            birth = Birth(own.directory, own.id, own.identity, self.stages, own.record)
            async with make(birth) as guest:
                yield guest, birth
        finally:
            await place.__aexit__(None, None, None)

    async def template(self) -> Path:
        """As the engine makes it."""

        async def prepare(guest: Guest) -> None:
            await run_command(guest, WARM_UP)
            for command in self.warm_up:
                await run_command(guest, exec_request(command), timeout_s=30)

        place = conceived(new_sandbox_id(), self.driver, new_identity(), self.journal, self.directory)
        async with place as birth:
            return await self.driver.template(self.spec, birth, prepare)


@asynccontextmanager
async def host(runtime: str = "base") -> AsyncIterator[Host]:
    """The driver as the daemon makes it, and the image built."""
    store, stages = Store(os.environ), Stages()
    with tempfile.TemporaryDirectory(prefix="agentkernel-bench-") as directory:
        sandboxes = Path(directory) / "sandboxes"
        sandboxes.mkdir(mode=0o700)
        qemu = QemuDriver(store, Verdicts(store.data / "readiness", Path(directory)))
        with _clocked(stages):
            verdict = await qemu.probe()
            if not verdict.usable:
                raise SystemExit(f"no microVM here: {verdict.reason}; {verdict.remedy}")
            spec = BootSpec(Backend.MICROVM, runtime, await store.ensure(runtime), vmm=Vmm.QEMU)
            async with Journal.open(Path(directory) / "journal.sqlite") as journal:
                yield Host(qemu, spec, sandboxes, journal, store.warm_up(runtime), stages)
