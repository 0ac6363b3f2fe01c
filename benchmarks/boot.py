"""A microVM without the daemon: boot to greeting, first and later commands, its end, and memory when idle (PSS)."""

from __future__ import annotations

import functools
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
from common import Report, arguments, say

from agentkernel.drivers.contract import Guest
from agentkernel.drivers.qemu import QemuDriver
from agentkernel.drivers.qemu.accelerator import Verdicts
from agentkernel.engine.command import WARM_UP, run_command
from agentkernel.engine.sandbox import new_identity
from agentkernel.images.store import Store
from agentkernel.model.ids import SandboxId, new_sandbox_id
from agentkernel.model.kinds import Backend, Vmm
from agentkernel.model.readiness import Identity
from agentkernel.model.spec import BootSpec


@dataclass
class Birth:
    """A sandbox that no journal knows; its supervisor ends it with us."""

    directory: Path
    id: SandboxId
    identity: Identity = field(default_factory=new_identity)
    facts: dict[str, str | int] = field(default_factory=dict)

    async def record(self, **facts: str | int) -> None:
        """Keep what the driver says."""
        self.facts.update(facts)


@dataclass
class Host:
    """A driver and the place for its sandboxes."""

    driver: QemuDriver
    spec: BootSpec
    directory: Path

    @asynccontextmanager
    async def booted(self) -> AsyncIterator[tuple[Guest, Birth]]:
        """One microVM."""
        identifier = new_sandbox_id()
        birth = Birth(self.directory / identifier, identifier)
        birth.directory.mkdir(mode=0o700)
        async with self.driver.boot(self.spec, birth) as guest:
            yield guest, birth


@asynccontextmanager
async def host(runtime: str = "base") -> AsyncIterator[Host]:
    """The driver as the daemon makes it, and the image built."""
    store = Store(os.environ)
    with tempfile.TemporaryDirectory(prefix="agentkernel-bench-") as directory:
        driver = QemuDriver(store, Verdicts(store.data / "readiness", Path(directory)))
        verdict = await driver.probe()
        if not verdict.usable:
            raise SystemExit(f"no microVM here: {verdict.reason}; {verdict.remedy}")
        spec = BootSpec(Backend.MICROVM, runtime, await store.ensure(runtime), vmm=Vmm.QEMU)
        yield Host(driver, spec, Path(directory))


async def main(rounds: int, vms: int, *, as_json: bool) -> None:
    """Measure and print."""
    report = Report("boot")
    async with host() as here:
        await _lives(report, here, rounds)
        await _memory(report, here, vms)
    report.finish(as_json=as_json)


async def _lives(report: Report, here: Host, rounds: int) -> None:
    boots: list[float] = []
    ends: list[float] = []
    commands: dict[str, list[float]] = {"first": [], "second": [], "third": [], "tenth": []}
    pings: list[float] = []
    for number in range(rounds):
        say(f"boot {number + 1} of {rounds}")
        began = time.perf_counter()
        async with here.booted() as (guest, _):
            boots.append((time.perf_counter() - began) * 1000)
            for at in range(10):
                started = time.perf_counter()
                await run_command(guest, WARM_UP)
                name = {0: "first", 1: "second", 2: "third", 9: "tenth"}.get(at)
                if name:
                    commands[name].append((time.perf_counter() - started) * 1000)
            for _ in range(20):
                started = time.perf_counter()
                await guest.ping()
                pings.append((time.perf_counter() - started) * 1000)
            ending = time.perf_counter()
        ends.append((time.perf_counter() - ending) * 1000)
    report.add("boot to greeting and mounted disk", boots)
    for name, samples in commands.items():
        what = " (the throwaway, /bin/true)" if name == "first" else ""
        report.add(f"{name} command{what}", samples)
    report.add("ping", pings)
    report.add("destroy", ends)


async def _memory(report: Report, here: Host, vms: int) -> None:
    """Proportional set size of idle microVMs, all at once: what is shared counts once over all of them."""
    say(f"memory of {vms} microVMs")
    async with AsyncExitStack() as stack:
        made = [await stack.enter_async_context(here.booted()) for _ in range(vms)]
        report.add("PSS, idle, before its throwaway command", [_pss_mib(birth) for _, birth in made], "MiB")
        for guest, _ in made:
            await run_command(guest, WARM_UP)
        report.add("PSS, idle, after it", [_pss_mib(birth) for _, birth in made], "MiB")


def _pss_mib(birth: Birth) -> float:
    """Of QEMU; its supervisor holds a few pages."""
    lines = Path(f"/proc/{birth.facts['pid']}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


if __name__ == "__main__":
    options = arguments(__doc__, rounds=5, vms=4)
    sys.exit(anyio.run(functools.partial(main, options.rounds, options.vms, as_json=options.json)))
