"""One microVM: a jail, a Firecracker in it, orders through its API, an attached link, a mounted disk."""

from __future__ import annotations

import os
import platform
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from agentkernel.drivers.confine import ConfinedProcess, Confinement, confined
from agentkernel.drivers.confine import reap as reap_processes
from agentkernel.drivers.confine.reap import boot_id
from agentkernel.drivers.contract import Artifacts, Birth, Driver, Guest, Kernel, Prepare, Tell
from agentkernel.drivers.firecracker import machine
from agentkernel.drivers.firecracker.api import SNAPSHOT_DEADLINE_S, Api, NotListening, connected
from agentkernel.drivers.firecracker.binary import Binaries, examine, find, jailer_beside
from agentkernel.drivers.firecracker.guest import FirecrackerGuest
from agentkernel.drivers.firecracker.jail import Jail, jailed, remove_cgroups, this_hosts_cgroups
from agentkernel.drivers.firecracker.machine import Request
from agentkernel.drivers.firecracker.vsock import connect
from agentkernel.drivers.link import PlainSocket
from agentkernel.drivers.vmm.coming_up import BINDS, NO_ROOT, SETTLE_S, coming_up, files_prepared
from agentkernel.drivers.vmm.files import keep_alone, keep_disk, opened
from agentkernel.drivers.vmm.hardware import hardware_hint
from agentkernel.drivers.vmm.made_for import inputs_of, require_match, write_key
from agentkernel.drivers.vmm.trials import Trials, Verdict
from agentkernel.model.errors import AgentkernelError, Broken, Unsupported
from agentkernel.model.ids import SandboxId
from agentkernel.model.kinds import Backend, Feature, Isolation, Vmm
from agentkernel.model.readiness import Capabilities, Readiness
from agentkernel.model.spec import BootSpec, ImageFacts

BOOT_DEADLINE_S = 30.0
"""From spawn to greeting of a boot as of a clone; hardware needs a second for the one and a tenth for the other."""
KNOCK_S = 0.01
"""Firecracker tells nobody when its sockets listen: they are tried this often, unless it ends first."""
LINK_TRIES = 3
"""A reset that comes late costs one; more are something else."""
RETRY_S = 3600.0
"""How long a verdict against Firecracker is kept."""
FORMAT = 1
"""Of a template's files, devices and kernel arguments: raised whenever those change."""
FALLBACK = "[microvm] vmm = qemu works without"


@dataclass(frozen=True, slots=True)
class Place:
    """Where things are on this host.

    Attributes:
        configured: `[microvm] firecracker`, or empty.
        environ: where FIRECRACKER_BIN and PATH are read.
        data: our own data folder, for what `setup` copied there.
        hardware: why KVM cannot work, without trying; empty when it may.
    """

    configured: str
    environ: Mapping[str, str]
    data: Path | None
    hardware: Callable[[], str] = field(default=hardware_hint)


