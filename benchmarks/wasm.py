"""Python and JavaScript source in WebAssembly instances: fresh, and waiting for its program; the worker's own start."""

from __future__ import annotations

import functools
import os
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.to_thread
import wasmtime
from common import Report, arguments, say
from wasmtime.component import Component

from agentkernel.drivers.contract import Guest
from agentkernel.drivers.wasm.driver import NO_IMAGE, WasmDriver
from agentkernel.drivers.wasm.engine import new_engine
from agentkernel.drivers.wasm.worker.instances import Instance, language_linker
from agentkernel.drivers.worker.execution import Program
from agentkernel.drivers.worker.programs import Kind
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
SETTLE_S = 0.02
"""Between programs, so that the next instance waits already."""
INSIDE = ("fresh", "made ahead", "pre-run")
"""Within a worker: the sum, an instance up to where it wants a program, and a program in one that waits."""


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
        native = (await driver.natives())[Kind.PYTHON]
        say("python3, without the link")
        for stage, samples in zip(INSIDE, await anyio.to_thread.run_sync(_inside, native, place, rounds), strict=True):
            report.add(f"python3, {stage}, within", samples)
        async with booted(driver, place) as guest:
            for program, command in PROGRAMS.items():
                say(program)
                report.add(f"{program}, instance waiting", await _times(guest, command, rounds, SETTLE_S))
                report.add(f"{program}, one after another", await _times(guest, command, rounds, 0))
        say("workers")
        report.add("worker, spawn to greeting", [await _boot(driver, place) for _ in range(max(3, rounds // 10))])
    waiting = report.p50("python3, instance waiting")
    fresh, ready = (report.p50(f"python3, {name}, within") for name in ("fresh", "pre-run"))
    report.note(f"python3 takes {fresh:.1f} ms in a fresh instance, {ready:.1f} ms in one that waits (wanted: 5, 1)")
    report.note(
        f"the link and the caller's side add {waiting - ready:.1f} ms, after a rest of {SETTLE_S * 1000:.0f} ms"
    )
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


def _inside(native: Path, place: Path, rounds: int) -> tuple[list[float], list[float], list[float]]:
    """Milliseconds of each of `INSIDE`, by what a worker uses: an engine, compiled code, a thread per instance."""
    engine = new_engine()
    code, linker = Component.deserialize_file(engine, str(native)), language_linker(engine)
    root = place / "root"
    root.mkdir()
    samples: tuple[list[float], list[float], list[float]] = ([], [], [])
    for _ in range(rounds):
        began = time.perf_counter()
        instance = Waited(engine, root, SPEC.memory_mib << 20)
        thread = threading.Thread(target=instance.run_language, args=(linker, code))
        thread.start()
        instance.wants.wait()
        given = time.perf_counter()
        said: list[bytes] = []
        argv = tuple(map(os.fsencode, PROGRAMS["python3"]))
        instance.give(Program(argv, (), b"/", lambda data, said=said: not said.append(data), lambda _: True))  # type: ignore[misc]
        os.close(instance.stdin)
        thread.join()
        ended = time.perf_counter()
        instance.close()
        if said != [b"2\n"]:
            raise RuntimeError(f"not what the program says: {said}")
        for column, seconds in zip(samples, (ended - began, given - began, ended - given), strict=True):
            column.append(seconds * 1000)
    return samples


class Waited(Instance):
    """An instance that tells when it wants its program."""

    def __init__(self, engine: wasmtime.Engine, root: Path, memory_bytes: int) -> None:
        super().__init__(engine, root, memory_bytes)
        self.wants = threading.Event()

    def take(self) -> Program:
        self.wants.set()
        return super().take()


async def _boot(driver: WasmDriver, place: Path) -> float:
    began = time.perf_counter()
    async with booted(driver, place):
        return (time.perf_counter() - began) * 1000


if __name__ == "__main__":
    options = arguments(__doc__, rounds=100)
    sys.exit(anyio.run(functools.partial(main, options.rounds, as_json=options.json)))
