"""One sandbox in gVisor: a bundle, a confined runsc, an attached link, a disk in memory."""

from __future__ import annotations

import platform
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio.to_thread

from agentkernel.drivers.confine import Bind, ConfinedProcess, Confinement, confined
from agentkernel.drivers.confine import reap as reap_processes
from agentkernel.drivers.contract import Artifacts, Birth, Driver, Guest, Tell, Tool
from agentkernel.drivers.gvisor import bundle, snapshot
from agentkernel.drivers.gvisor.guest import GvisorGuest
from agentkernel.drivers.gvisor.memory import check, limits, threads
from agentkernel.drivers.gvisor.turns import let_the_sentry_finish
from agentkernel.drivers.limits import Cgroups, find
from agentkernel.drivers.limits.held import Held, held
from agentkernel.drivers.link import PlainSocket
from agentkernel.drivers.vmm.coming_up import BINDS, NO_ROOT, coming_up, files_prepared
from agentkernel.drivers.vmm.trials import Trials, Verdict
from agentkernel.model.errors import AgentkernelError, Unsupported
from agentkernel.model.ids import SandboxId
from agentkernel.model.kinds import Backend, Feature, Isolation
from agentkernel.model.readiness import Capabilities, Readiness
from agentkernel.model.spec import BootSpec, ImageFacts

BOOT_DEADLINE_S = 30.0
"""From spawn to greeting; alone it takes a fifth of a second."""
STATE_BYTES = 4 << 20
"""runsc's notes on its one container, and the mount points of the prisons that it builds within ours."""
OPEN_FILES = 16384
"""The sentry holds one per open file of the host's, few; and one per thread of the sandbox's, in its platform."""
FEATURES = frozenset(
    {
        *(Feature.FILES, Feature.STDIN, Feature.USER_ROOT, Feature.DISK_LIMIT, Feature.IMAGES),
        *(Feature.SNAPSHOT, Feature.FORK),
    }
)