class FirecrackerDriver(Driver):
    """MicroVMs by Firecracker, under its jailer.

    Args:
        artifacts: where kernel, root file systems and blank disks come from.
        place: where Firecracker may be.
        trials: whether it works here, remembered between daemons.
    """

    backend = Backend.MICROVM
    vmm = Vmm.FIRECRACKER
    capabilities = Capabilities(
        frozenset(
            {
                *(Feature.FILES, Feature.STDIN, Feature.USER_ROOT, Feature.DISK_LIMIT, Feature.IMAGES),
                *(Feature.TEMPLATE, Feature.PAUSE),
            }
        )
    )

    def __init__(self, artifacts: Artifacts, place: Place, trials: Trials) -> None:
        self._artifacts = artifacts
        self._place = place
        self._trials = trials
        self._known: tuple[tuple[object, ...], Binaries] | None = None

    async def probe(self) -> Readiness:
        """What is missing, all of it at once, within two seconds; where nothing is, a machine is booted and the verdict
        kept.
        """
        objections = [text for text in (_wrong_host() or self._place.hardware(),) if text]
        remedies = ["use a host with working KVM, or [microvm] vmm = qemu"] if objections else []
        try:
            binaries = await self._binaries()
        except Unsupported as err:
            objections.append(err.message)
            remedies.append(err.hint)
        if os.geteuid() != 0:
            objections.append("Firecracker's jailer needs root")
            remedies.append(f"run the daemon as root; {FALLBACK}")
        if objections:
            return Readiness(
                usable=False, vmm=Vmm.FIRECRACKER, reason="; ".join(objections), remedy="; ".join(remedies)
            )
        try:
            await self._prove(binaries)
        except AgentkernelError as err:
            return Readiness(
                usable=False, vmm=Vmm.FIRECRACKER, version=binaries.version, reason=err.message, remedy=err.hint
            )
        limits = this_hosts_cgroups()
        unlimited = "" if limits.version else "no cgroup holds Firecracker itself to memory and processes here"
        return Readiness(
            usable=True,
            isolation=Isolation.VM,
            vmm=Vmm.FIRECRACKER,
            version=binaries.version,
            reason=unlimited,
        )

    @asynccontextmanager
    async def boot(self, spec: BootSpec, birth: Birth) -> AsyncIterator[Guest]:
        """As the contract says. The private disk holds /workspace and /scratch."""
        binaries = await self._binaries()
        async with self._booted(binaries, spec, birth) as (_, guest, _):
            yield guest

    async def image(self, name: str, tell: Tell) -> ImageFacts:
        """As the contract says: any image for this processor, from this host or a registry."""
        return await self._artifacts.pulled(name, tell)

    async def template(self, spec: BootSpec, birth: Birth, prepare: Prepare) -> Path:
        """Boot, prepare, fall silent, pause, have memory and devices written, take both out of the jail."""
        binaries, kernel = await self._binaries(), await self._artifacts.kernel()
        inputs = template_inputs(binaries, kernel, spec)

        async def record(folder: Path) -> None:
            async with self._booted(binaries, spec, birth, mount=False) as (jail, guest, api):
                await prepare(guest)
                await anyio.sleep(SETTLE_S)
                await guest.quiesce()
                await guest.pause()
                await api.ask(machine.CREATE_SNAPSHOT, deadline_s=SNAPSHOT_DEADLINE_S)
                with files_prepared(folder):
                    for name in (machine.STATE, machine.MEMORY):
                        await anyio.to_thread.run_sync(jail.take, name, folder / name)
            write_key(folder, inputs)

        return await self._artifacts.template(inputs, record)

    @asynccontextmanager
    async def clone(self, template: Path, spec: BootSpec, birth: Birth) -> AsyncIterator[Guest]:
        """Map the template's memory privately, load its devices' state, attach as to a new machine."""
        binaries = await self._binaries()
        require_match(template, template_inputs(binaries, await self._artifacts.kernel(), spec))
        async with AsyncExitStack() as stack:
            wanted = {name: template / name for name in (machine.STATE, machine.MEMORY)}
            jail = await self._jail(binaries, spec, birth, stack, wanted)
            _, guest, _ = await self._up(jail, spec, birth, stack, [machine.LOAD_SNAPSHOT])
            yield guest

    async def discard(self, template: Path) -> None:
        """Remove it; its clones have links of their own to its files."""
        await self._artifacts.discard_template(template)

    async def reap(self, sandbox: SandboxId, facts: Mapping[str, str | int]) -> None:
        """Kill the supervisor and the Firecracker of that sandbox, and remove its cgroups; folder and row are the
        engine's.
        """
        await reap_processes(sandbox, facts)
        remove_cgroups(sandbox, this_hosts_cgroups())

    async def _binaries(self) -> Binaries:
        """Found, examined; again only where the files are others."""
        place = self._place
        found = find(place.configured, place.environ, place.data)
        facts = [path.stat() for path in (found, jailer_beside(found))]
        stamp = (found, *((one.st_dev, one.st_ino, one.st_mtime_ns, one.st_size) for one in facts))
        if self._known is None or self._known[0] != stamp:
            self._known = (stamp, await examine(found))
        return self._known[1]

    async def _prove(self, binaries: Binaries) -> None:
        """Boot the smallest machine, from the initramfs alone, once; the verdict is kept. Raises what kept it from
        that.
        """
        kernel = await self._artifacts.kernel()
        digests = (binaries.digest, kernel.digest)
        found = await self._trials.verdict("firecracker", digests, partial(self._tried, binaries), holds=_still_holds)
        if found.get("reason"):
            raise Unsupported(found["reason"], hint=found.get("remedy", ""))

    async def _tried(self, binaries: Binaries) -> Verdict:
        spec = BootSpec(Backend.MICROVM, "base", NO_ROOT, vmm=Vmm.FIRECRACKER, memory_mib=256, disk_mib=0)
        try:
            with self._trials.birth() as birth:
                async with self._booted(binaries, spec, birth) as (_, guest, _):
                    await guest.ping()
        except AgentkernelError as err:
            return {"reason": f"a machine was tried and failed: {err.message}", "remedy": err.hint or FALLBACK}
        return {"reason": ""}

    @asynccontextmanager
    async def _booted(
        self, binaries: Binaries, spec: BootSpec, birth: Birth, *, mount: bool = True
    ) -> AsyncIterator[tuple[Jail, FirecrackerGuest, Api]]:
        kernel = await self._artifacts.kernel()
        orders = machine.boot(spec, root=spec.image != NO_ROOT)
        async with AsyncExitStack() as stack:
            wanted = {machine.KERNEL: kernel.image, machine.INITRAMFS: kernel.initramfs}
            jail = await self._jail(binaries, spec, birth, stack, wanted)
            yield await self._up(jail, spec, birth, stack, orders, mount=mount)

    async def _jail(
        self, binaries: Binaries, spec: BootSpec, birth: Birth, stack: AsyncExitStack, wanted: Mapping[str, Path]
    ) -> Jail:
        """A jail with all that a machine is made of; gone with `stack`, after what runs in it."""
        root = None if spec.image == NO_ROOT else await self._artifacts.root(spec.image)
        blank = await self._artifacts.blank_disk(spec.disk_mib) if spec.disk_mib else None
        with files_prepared(birth.directory):
            jail = stack.enter_context(jailed(birth.directory, birth.id, binaries, this_hosts_cgroups()))
            for name, source in {**wanted, **({} if root is None else {machine.ROOT: root})}.items():
                await anyio.to_thread.run_sync(jail.link, source, name)
            if blank is not None and birth.disk is None:
                await anyio.to_thread.run_sync(jail.copy, blank, machine.SCRATCH)
            elif blank is not None and birth.disk is not None:
                await anyio.to_thread.run_sync(keep_disk, blank, birth.disk)
                keep_alone(opened(birth.disk, os.O_RDWR, stack.enter_context(ExitStack())))
                jail.lend(birth.disk, machine.SCRATCH)
        return jail

    async def _up(
        self,
        jail: Jail,
        spec: BootSpec,
        birth: Birth,
        stack: AsyncExitStack,
        orders: Sequence[Request],
        *,
        mount: bool = True,
    ) -> tuple[Jail, FirecrackerGuest, Api]:
        """A jailed Firecracker that has carried out its orders, and its guest, greeted; all end with `stack`."""
        process = await stack.enter_async_context(_running(jail, spec, birth))
        with coming_up(process, BOOT_DEADLINE_S):
            api = await stack.enter_async_context(connected(jail.root, machine.API))
            await _answers(process, api)
            for order in orders:
                await api.ask(order)
            guest = await _greeted(process, jail, spec, birth, stack)
            guest.obey(api)
            if spec.disk_mib and mount:
                facts = (jail.root / machine.SCRATCH).stat()
                serial = machine.disk_serial(facts.st_dev, facts.st_rdev, facts.st_ino)
                await guest.mount_disk(serial, "ext4", BINDS)
        return jail, guest, api


