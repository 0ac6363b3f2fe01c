"""Python and JavaScript source in WebAssembly instances: fresh, and waiting for its program; the worker's own start."""

from __future__ import annotations

import functools
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
from common import Report, arguments, say

from agentkernel.drivers.contract import Guest
from agentkernel.drivers.wasm.driver import NO_IMAGE, WasmDriver
from agentkernel.engine.command import run_command
from agentkernel.images.store import Store
from agentkernel.model.ids import SandboxId, new_sandbox_id
from agentkernel.model.kinds import Backend
from agentkernel.model.readiness import Identity
from agentkernel.model.spec import BootSpec
from agentkernel.policy.environment import exec_request

SPEC = BootSpec(Backend.WASM, "python", NO_IMAGE, memory_mib=256, disk_mib=64)
PROGRAMS = {
    "python3": ("python3", "-c", "print(1 + 1)"),
    "python3, json": ("python3", "-c", "import json; print(json.dumps([1]))"),
    "js": ("js", "-e", "console.log(1 + 1)"),
}
SETTLE_S = 0.05
"""Between programs, so that the next instance waits already."""


@dataclass
class Birth:
    """A sandbox of nobody's journal."""

    directory: Path
    id: SandboxId = field(default_factory=new_sandbox_id)
    identity: Identity = field(default_factory=lambda: Identity("sandbox-00000000", bytes(16)))
    disk: Path | None = None

    async def record(self, **facts: str | int) -> None:
        """Nothing to find again."""


@asynccontextmanager
async def booted(driver: WasmDriver, place: Path) -> AsyncIterator[Guest]:
    """A sandbox."""
    birth = Birth(place)
    birth.directory = place / birth.id
    birth.directory.mkdir(mode=0o700)
    async with driver.boot(SPEC, birth) as guest:
        yield guest


async def main(rounds: int, *, as_json: bool) -> None:
    """Measure and print."""
    report = Report("wasm")
    with tempfile.TemporaryDirectory(prefix="ak-bench-") as name:
        place = Path(name)
        driver = WasmDriver(Store(), place / "trials")
        say("first use may build and compile the languages: a minute or two")
        async with booted(driver, place) as guest:
            for program, command in PROGRAMS.items():
                say(program)
                report.add(f"{program}, instance waiting", await _times(guest, command, rounds, SETTLE_S))
                report.add(f"{program}, one after another", await _times(guest, command, rounds, 0))
        say("workers")
        report.add("worker, spawn to greeting", [await _boot(driver, place) for _ in range(max(3, rounds // 10))])
    waiting = report.p50("python3, instance waiting")
    report.note(f"python3 with an instance waiting takes {waiting:.1f} ms (wanted: 5 ms fresh, 1 ms pre-run)")
    report.finish(as_json=as_json)


async def _times(guest: Guest, command: tuple[str, ...], rounds: int, settle_s: float) -> list[float]:
    """Milliseconds from request to exit, through the link."""
    samples = []
    for _ in range(rounds):
        await anyio.sleep(settle_s)
        began = time.perf_counter()
        await run_command(guest, exec_request(command))
        samples.append((time.perf_counter() - began) * 1000)
    return samples


async def _boot(driver: WasmDriver, place: Path) -> float:
    began = time.perf_counter()
    async with booted(driver, place):
        return (time.perf_counter() - began) * 1000


if __name__ == "__main__":
    options = arguments(__doc__, rounds=100)
    sys.exit(anyio.run(functools.partial(main, options.rounds, as_json=options.json)))
