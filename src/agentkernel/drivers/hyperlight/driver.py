"""One worker per sandbox, as wasm's, with `/dev/kvm`: each program runs in a micro-VM restored from its snapshot."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from agentkernel.drivers.confine import Bind, Confinement
from agentkernel.drivers.confine import reap as reap_processes
from agentkernel.drivers.contract import Artifacts, Birth, Driver, Guest, Tell
from agentkernel.drivers.hyperlight.guest import HyperlightGuest
from agentkernel.drivers.vmm.hardware import KVM, hardware_hint
from agentkernel.drivers.vmm.trials import Trials, Verdict
from agentkernel.drivers.worker.guest import WorkerGuest
from agentkernel.drivers.worker.launch import greeted
from agentkernel.drivers.worker.place import ROOT, interpreter, package_folder
from agentkernel.drivers.worker.programs import LANGUAGES, Kind
from agentkernel.model.errors import AgentkernelError, NotFound, Unsupported
from agentkernel.model.execution import ExecRequest, Exited, Stderr, Stdout
from agentkernel.model.ids import Digest, SandboxId
from agentkernel.model.kinds import Backend, Feature, Isolation
from agentkernel.model.readiness import Capabilities, Readiness
from agentkernel.model.spec import BootSpec

BOOT_DEADLINE_S = 60.0
"""From spawn to greeting: a fraction of a second on a processor of its own, some ten under emulation."""
TRIAL_S = 60.0
"""Likewise, to the end of a snippet. Where KVM is of no use the end comes at once."""
THREADS = 512
OPEN_FILES = 1024
NO_IMAGE = Digest("none")
WORKER = "agentkernel.drivers.hyperlight.worker.main"
CODE = "/agentkernel/guests"
"""Where the worker finds the guests' code."""
DISTRIBUTION = "hyperlight-sandbox"
EXTRA = "hyperlight"
BACKEND = "hyperlight_sandbox_backend_wasm"
GUESTS = {
    Kind.PYTHON: ("python_guest", "python-sandbox.aot"),
    Kind.JAVASCRIPT: ("javascript_guest", "js-sandbox.aot"),
}
"""The package of each language, and its file: code compiled ahead for Hyperlight's own runtime."""
REMEDY = "Use a host where KVM works: hardware virtualisation on, and not inside a virtual machine without it."
SNIPPET = b"print(6 * 7)"


class HyperlightDriver(Driver):
    """Programs in Hyperlight's micro-VMs.

    Args:
        trials: whether it works here, remembered between daemons.
    """

    backend = Backend.HYPERLIGHT
    vmm = None
    capabilities = Capabilities(frozenset({Feature.FILES, Feature.STDIN, Feature.DISK_LIMIT, Feature.OOM_INSIDE}))

    programs = LANGUAGES
    runtimes = frozenset({"base", "python"})

    def __init__(self, _artifacts: Artifacts, trials: Trials) -> None:
        self._trials = trials

    async def probe(self) -> Readiness:
        """Run a snippet in a machine of a confined worker, once for this kernel, processor and package.

        A processor that shows no virtualisation is tried too: its reason is then both.
        """
        try:
            codes = _codes()
        except Unsupported as error:
            return Readiness(usable=False, reason=error.message, remedy=error.hint)
        if not KVM.exists():
            return Readiness(usable=False, reason=hardware_hint() or f"there is no {KVM}", remedy=REMEDY)
        version = importlib.metadata.version(DISTRIBUTION)
        try:
            verdict = await self._trials.verdict("hyperlight", (_digest(codes),), lambda: self._tried(codes))
            trouble = verdict["trouble"]
        except TimeoutError:
            trouble = f"a trial did not end within {TRIAL_S:.0f} s"
        except AgentkernelError as error:
            trouble = error.message
        if not trouble:
            return Readiness(usable=True, isolation=Isolation.VM, version=version)
        hint = hardware_hint()
        reason = f"Hyperlight was tried and failed: {trouble}" + (f" ({hint})" if hint else "")
        return Readiness(usable=False, reason=reason, remedy=REMEDY, version=version)

    async def _tried(self, codes: Mapping[Kind, Path]) -> Verdict:
        """Run a snippet; `trouble` is what went wrong in the machine. Raises what went wrong before."""
        spec = BootSpec(Backend.HYPERLIGHT, "base", image=NO_IMAGE, memory_mib=64, disk_mib=1, pids=4)
        with self._trials.birth() as birth, anyio.fail_after(TRIAL_S):
            async with _worker(codes, spec, birth) as guest:
                return {"trouble": await _snippet(guest)}

    @asynccontextmanager
    async def boot(self, spec: BootSpec, birth: Birth) -> AsyncIterator[Guest]:
        """As the contract says. `memory_mib` is what each program's machine has, `disk_mib` the file tree, in the
        host's memory.
        """
        codes = _codes()
        if spec.image not in {NO_IMAGE, _digest(codes)}:
            raise NotFound("what that hyperlight sandbox was to be made from has changed", hint="ask for it again")
        if not KVM.exists():
            raise Unsupported(f"there is no {KVM}", hint=REMEDY)
        async with _worker(codes, spec, birth) as guest:
            yield guest

    async def ready(self, runtime: str, tell: Tell) -> Digest:
        """Nothing has to be made: the guests come with the package."""
        return _digest(_codes())

    async def reap(self, sandbox: SandboxId, facts: Mapping[str, str | int]) -> None:
        """Kill the supervisor and all behind it; folder and row are the engine's."""
        await reap_processes(sandbox, facts)