def template_inputs(binaries: Binaries, kernel: Kernel, spec: BootSpec) -> dict[str, object]:
    """All that a clone must have in common with its template."""
    orders = machine.hardware(spec, root=spec.image != NO_ROOT)
    return {
        **inputs_of(spec, kernel),
        "format": FORMAT,
        "firecracker": [binaries.digest, binaries.version],
        "hardware": [[order.path, order.body] for order in orders],
    }


def _still_holds(verdict: Verdict, age_s: float) -> bool:
    """One against Firecracker is old after an hour: its cause may have been a full disk."""
    return not verdict.get("reason") or age_s <= RETRY_S


def _wrong_host() -> str:
    if platform.system() != "Linux":
        return f"Firecracker runs on Linux only, not on {platform.system()}"
    if platform.machine() != "x86_64":
        return f"this driver makes x86-64 machines, not {platform.machine()} ones"
    return ""


@asynccontextmanager
async def _running(jail: Jail, spec: BootSpec, birth: Birth) -> AsyncIterator[ConfinedProcess]:
    """The jailer, which becomes Firecracker. Both are gone when the block is left, and so is what their supervisor may
    have left behind when it was killed.
    """
    confinement = Confinement(
        argv=jail.arguments(spec.memory_mib, this_hosts_cgroups()),
        tree=Path("/"),
        uid=jail.uid,
        jailer=True,
        remove=birth.directory,
        threads=1 << 16,  # counted for root until the jailer has changed ids; its cgroup holds it to fewer
        open_files=1 << 11,
    )
    facts: dict[str, str | int] = {}
    try:
        async with confined(confinement, birth) as process:
            facts = {"boot_id": boot_id(), "pid": process.pid, "start_ticks": process.start_ticks}
            yield process
    finally:
        with anyio.CancelScope(shield=True):
            await reap_processes(birth.id, facts)


