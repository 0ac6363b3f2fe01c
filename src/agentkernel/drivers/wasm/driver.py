"""One worker per sandbox: compiled code by path, a socket by descriptor, the guest link over it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from agentkernel.drivers.confine import Bind, Confinement
from agentkernel.drivers.confine import reap as reap_processes
from agentkernel.drivers.contract import Artifacts, Birth, Driver, Guest, Tell
from agentkernel.drivers.vmm.trials import trial_birth
from agentkernel.drivers.wasm.guest import WasmGuest
from agentkernel.drivers.wasm.native import native_code
from agentkernel.drivers.worker.guest import WorkerGuest
from agentkernel.drivers.worker.launch import greeted
from agentkernel.drivers.worker.place import ROOT, interpreter, package_folder
from agentkernel.drivers.worker.programs import PATTERNS, Kind
from agentkernel.model.errors import AgentkernelError, Broken, NotFound
from agentkernel.model.execution import ExecRequest, Exited
from agentkernel.model.ids import Digest, SandboxId
from agentkernel.model.kinds import Backend, Feature, Isolation
from agentkernel.model.readiness import Capabilities, Readiness
from agentkernel.model.spec import BootSpec

log = logging.getLogger(__name__)

BOOT_DEADLINE_S = 30.0
"""From spawn to greeting; it takes a fraction of a second alone."""
TRIAL_S = 30.0
TRY_AGAIN_S = 300.0
"""How long a language that could not be had is not asked for again: a slow registry is waited for each time."""
THREADS = 512
"""One per program, those of wasmtime, and those that read input for programs."""
OPEN_FILES = 1024
WASMTIME = ("wasmtime", "wasm")
"""The package, and our extra that has it."""
WORKER = "agentkernel.drivers.wasm.worker.main"
NATIVE = "/agentkernel/native"
"""Where the worker finds compiled code."""
NO_IMAGE = Digest("none")
"""The image of a sandbox that takes what is there."""
TRIAL_MODULE = bytes.fromhex("0061736d 01000000 01040160 0000 03020100 070a01065f737461727400 00 0a040102000b")
"""`(module (func (export "_start")))`: does nothing, well."""


class WasmDriver(Driver):
    """WebAssembly programs in a confined worker.

    Args:
        artifacts: where components come from, and where compiled code is kept.
        trials: where a trial's private folder is made.
    """

    backend = Backend.WASM
    vmm = None
    capabilities = Capabilities(frozenset({Feature.FILES, Feature.STDIN, Feature.DISK_LIMIT, Feature.OOM_INSIDE}))

    programs = PATTERNS
    runtimes = frozenset({"base", "python"})

    def __init__(self, artifacts: Artifacts, trials: Path) -> None:
        self._artifacts = artifacts
        self._trials = trials
        self._lacking: dict[Kind, tuple[float, AgentkernelError]] = {}

    async def probe(self) -> Readiness:
        """Run a module that does nothing in a confined worker. Languages are made on first use, not here."""
        spec = BootSpec(Backend.WASM, "base", image=NO_IMAGE, memory_mib=16, disk_mib=1, pids=4)
        try:
            with trial_birth(self._trials) as birth, anyio.fail_after(TRIAL_S):
                async with self._worker({}, spec, birth) as guest:
                    await _try(guest)
        except TimeoutError:
            return _no(Broken(f"a trial did not end within {TRIAL_S:.0f} s"))
        except AgentkernelError as error:
            return _no(error)
        version = importlib.metadata.version("wasmtime")
        return Readiness(usable=True, isolation=Isolation.WASM, version=version)

    @asynccontextmanager
    async def boot(self, spec: BootSpec, birth: Birth) -> AsyncIterator[Guest]:
        """As the contract says. The whole file tree is private memory, `disk_mib` of it."""
        natives = await self.natives()
        if spec.image not in {NO_IMAGE, _digest(natives)}:
            raise NotFound("what that wasm sandbox was to be made from has changed", hint="ask for it again")
        async with self._worker(natives, spec, birth) as guest:
            yield guest

    async def ready(self, runtime: str, tell: Tell) -> Digest:
        """All languages, whatever the runtime: they are small, and a sandbox runs any of them."""
        await tell("WebAssembly: languages are made and compiled on first use, a minute or two")
        return _digest(await self.natives())

    async def natives(self) -> dict[Kind, Path]:
        """Compiled code of each language, made when it is not there. One that cannot be had is left out for a while:
        what asks for it is told that there is no such program, and the other one runs.

        Raises:
            AgentkernelError: there is none at all.
        """
        package_folder(*WASMTIME)  # said before anything is fetched: whether wasmtime is there at all
        found: dict[Kind, Path] = {}
        for kind in (Kind.PYTHON, Kind.JAVASCRIPT):
            if time.monotonic() < self._lacking.get(kind, (0.0, None))[0]:
                continue
            try:
                found[kind] = await native_code(self._artifacts, str(kind))
            except AgentkernelError as error:
                log.warning("language left out", extra={"language": str(kind), "reason": error.message})
                self._lacking[kind] = (time.monotonic() + TRY_AGAIN_S, error)
        if not found:
            raise self._lacking[Kind.PYTHON][1]
        return found

    async def reap(self, sandbox: SandboxId, facts: Mapping[str, str | int]) -> None:
        """Kill the supervisor and the worker of that sandbox; folder and row are the engine's."""
        await reap_processes(sandbox, facts)

    @asynccontextmanager
    async def _worker(self, natives: Mapping[Kind, Path], spec: BootSpec, birth: Birth) -> AsyncIterator[WorkerGuest]:
        """A worker that was greeted. `natives`: compiled code of the languages that it is to run."""

        def confinement(link: int) -> Confinement:
            return _confinement(natives, spec, birth, link)

        async with greeted(WasmGuest, confinement, birth, pids=spec.pids, deadline_s=BOOT_DEADLINE_S) as guest:
            yield guest


def _digest(natives: Mapping[Kind, Path]) -> Digest:
    """Names all that a sandbox is made from."""
    return Digest(hashlib.sha256(" ".join(path.parent.name for path in natives.values()).encode()).hexdigest())


def _confinement(natives: Mapping[Kind, Path], spec: BootSpec, birth: Birth, link: int) -> Confinement:
    python = interpreter(WORKER, [package_folder(*WASMTIME)])
    inside = {kind: f"{NATIVE}/{kind}" for kind in natives}
    arguments = (str(link), str(spec.memory_mib), ROOT, *(f"{kind}={path}" for kind, path in inside.items()))
    return Confinement(
        argv=(*python.argv, *arguments),
        tree=Path("/"),
        binds=(*python.binds, *(Bind(natives[kind], path) for kind, path in inside.items())),
        pass_fds=(link,),
        env={"LC_ALL": "C.UTF-8"},
        remove=birth.directory,
        threads=THREADS,
        open_files=OPEN_FILES,
        tmp_bytes=max(1, spec.disk_mib) << 20,
    )


async def _try(guest: Guest) -> None:
    await guest.write_file("/workspace/trial.wasm", TRIAL_MODULE)
    process = await guest.exec(ExecRequest((b"trial.wasm",)))
    events = [event async for event in process]
    if not isinstance(events[-1], Exited) or events[-1].code:
        raise Broken(f"a module that does nothing did not run: {events[-1]}")


def _no(error: AgentkernelError) -> Readiness:
    return Readiness(usable=False, reason=error.message, remedy=error.hint)
