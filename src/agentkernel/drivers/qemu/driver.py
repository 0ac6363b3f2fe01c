"""One microVM: descriptors, a confined QEMU, an attached link, a mounted disk."""

from __future__ import annotations

import asyncio
import os
import platform
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import anyio
import anyio.to_thread

from agentkernel.drivers.confine import ConfinedProcess, Confinement, confined
from agentkernel.drivers.confine import reap as reap_processes
from agentkernel.drivers.contract import Artifacts, Birth, Driver, Guest, Tool
from agentkernel.drivers.link import LinkGuest, PlainSocket
from agentkernel.drivers.qemu.accelerator import Verdicts
from agentkernel.drivers.qemu.files import connect_below, copy_sparse, listen_below
from agentkernel.drivers.qemu.machine import SCRATCH_SERIAL, Accelerator, Descriptors, arguments
from agentkernel.model.errors import AgentkernelError, Broken, Unsupported
from agentkernel.model.ids import SandboxId
from agentkernel.model.kinds import Backend, Feature, Isolation, Vmm
from agentkernel.model.readiness import Capabilities, Readiness
from agentkernel.model.spec import BootSpec

BOOT_DEADLINE_S = {Accelerator.KVM: 30.0, Accelerator.TCG: 90.0}
"""From spawn to greeting. An emulated boot takes 3 to 4 s alone; many at once on two cores take their turn."""
BINDS = {"workspace": "/workspace", "scratch": "/scratch"}
WORDS_KEPT = 600
THREADS = 64
OPEN_FILES = 256