async def _answers(process: ConfinedProcess, api: Api) -> None:
    """Wait for Firecracker's API. Raises Broken when it ends before."""
    while True:
        try:
            await api.ask(machine.DESCRIBE)
        except NotListening:
            await _unless_ended(process)
        else:
            return


async def _greeted(
    process: ConfinedProcess, jail: Jail, spec: BootSpec, birth: Birth, stack: AsyncExitStack
) -> FirecrackerGuest:
    """A guest that answers. One that goes on from a snapshot is told to drop its connections, and the news may come
    after a new one: that one is made again.
    """
    tries = LINK_TRIES
    while True:
        stream, tries = await _linked(process, jail), tries - 1
        try:
            return await stack.enter_async_context(_attached(stream, spec, birth))
        except Broken:
            if not tries:
                raise
            await _unless_ended(process)


@asynccontextmanager
async def _attached(stream: PlainSocket, spec: BootSpec, birth: Birth) -> AsyncIterator[FirecrackerGuest]:
    try:
        async with FirecrackerGuest.attach(stream, birth.identity, pids=spec.pids) as guest:
            yield guest
    finally:
        await stream.aclose()


async def _linked(process: ConfinedProcess, jail: Jail) -> PlainSocket:
    """Wait for the guest's agent behind the vsock device."""
    while True:
        connection = await connect(jail.root, machine.LINK, machine.AGENT_PORT)
        if connection is not None:
            return PlainSocket(connection)
        await _unless_ended(process)


async def _unless_ended(process: ConfinedProcess) -> None:
    with anyio.move_on_after(KNOCK_S):
        ended = await process.wait_exited()
        raise Broken(f"Firecracker ended: {ended}")