@asynccontextmanager
async def _worker(codes: Mapping[Kind, Path], spec: BootSpec, birth: Birth) -> AsyncIterator[WorkerGuest]:
    def confinement(link: int) -> Confinement:
        return _confinement(codes, spec, birth, link)

    async with greeted(HyperlightGuest, confinement, birth, pids=spec.pids, deadline_s=BOOT_DEADLINE_S) as guest:
        yield guest


def _codes() -> dict[Kind, Path]:
    """The guests' code. Raises Unsupported where a package lacks."""
    package_folder(BACKEND, EXTRA)
    return {kind: package_folder(package, EXTRA) / "resources" / file for kind, (package, file) in GUESTS.items()}


def _digest(codes: Mapping[Kind, Path]) -> Digest:
    """Names all that a sandbox is made from."""
    facts = [importlib.metadata.version(DISTRIBUTION), *(str(code.stat().st_size) for code in codes.values())]
    made = hashlib.sha256(" ".join(facts).encode())
    for prelude in sorted((Path(__file__).parent / "guests").glob("*.*")):
        made.update(prelude.read_bytes())
    return Digest(made.hexdigest())


def _confinement(codes: Mapping[Kind, Path], spec: BootSpec, birth: Birth, link: int) -> Confinement:
    python = interpreter(WORKER, [package_folder(BACKEND, EXTRA)])
    inside = {kind: f"{CODE}/{kind}" for kind in codes}
    arguments = (str(link), str(spec.memory_mib), ROOT, *(f"{kind}={path}" for kind, path in inside.items()))
    return Confinement(
        argv=(*python.argv, *arguments),
        tree=Path("/"),
        binds=(*python.binds, *(Bind(codes[kind], path) for kind, path in inside.items())),
        pass_fds=(link,),
        env={"LC_ALL": "C.UTF-8"},
        kvm=True,
        remove=birth.directory,
        threads=THREADS,
        open_files=OPEN_FILES,
        tmp_bytes=max(1, spec.disk_mib) << 20,
    )


async def _snippet(guest: Guest) -> str:
    """Run one; returns what went wrong."""
    process = await guest.exec(ExecRequest((b"python3", b"-c", SNIPPET)))
    events = [event async for event in process]
    said = b"".join(event.data for event in events if isinstance(event, Stdout))
    errors = b"".join(event.data for event in events if isinstance(event, Stderr))
    if said == b"42\n" and isinstance(events[-1], Exited) and not events[-1].code:
        return ""
    words = errors.decode("utf-8", "replace").removeprefix("agentkernel: ").strip()
    return f"a snippet did not run: {words or events[-1]}"