class QemuDriver(Driver):
    """MicroVMs by QEMU.

    Args:
        artifacts: where QEMU, kernel, root file systems and blank disks come from.
        verdicts: whether KVM works here, remembered between daemons.
    """

    backend = Backend.MICROVM
    vmm = Vmm.QEMU
    capabilities = Capabilities(frozenset({Feature.FILES, Feature.STDIN, Feature.USER_ROOT, Feature.DISK_LIMIT}))

    def __init__(self, artifacts: Artifacts, verdicts: Verdicts) -> None:
        self._artifacts = artifacts
        self._verdicts = verdicts

    async def probe(self) -> Readiness:
        """Find QEMU and kernel, and boot once, with KVM where the processor has it; the verdict is kept."""
        try:
            if platform.machine() != "x86_64":
                raise Unsupported(f"this driver makes x86-64 machines, not {platform.machine()} ones")
            tool = await self._artifacts.tool("qemu")
            accelerator, why = await self._accelerator(tool)
        except AgentkernelError as err:
            return Readiness(usable=False, vmm=Vmm.QEMU, reason=err.message, remedy=err.hint)
        if accelerator is Accelerator.KVM:
            return Readiness(usable=True, isolation=Isolation.VM, vmm=Vmm.QEMU, version=tool.version)
        return Readiness(
            usable=True,
            isolation=Isolation.VM_EMULATED,
            vmm=Vmm.QEMU,
            version=tool.version,
            reason=f"emulated, programs run many times slower: {why}",
            remedy="use a host with working KVM for speed and for a hardware boundary",
        )

    @asynccontextmanager
    async def boot(self, spec: BootSpec, birth: Birth) -> AsyncIterator[Guest]:
        """As the contract says. The private disk holds /workspace and /scratch."""
        tool = await self._artifacts.tool("qemu")
        accelerator, _ = await self._accelerator(tool)
        async with self._machine(tool, spec, birth, accelerator, await self._artifacts.root(spec.image)) as guest:
            yield guest

    async def reap(self, sandbox: SandboxId, facts: Mapping[str, str | int]) -> None:
        """Kill the supervisor and the QEMU of that sandbox; folder and row are the engine's."""
        await reap_processes(sandbox, facts)

    async def _accelerator(self, tool: Tool) -> tuple[Accelerator, str]:
        """What works here, and if it is not KVM, why."""
        kernel = await self._artifacts.kernel()

        async def trial(birth: Birth, accelerator: Accelerator) -> None:
            """The smallest machine, from the initramfs alone, until its agent has greeted us."""
            spec = BootSpec(Backend.MICROVM, "base", image=tool.digest, vmm=Vmm.QEMU, memory_mib=256, disk_mib=0)
            async with self._machine(tool, spec, birth, accelerator, None) as guest:
                await guest.ping()

        return await self._verdicts.get((tool.digest, kernel.digest), trial)

    @asynccontextmanager
    async def _machine(
        self, tool: Tool, spec: BootSpec, birth: Birth, accelerator: Accelerator, root: Path | None
    ) -> AsyncIterator[Guest]:
        async with AsyncExitStack() as stack:
            with ExitStack() as descriptors:
                with _prepared(birth.directory):
                    fds = await self._open(spec, birth.directory, root, descriptors)
                confinement = Confinement(
                    argv=(tool.path, *arguments(birth.id, spec, accelerator, fds)),
                    tree=tool.root,
                    pass_fds=fds.all(),
                    kvm=accelerator is Accelerator.KVM,
                    remove=birth.directory,
                    threads=THREADS,
                    open_files=OPEN_FILES,
                )
                process = await stack.enter_async_context(confined(confinement, birth))
                stream = PlainSocket(connect_below(birth.directory, "link"))
                stack.push_async_callback(stream.aclose)
            with _coming_up(process, BOOT_DEADLINE_S[accelerator]):
                guest = await stack.enter_async_context(LinkGuest.attach(stream, birth.identity, pids=spec.pids))
                if spec.disk_mib:
                    await guest.mount_disk(SCRATCH_SERIAL, "ext4", BINDS)
            yield guest

    async def _open(self, spec: BootSpec, directory: Path, root: Path | None, stack: ExitStack) -> Descriptors:
        """Everything that QEMU needs, as descriptors that close with the stack."""
        kernel = await self._artifacts.kernel()

        def opened(path: Path, flags: int) -> int:
            descriptor = os.open(path, flags | os.O_CLOEXEC)
            stack.callback(os.close, descriptor)
            return descriptor

        scratch = None
        if spec.disk_mib:
            blank = await self._artifacts.blank_disk(spec.disk_mib)
            scratch = directory / "scratch.ext4"
            await anyio.to_thread.run_sync(copy_sparse, blank, scratch)
        return Descriptors(
            link=stack.enter_context(listen_below(directory, "link")).fileno(),
            qmp=stack.enter_context(listen_below(directory, "qmp")).fileno(),
            kernel=opened(kernel.image, os.O_RDONLY),
            initramfs=opened(kernel.initramfs, os.O_RDONLY),
            root=None if root is None else opened(root, os.O_RDONLY),
            scratch=None if scratch is None else (opened(scratch, os.O_RDONLY), opened(scratch, os.O_RDWR)),
        )


@contextmanager
def _prepared(directory: Path) -> Iterator[None]:
    """Explain why a machine's files could not be made: the disk is full, descriptors ran out."""
    try:
        yield
    except OSError as err:
        raise Broken(
            f"the microVM's files could not be made in {directory}: {err}", hint="df -h shows whether that disk is full"
        ) from err


@contextmanager
def _coming_up(process: ConfinedProcess, deadline_s: float) -> Iterator[None]:
    """Hold a boot to its deadline and explain its failure.

    A cancel scope cannot be left while the link's task group inside it stays open, so the deadline ends the machine
    instead: its stream ends, and the attach with it.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.call_later(deadline_s, process.kill)
    try:
        yield
    except (Broken, OSError) as err:
        late = deadline.when() <= loop.time()
        reason = f"did not come up within {deadline_s:.0f} s" if late else f"did not come up: {err}"
        words = process.last_words().strip()[-WORDS_KEPT:]
        raise Broken(
            f"the microVM {reason}" + (f"; its last words: {words}" if words else ""),
            hint="agentkernel doctor tells what works here",
        ) from err
    finally:
        deadline.cancel()