class GvisorDriver(Driver):
    """Sandboxes by runsc, without an engine.

    Args:
        artifacts: where runsc, root file systems and the agent come from.
        trials: whether it works here, remembered between daemons.
        allow_unlimited: run also where sandboxes cannot be held to memory, processors and processes.
    """

    backend = Backend.GVISOR
    vmm = None

    def __init__(self, artifacts: Artifacts, trials: Trials, *, allow_unlimited: bool = False) -> None:
        self._artifacts = artifacts
        self._trials = trials
        self._allow_unlimited = allow_unlimited
        paused_by_its_group = frozenset() if allow_unlimited else frozenset({Feature.PAUSE})
        self.capabilities = Capabilities(FEATURES | paused_by_its_group)

    async def image(self, name: str, tell: Tell) -> ImageFacts:
        """As the contract says: any image for this processor, from this host or a registry."""
        return await self._artifacts.pulled(name, tell)

    async def probe(self) -> Readiness:
        """Find runsc, and boot once without any image; the success is kept."""
        try:
            self._groups()
            tool = await self._artifacts.tool("runsc")
            await self._trials.verdict("gvisor", (tool.digest,), self._tried)
        except AgentkernelError as err:
            return Readiness(usable=False, reason=err.message, remedy=err.hint)
        return Readiness(usable=True, isolation=Isolation.KERNEL_PROXY, version=tool.version)

    @asynccontextmanager
    async def boot(self, spec: BootSpec, birth: Birth) -> AsyncIterator[Guest]:
        """As the contract says. The private disk, which holds /workspace and /scratch, is in the sandbox's memory."""
        if birth.disk is not None:
            raise Unsupported(
                "sandboxes in gVisor have no disk that outlives them", hint="use the microvm backend for lasting disks"
            )
        async with self._come_up(await self._artifacts.tool("runsc"), spec, birth) as guest:
            yield guest

    @asynccontextmanager
    async def restore(self, folder: Path, spec: BootSpec, birth: Birth) -> AsyncIterator[Guest]:
        """Load the sentry with all that is in it, its disk too."""
        tool = await self._artifacts.tool("runsc")
        snapshot.check_fits(folder, self._inputs(tool, spec))
        async with self._come_up(tool, spec, birth, folder) as guest:
            yield guest

    async def reap(self, sandbox: SandboxId, facts: Mapping[str, str | int]) -> None:
        """Kill the supervisor and all that runs below it, and remove its group; folder and row are the engine's."""
        await reap_processes(sandbox, facts)
        await anyio.to_thread.run_sync(find().reap, sandbox)

    def _groups(self) -> Cgroups | None:
        """Where sandboxes are held to their limits; None where they are not, as the user wants it. Raises Unsupported
        where they cannot be, and nobody wants that.
        """
        if self._allow_unlimited:
            return None
        groups = find()
        check(groups)
        return groups

    async def _tried(self) -> Verdict:
        """The smallest sandbox, until its agent has answered. Raises what kept it from that."""
        spec = BootSpec(Backend.GVISOR, "base", image=NO_ROOT, memory_mib=128, disk_mib=0)
        with self._trials.birth() as birth:
            async with self.boot(spec, birth) as guest:
                await guest.ping()
        return {}

    @asynccontextmanager
    async def _come_up(
        self, tool: Tool, spec: BootSpec, birth: Birth, saved: Path | None = None
    ) -> AsyncIterator[GvisorGuest]:
        """A sandbox of its own, or one that goes on from saved files."""
        async with AsyncExitStack() as stack:
            within = await stack.enter_async_context(held(self._groups(), birth.id, limits(spec)))
            process, stream = await self._started(tool, spec, birth, within, stack, saved=saved)
            with coming_up(process, BOOT_DEADLINE_S, "sandbox"):
                guest = await stack.enter_async_context(GvisorGuest.attach(stream, birth.identity, pids=spec.pids))
                guest.live_in(within.group, process.pid, lambda: self._inputs(tool, spec))
                await anyio.to_thread.run_sync(let_the_sentry_finish, process.pid)
                if spec.disk_mib and saved is None:
                    await guest.mount_disk(bundle.DISK_SERIAL, "tmpfs", BINDS)
            yield guest

    def _inputs(self, tool: Tool, spec: BootSpec) -> dict[str, object]:
        return snapshot.inputs(tool, spec, self._artifacts.agent(platform.machine()))

    async def _started(
        self, tool: Tool, spec: BootSpec, birth: Birth, within: Held, stack: AsyncExitStack, *, saved: Path | None
    ) -> tuple[ConfinedProcess, PlainSocket]:
        """The confined runsc and our end of its standard streams; both end with `stack`."""
        image = None if spec.image == NO_ROOT else await self._artifacts.root(spec.image)
        agent = self._artifacts.agent(platform.machine())
        ours, theirs = socket.socketpair()
        stream = PlainSocket(ours)
        stack.push_async_callback(stream.aclose)
        with theirs:
            confinement = Confinement(
                argv=bundle.command(tool.path, restores=saved is not None),
                tree=tool.root,
                binds=(
                    *_made(birth.directory, spec, image),
                    Bind(agent, bundle.AGENT),
                    *(snapshot.binds(saved) if saved else ()),
                ),
                pass_fds=(theirs.fileno(),),
                stdio_fd=theirs.fileno(),
                nesting=True,
                remove=birth.directory,
                covers=((bundle.MEMINFO, "/proc/meminfo"),),
                group_fds=within.fds,
                threads=threads(spec),
                open_files=OPEN_FILES,
                tmp_bytes=STATE_BYTES,
            )
            process = await stack.enter_async_context(confined(confinement, birth))
        return process, stream


def _made(directory: Path, spec: BootSpec, image: Path | None) -> Iterator[Bind]:
    """The bundle, and what it names. The confined reader is another user: it sees the bundle in its prison, and nobody
    else passes the sandbox's folder.
    """
    place = directory / "bundle"
    with files_prepared(directory, "sandbox"):
        inside = place / bundle.ROOT_FOLDER / bundle.INSIDE.lstrip("/")
        for folder in (place, inside.parent, inside):
            folder.mkdir()
            folder.chmod(0o755)
        (inside / "agent").touch(0o444)  # where the agent goes without an image: the prison is read-only to runsc
        for name, content in (
            ("config.json", bundle.config(spec, holds_image=image is not None)),
            ("meminfo", bundle.meminfo(spec)),
        ):
            (place / name).write_bytes(content)
            (place / name).chmod(0o644)
    yield Bind(place, bundle.BUNDLE)
    if image is not None:
        yield Bind(image, bundle.IMAGE)
