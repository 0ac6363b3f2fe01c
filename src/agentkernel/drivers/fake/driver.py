"""The driver: socketpairs, tasks, and faults on demand."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.lowlevel

from agentkernel.drivers.contract import Birth, Driver, Guest, Prepare, Tell
from agentkernel.drivers.fake.guest import SimulatedGuest
from agentkernel.drivers.fake.tree import Tree
from agentkernel.drivers.link import LinkGuest, PlainSocket
from agentkernel.model.errors import Broken, NotFound
from agentkernel.model.ids import SandboxId
from agentkernel.model.kinds import Backend, Feature, Isolation, Vmm
from agentkernel.model.readiness import Capabilities, Identity, Readiness
from agentkernel.model.spec import BootSpec, ImageFacts

DECLARED = frozenset({Feature.FILES, Feature.STDIN, Feature.USER_ROOT, Feature.PAUSE, Feature.SNAPSHOT, Feature.FORK})

STATE = "state"


class FakeGuest(LinkGuest):
    """`Guest` over the guest link; its driver is asked to do the rest."""

    inside: SimulatedGuest
    save_error = ""

    async def pause(self) -> None:
        self._session.check()
        await anyio.lowlevel.checkpoint()
        self.inside.pause()
        await anyio.lowlevel.checkpoint()

    async def unpause(self) -> None:
        self._session.check()
        await anyio.lowlevel.checkpoint()
        self.inside.unpause()
        await anyio.lowlevel.checkpoint()

    async def save(self, folder: Path) -> None:
        await self.quiesce()
        try:
            if self.save_error:
                raise Broken(self.save_error)
            (folder / STATE).write_bytes(self.inside.tree.dump())
        finally:
            self.resume()


@dataclass
class Faults:
    """What goes wrong; change it at any time.

    Attributes:
        boot_error: when not empty, every boot raises Broken with it.
        boots_left: how many boots succeed before `boot_error` is raised; only with a `boot_error`.
        boot_hangs: a boot waits until it is cancelled.
        save_error: when not empty, every save raises Broken with it.
        unusable: when not empty, `probe` says so.
        refused: guest features that new guests refuse.
        template_error: when not empty, no template can be made: Broken with it.
        template_hangs: making one waits until it is cancelled.
        clone_error: when not None, clones raise it.
        clones_left: how many clones succeed before `clone_error` is raised.
        clone_faults: how many times it is raised; None for ever.
        probe_hangs: a probe waits until it is cancelled.
        reap_hangs: reaping waits until it is cancelled.
        image_hangs: finding an image waits until it is cancelled.
    """

    boot_error: str = ""
    boots_left: int = 0
    boot_hangs: bool = False
    save_error: str = ""
    unusable: str = ""
    refused: frozenset[str] = frozenset()
    template_error: str = ""
    template_hangs: bool = False
    clone_error: Exception | None = None
    clones_left: int = 0
    clone_faults: int | None = None
    probe_hangs: bool = False
    reap_hangs: bool = False
    image_hangs: bool = False


@dataclass
class FakeDriver(Driver):
    """See the package. `backend` and `vmm` are whatever a test needs them to be.

    Attributes:
        alive: the guests that run now.
        reaped: what `reap` was called with, in order.
        templates: those that are there; declare `Feature.TEMPLATE` to be asked for any.
        images: by name; declare `Feature.IMAGES` to be asked for any.
        isolation: what its sandboxes are said to have.
        probed, pulled, booted, made, cloned, discarded: how often each was done.
    """

    backend: Backend = Backend.MICROVM
    vmm: Vmm | None = None
    faults: Faults = field(default_factory=Faults)
    capabilities: Capabilities = field(default_factory=lambda: Capabilities(DECLARED))
    alive: dict[SandboxId, SimulatedGuest] = field(default_factory=dict)
    reaped: list[tuple[SandboxId, dict[str, str | int]]] = field(default_factory=list)
    templates: dict[Path, BootSpec] = field(default_factory=dict)
    images: dict[str, ImageFacts] = field(default_factory=dict)
    isolation: Isolation = Isolation.CONTAINER
    probed: int = 0
    pulled: int = 0
    booted: int = 0
    made: int = 0
    cloned: int = 0
    discarded: int = 0

    async def probe(self) -> Readiness:
        self.probed += 1
        if self.faults.probe_hangs:
            await anyio.sleep_forever()
        if self.faults.unusable:
            return Readiness(usable=False, reason=self.faults.unusable, remedy="mend the test")
        return Readiness(usable=True, isolation=self.isolation, vmm=self.vmm, version="1")

    async def image(self, name: str, tell: Tell) -> ImageFacts:
        self.pulled += 1
        await tell(f"image {name}: pull")
        if self.faults.image_hangs:
            await anyio.sleep_forever()
        if name not in self.images:
            raise NotFound(f"nobody has the image {name}", hint="mend the test")
        return self.images[name]

    @asynccontextmanager
    async def boot(self, spec: BootSpec, birth: Birth) -> AsyncIterator[Guest]:
        await birth.record(fake=birth.id)
        await self._fail_as_told()
        self.booted += 1
        async with self._simulated(spec, birth) as guest:
            yield guest

    @asynccontextmanager
    async def restore(self, folder: Path, spec: BootSpec, birth: Birth) -> AsyncIterator[Guest]:
        await birth.record(fake=birth.id)
        await self._fail_as_told()
        async with self._simulated(spec, birth, Tree.load((folder / STATE).read_bytes())) as guest:
            yield guest

    @asynccontextmanager
    async def _simulated(self, spec: BootSpec, birth: Birth, tree: Tree | None = None) -> AsyncIterator[Guest]:
        ours, theirs = socket.socketpair()
        async with (
            PlainSocket(ours) as stream,
            PlainSocket(theirs) as far_stream,
            anyio.create_task_group() as tasks,
        ):
            guest = self.alive[birth.id] = SimulatedGuest(far_stream, refused=self.faults.refused)
            guest.tree = tree or guest.tree
            tasks.start_soon(guest.run)
            failure: Exception | None = None
            try:
                identity = Identity(f"sandbox-{birth.id[:8]}", bytes.fromhex(birth.id).ljust(16, b"\0")[:16])
                async with FakeGuest.attach(stream, identity, pids=spec.pids) as attached:
                    attached.inside, attached.save_error = guest, self.faults.save_error
                    yield attached
            except Exception as error:  # raised again below, where the task group does not wrap it
                failure = error
            finally:
                del self.alive[birth.id]
                tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def template(self, spec: BootSpec, birth: Birth, prepare: Prepare) -> Path:
        await birth.record(fake=birth.id)
        if self.faults.template_hangs:
            await anyio.sleep_forever()
        if self.faults.template_error:
            raise Broken(self.faults.template_error)
        async with self._simulated(spec, birth) as guest:
            await prepare(guest)
        self.made += 1
        folder = Path(f"/nowhere/{spec.runtime}")
        self.templates[folder] = spec
        return folder

    @asynccontextmanager
    async def clone(self, template: Path, spec: BootSpec, birth: Birth) -> AsyncIterator[Guest]:
        await birth.record(fake=birth.id)
        if self.templates.get(template) != spec:
            raise Broken("the template is gone")
        self._fail_clone_as_told()
        self.cloned += 1
        async with self._simulated(spec, birth) as guest:
            yield guest

    def _fail_clone_as_told(self) -> None:
        faults = self.faults
        if faults.clone_error is None or faults.clone_faults == 0:
            return
        if faults.clones_left:
            faults.clones_left -= 1
            return
        if faults.clone_faults is not None:
            faults.clone_faults -= 1
        raise faults.clone_error

    async def discard(self, template: Path) -> None:
        self.discarded += 1
        self.templates.pop(template, None)

    async def _fail_as_told(self) -> None:
        if self.faults.boot_hangs:
            await anyio.sleep_forever()
        if self.faults.boot_error:
            if self.faults.boots_left == 0:
                raise Broken(self.faults.boot_error)
            self.faults.boots_left -= 1

    async def reap(self, sandbox: SandboxId, facts: Mapping[str, str | int]) -> None:
        self.reaped.append((sandbox, dict(facts)))
        if self.faults.reap_hangs:
            await anyio.sleep_forever()
        self.kill(sandbox)

    def kill(self, sandbox: SandboxId) -> None:
        """Let a sandbox die as by a lost process: its stream ends. Nothing happens when it does not run."""
        if sandbox in self.alive:
            self.alive[sandbox].die()
