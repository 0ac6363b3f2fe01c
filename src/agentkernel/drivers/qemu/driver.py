"""One microVM: descriptors, a confined QEMU, an attached link, a mounted disk."""

from __future__ import annotations

import os
import platform
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.to_thread

from agentkernel.drivers.confine import ConfinedProcess, Confinement, confined
from agentkernel.drivers.confine import reap as reap_processes
from agentkernel.drivers.contract import Artifacts, Birth, Driver, Guest, Prepare, Tell, Tool
from agentkernel.drivers.limits import Cgroups, find
from agentkernel.drivers.limits.held import held
from agentkernel.drivers.link import PlainSocket
from agentkernel.drivers.qemu import snapshot as snapshots
from agentkernel.drivers.qemu.accelerator import accelerator_here
from agentkernel.drivers.qemu.guest import QemuGuest
from agentkernel.drivers.qemu.limits import THREADS, limits
from agentkernel.drivers.qemu.machine import SCRATCH_SERIAL, Accelerator, Descriptors, Machine, Memory, arguments
from agentkernel.drivers.qemu.template import (
    OpenTemplates,
    load,
    maps_files_read_only,
    new_template_files,
    save,
    template_inputs,
)
from agentkernel.drivers.vmm.coming_up import BINDS, NO_ROOT, SETTLE_S, coming_up, files_prepared
from agentkernel.drivers.vmm.files import (
    SCRATCH,
    both_ways,
    connect_below,
    copy_sparse,
    keep_alone,
    keep_disk,
    listen_below,
    opened,
)
from agentkernel.drivers.vmm.made_for import check_fits, require_match, write_key
from agentkernel.drivers.vmm.trials import Trials
from agentkernel.model.errors import AgentkernelError, Unsupported
from agentkernel.model.ids import SandboxId
from agentkernel.model.kinds import Backend, Feature, Isolation, Vmm
from agentkernel.model.readiness import Capabilities, Readiness
from agentkernel.model.spec import BootSpec, ImageFacts

BOOT_DEADLINE_S = {Accelerator.KVM: 30.0, Accelerator.TCG: 90.0}
"""From spawn to greeting. An emulated boot takes 3 to 4 s alone; many at once on two cores take their turn."""
CLONE_DEADLINE_S = 60.0
"""From spawn to greeting of a copy; it takes a tenth of a second alone."""
OPEN_FILES = 256


class QemuDriver(Driver):
    """MicroVMs by QEMU.

    Args:
        artifacts: where QEMU, kernel, root file systems and blank disks come from.
        trials: whether KVM works here, remembered between daemons.
    """

    backend = Backend.MICROVM
    vmm = Vmm.QEMU
    capabilities = Capabilities(
        frozenset(
            {
                *(Feature.FILES, Feature.STDIN, Feature.USER_ROOT, Feature.DISK_LIMIT, Feature.OOM_INSIDE),
                Feature.PIDS_INSIDE,
                *(Feature.TEMPLATE, Feature.PAUSE, Feature.SNAPSHOT, Feature.FORK),
                Feature.IMAGES,
            }
        )
    )

    def __init__(self, artifacts: Artifacts, trials: Trials) -> None:
        self._artifacts = artifacts
        self._trials = trials
        self._templates = OpenTemplates()

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
        async with self._booted(tool, Machine(spec, accelerator), birth) as guest:
            yield guest

    async def image(self, name: str, tell: Tell) -> ImageFacts:
        """As the contract says: any image for this processor, from this host or a registry."""
        return await self._artifacts.pulled(name, tell)

    async def template(self, spec: BootSpec, birth: Birth, prepare: Prepare) -> Path:
        """Boot with the memory in a file, prepare, fall silent, save the devices' state."""
        tool = await self._artifacts.tool("qemu")
        accelerator, _ = await self._accelerator(tool)
        kernel = await self._artifacts.kernel()
        machine = Machine(spec, accelerator, Memory.RECORDED)
        inputs = template_inputs(tool, kernel, machine)

        async def record(folder: Path) -> None:
            with ExitStack() as files:
                memory, state = new_template_files(folder, spec.memory_mib, files)
                async with self._booted(tool, machine, birth, memory=memory) as guest:
                    await prepare(guest)
                    await anyio.sleep(SETTLE_S)
                    await guest.quiesce()
                    await save(birth.directory, state)
                os.fchmod(memory, 0o444)
            write_key(folder, inputs)

        return await self._artifacts.template(inputs, record)

    @asynccontextmanager
    async def clone(self, template: Path, spec: BootSpec, birth: Birth) -> AsyncIterator[Guest]:
        """Map the template's memory privately, load its devices' state, attach as to a new machine."""
        tool = await self._artifacts.tool("qemu")
        accelerator, _ = await self._accelerator(tool)
        kernel = await self._artifacts.kernel()
        maps_read_only = maps_files_read_only(tool)
        machine = Machine(spec, accelerator, Memory.CLONED, maps_read_only=maps_read_only)

        def files_of(files: ExitStack) -> tuple[int, int]:
            require_match(template, template_inputs(tool, kernel, machine))
            return self._templates.open(template, files, read_only=maps_read_only)

        async with self._loaded(tool, machine, birth, files_of) as guest:
            yield guest

    @asynccontextmanager
    async def restore(self, folder: Path, spec: BootSpec, birth: Birth) -> AsyncIterator[Guest]:
        """Load memory and devices' state into a machine with a copy of the disk, which is mounted already."""
        tool = await self._artifacts.tool("qemu")
        accelerator, _ = await self._accelerator(tool)
        machine = Machine(spec, accelerator)
        check_fits(folder, template_inputs(tool, await self._artifacts.kernel(), machine))

        def files_of(files: ExitStack) -> tuple[None, int]:
            return None, opened(folder / snapshots.STATE, os.O_RDONLY, files)

        async with self._loaded(tool, machine, birth, files_of, disk=folder / SCRATCH) as guest:
            yield guest

    async def discard(self, template: Path) -> None:
        """Remove it."""
        self._templates.forget(template)
        await self._artifacts.discard_template(template)

    async def reap(self, sandbox: SandboxId, facts: Mapping[str, str | int]) -> None:
        """Kill the supervisor and the QEMU of that sandbox, remove its group; folder and row are the engine's."""
        await reap_processes(sandbox, facts)
        await anyio.to_thread.run_sync(find().reap, sandbox)

    async def _accelerator(self, tool: Tool) -> tuple[Accelerator, str]:
        """What works here, and if it is not KVM, why."""
        kernel = await self._artifacts.kernel()

        async def trial(birth: Birth, accelerator: Accelerator) -> None:
            """The smallest machine, from the initramfs alone, until its agent has greeted us."""
            spec = BootSpec(Backend.MICROVM, "base", image=NO_ROOT, vmm=Vmm.QEMU, memory_mib=256, disk_mib=0)
            async with self._booted(tool, Machine(spec, accelerator), birth) as guest:
                await guest.ping()

        return await accelerator_here(self._trials, (tool.digest, kernel.digest), trial)

    @asynccontextmanager
    async def _booted(
        self, tool: Tool, machine: Machine, birth: Birth, *, memory: int | None = None
    ) -> AsyncIterator[QemuGuest]:
        kernel = await self._artifacts.kernel()
        async with AsyncExitStack() as stack:
            with ExitStack() as files:
                with files_prepared(birth.directory):
                    fds = replace(
                        await self._private(machine.spec, birth, files),
                        kernel=opened(kernel.image, os.O_RDONLY, files),
                        initramfs=opened(kernel.initramfs, os.O_RDONLY, files),
                        memory=memory,
                    )
                process, stream = await self._started(tool, machine, birth, fds, stack)
            with coming_up(process, BOOT_DEADLINE_S[machine.accelerator]):
                mount = machine.memory is Memory.PRIVATE
                guest = await self._greeted(tool, stream, machine, birth, stack, mount=mount)
            yield guest

    @asynccontextmanager
    async def _loaded(
        self,
        tool: Tool,
        machine: Machine,
        birth: Birth,
        files_of: Callable[[ExitStack], tuple[int | None, int]],
        *,
        disk: Path | None = None,
    ) -> AsyncIterator[QemuGuest]:
        """A machine that goes on from a saved state.

        Args:
            files_of: opens memory, if it is in a file, and the state.
            disk: to be copied, and mounted already; None for a blank one.
        """
        async with AsyncExitStack() as stack:
            with ExitStack() as files:
                with files_prepared(birth.directory):
                    memory, state = files_of(files)
                    private = await self._private(machine.spec, birth, files, disk)
                    fds = replace(private, memory=memory, state=state)
                process, stream = await self._started(tool, machine, birth, fds, stack)
            # Our copies of its listening sockets are closed by now: they would keep us waiting for a QEMU that is dead.
            with coming_up(process, CLONE_DEADLINE_S):
                await load(birth.directory, state)
                guest = await self._greeted(tool, stream, machine, birth, stack, mount=disk is None)
            yield guest

    async def _private(self, spec: BootSpec, birth: Birth, files: ExitStack, disk: Path | None = None) -> Descriptors:
        """What every machine has of its own, and its root; the descriptors close with `files`."""
        directory = birth.directory
        root = None if spec.image == NO_ROOT else await self._artifacts.root(spec.image)
        scratch = None
        if spec.disk_mib:
            scratch = directory / SCRATCH
            source = await self._artifacts.blank_disk(spec.disk_mib) if disk is None else disk
            if birth.disk is None:
                await anyio.to_thread.run_sync(copy_sparse, source, scratch)
            else:
                await anyio.to_thread.run_sync(keep_disk, source, birth.disk)
                scratch.symlink_to(birth.disk)
        disks = None if scratch is None else both_ways(scratch, files)
        if disks is not None:
            keep_alone(disks[1])
        return Descriptors(
            link=files.enter_context(listen_below(directory, "link")).fileno(),
            qmp=files.enter_context(listen_below(directory, "qmp")).fileno(),
            root=None if root is None else opened(root, os.O_RDONLY, files),
            scratch=disks,
            scratch_lasts=birth.disk is not None,
        )

    async def _started(
        self, tool: Tool, machine: Machine, birth: Birth, fds: Descriptors, stack: AsyncExitStack
    ) -> tuple[ConfinedProcess, PlainSocket]:
        """The confined QEMU, its group, and a connection to its link; all end with `stack`."""
        within = await stack.enter_async_context(held(_groups(), birth.id, limits(machine.spec)))
        confinement = Confinement(
            argv=(tool.path, *arguments(birth.id, machine, fds)),
            tree=tool.root,
            pass_fds=fds.all(),
            kvm=machine.accelerator is Accelerator.KVM,
            remove=birth.directory,
            group_fds=within.fds,
            threads=THREADS,
            open_files=OPEN_FILES,
        )
        process = await stack.enter_async_context(confined(confinement, birth))
        stream = PlainSocket(connect_below(birth.directory, "link"))
        stack.push_async_callback(stream.aclose)
        return process, stream

    async def _greeted(
        self,
        tool: Tool,
        stream: PlainSocket,
        machine: Machine,
        birth: Birth,
        stack: AsyncExitStack,
        *,
        mount: bool = True,
    ) -> QemuGuest:
        """The guest, with an identity and its disk; a template's disk stays unmounted, for its clones have others."""
        spec, kernel = machine.spec, await self._artifacts.kernel()
        guest = await stack.enter_async_context(QemuGuest.attach(stream, birth.identity, pids=spec.pids))
        guest.live_in(birth.directory, lambda: template_inputs(tool, kernel, machine))
        if spec.disk_mib and mount:
            await guest.mount_disk(SCRATCH_SERIAL, "ext4", BINDS)
        return guest


def _groups() -> Cgroups | None:
    """Where machines are held to limits. None where not all of them can be: the guest is bounded by its size all the
    same, so that is no refusal.
    """
    groups = find()
    return None if groups.missing else groups
