"""The one door to this room: resolve a runtime, get what drivers boot from, list, verify, remove."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread

from agentkernel.images import components, disks, gvisor, kernel, namespace, rootfs, tools
from agentkernel.images.components import Component
from agentkernel.images.kernel import GuestKernel
from agentkernel.images.keys import GVISOR, KERNEL, TOOLS, Keys
from agentkernel.images.manifest import disk_bytes
from agentkernel.images.oci.library import Library
from agentkernel.images.oci.relay import Tell, relayed
from agentkernel.images.packages import PrivateApt
from agentkernel.images.progress import Progress, silent
from agentkernel.images.recipe import Cookbook, digest_of
from agentkernel.images.rootfs import RootBuild, Workshop
from agentkernel.images.shelf import KINDS, Artefact, Recorded, Shelf
from agentkernel.images.tools import HostTool
from agentkernel.model.errors import NotFound, Refused, Unsupported
from agentkernel.model.ids import Digest
from agentkernel.model.spec import ImageFacts

TEMPLATES_CAP_BYTES = 4 << 30
"""On the disk, holes not counted; a template of `base` takes about 100 MB."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """A recipe and whether its image is there. `size_bytes` and `created` are 0 and empty when it is not."""

    name: str
    description: str
    digest: Digest
    built: bool
    size_bytes: int
    created: str


@dataclass(frozen=True, slots=True)
class Fault:
    """An artefact that does not hold what it should."""

    kind: str
    digest: str
    files: tuple[str, ...]


def data_folder(environ: Mapping[str, str]) -> Path:
    """AGENTKERNEL_DATA, or `agentkernel` in the user's data folder (XDG base directory specification)."""
    if moved := environ.get("AGENTKERNEL_DATA"):
        return Path(moved).absolute()
    base = environ.get("XDG_DATA_HOME") or ""
    return (Path(base) if base.startswith("/") else Path.home() / ".local/share") / "agentkernel"


def state_folder(environ: Mapping[str, str]) -> Path:
    """AGENTKERNEL_HOME, `~/.agentkernel`, or a folder in XDG_RUNTIME_DIR: where the daemon keeps its state."""
    if moved := environ.get("AGENTKERNEL_HOME"):
        return Path(moved).absolute()
    if not environ.get("HOME") and environ.get("XDG_RUNTIME_DIR"):
        return Path(environ["XDG_RUNTIME_DIR"]) / "agentkernel"
    return Path.home() / ".agentkernel"


class Store:
    """All artefacts of one user. Implements the drivers' `Artifacts`.

    Args:
        environ: where AGENTKERNEL_DATA, AGENTKERNEL_HOME, AGENTKERNEL_MIRROR and AGENTKERNEL_KERNEL (`backports`,
        `stable`) are read.
        progress: told of builds that a method starts which takes no `progress` itself.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ, progress: Progress = silent) -> None:
        self._progress = progress
        self.data = data_folder(environ)
        self.state = state_folder(environ)
        self._shelf = Shelf(self.data, remover=namespace.remove)
        self._cookbook = Cookbook(self.state / "recipes")
        self._keys = Keys(environ, self._shelf, self._cookbook)
        self.library = Library(self._shelf, environ, self.state, self._command)

    # --- runtimes ---

    def resolve(self, runtime: str) -> Digest:
        """The digest of a runtime's image, built or not; a few file reads at most.

        Raises:
            NotFound: no such runtime; the hint lists the known ones.
            Refused: its recipe is malformed, or the data folder cannot be written.
        """
        return self._keys.runtime(runtime)

    def warm_up(self, runtime: str) -> tuple[tuple[str, ...], ...]:
        """Commands that a template of this runtime runs once before it is frozen."""
        return self._cookbook.lineage(runtime)[-1].warm_up

    def runtimes(self) -> list[Runtime]:
        """All known runtimes by name."""
        return [self._runtime(name) for name in self._cookbook.names()]

    def _runtime(self, name: str) -> Runtime:
        digest = self.resolve(name)
        image = self._shelf.find("images", digest)
        size, created = (image.manifest.size_bytes, image.manifest.created) if image else (0, "")
        return Runtime(name, self._cookbook.lineage(name)[-1].description, digest, image is not None, size, created)

    def is_built(self, runtime: str) -> bool:
        """Whether the image that `resolve` names is there."""
        return self._shelf.find("images", self.resolve(runtime)) is not None

    async def ensure(self, runtime: str, progress: Progress | None = None) -> Digest:
        """The digest of a runtime's image, which is built first when it is missing. Callers at the same time share
        one build.

        Raises:
            NotFound, Refused: as `resolve`.
            Busy: no room, or no network; later it may work.
            Unsupported: this host or user cannot build images; the hint says what is missing.
        """
        return (await self._image(runtime, progress or self._progress)).digest

    async def _image(self, runtime: str, progress: Progress) -> Artefact:
        digest = self.resolve(runtime)
        if image := self._shelf.find("images", digest):
            return image
        namespace.entry()  # said before anything is fetched: whether this user can build images at all
        recipe = self._cookbook.lineage(runtime)[-1]
        parent = await self._image(recipe.parent, progress) if recipe.parent else None
        tree = await self._tool_tree(progress)
        machine = tools.this_machine()
        programs = {name: (await self._tool(tree, name, machine)).command for name in ("mkfs.erofs", "fsck.erofs")}
        shop = Workshop(self._apt(), self._archive, programs.__getitem__)

        async def build(folder: Path) -> Recorded:
            recorded = await RootBuild(shop, folder, recipe, parent, digest, progress).run()
            recorded.inputs = recipe.digest_inputs()
            return recorded

        return await self._shelf.make("images", digest, build)

    # --- what drivers ask for ---

    async def root(self, image: Digest) -> Path:
        """Read-only root file system image of that digest; built when it is the current one of a runtime and not
        there yet.

        Raises:
            NotFound: no such image (any more): resolve the runtime again.
        """
        if found := self._shelf.find("images", image):
            return found.file(rootfs.IMAGE)
        if name := self._keys.runtimes().get(image):
            return (await self._image(name, self._progress)).file(rootfs.IMAGE)
        raise NotFound(
            f"there is no image {image[:12]}",
            hint="it was removed or its recipe changed; ask for the runtime by name again",
        )

    @asynccontextmanager
    async def archive(self, image: Digest) -> AsyncIterator[AsyncIterator[bytes]]:
        """That root file system as a tar stream, with its owners and modes; built when it is not there, as `root`."""
        path = await self.root(image)
        fsck = (await self.tool("fsck.erofs")).command
        async with rootfs.as_tar(path, fsck) as stream:
            yield stream

    async def pulled(self, name: str, tell: Tell) -> ImageFacts:
        """An image by name, found or fetched, for `root`; see `Library.pulled`."""
        async with relayed(tell) as progress:
            return await self.library.pulled(name, progress)

    def agent(self, machine: str) -> Path:
        """The static guest agent for an architecture. Raises Unsupported where it is not built."""
        return kernel.agent_binary(machine)

    async def tool(self, name: str, progress: Progress | None = None) -> HostTool:
        """A host program: `qemu`, `mkfs.erofs`, `fsck.erofs`, `mke2fs`, `debugfs`, `lz4`, `zstd`,
        and `runsc`, which is in a tree of its own.

        Raises:
            Unsupported: it cannot be had; the hint says what to install.
        """
        if name == gvisor.PROGRAM:
            return await self._runsc(progress or self._progress)
        return await self._tool(await self._tool_tree(progress or self._progress), name, tools.this_machine())

    async def _command(self, name: str) -> Sequence[str]:
        return (await self.tool(name)).command

    async def _runsc(self, progress: Progress) -> HostTool:
        if not self._keys.has_archive():
            return await gvisor.from_system()
        digest = self._keys.gvisor()
        if tree := self._shelf.find("tools", digest):
            return gvisor.from_tree(tree)

        async def build(folder: Path) -> Recorded:
            apt = self._apt()
            async with self._archive():
                await apt.update(progress, "gvisor")
                closure = await apt.closure([gvisor.PACKAGE], newest=True)
                debs = await apt.fetch(closure, progress, "gvisor")
                progress("gvisor", "unpack")
                return await gvisor.build_tree(folder, debs, closure)

        return gvisor.from_tree(await self._shelf.make("tools", digest, build))

    @staticmethod
    async def _tool(tree: Artefact | None, name: str, machine: tools.Machine) -> HostTool:
        return tools.from_tree(tree, name, machine) if tree else await tools.from_system(name, machine)

    async def _tool_tree(self, progress: Progress) -> Artefact | None:
        """The private tree; None where there is no apt to make one and the system's programs are used."""
        if not self._keys.has_archive():
            return None
        machine, digest = tools.this_machine(), self._keys.tools()
        if tree := self._shelf.find("tools", digest):
            return tree

        async def build(folder: Path) -> Recorded:
            apt = self._apt()
            async with self._archive():
                await apt.update(progress, "tools")
                progress("tools", "choose packages")
                closure = await apt.closure(tools.packages(machine), newest=True)
                debs = await apt.fetch(closure, progress, "tools")
                progress("tools", "unpack")
                return await tools.build_tree(folder, debs, closure, machine)

        return await self._shelf.make("tools", digest, build)

    async def kernel(self, progress: Progress | None = None) -> GuestKernel:
        """The guest kernel and the initramfs that carries the agent.

        Raises:
            Unsupported: the agent is not built, or there is no archive to take a kernel from.
        """
        agent = kernel.agent_binary(tools.this_machine().name)
        base = await self._kernel(progress or self._progress)

        async def build(folder: Path) -> Recorded:
            return await kernel.build_initramfs(folder, base, agent)

        archive = await self._shelf.make("initramfs", self._keys.initramfs(), build)
        release = base.manifest.facts["release"]
        return GuestKernel(base.file(kernel.IMAGE), archive.file(kernel.INITRAMFS), release, archive.digest)

    async def _kernel(self, progress: Progress) -> Artefact:
        digest = self._keys.kernel()
        if found := self._shelf.find("kernels", digest):
            return found
        apt, machine, tree = self._apt(), tools.this_machine(), await self._tool_tree(progress)
        commands = {name: (await self._tool(tree, name, machine)).command for name in ("lz4", "zstd")}
        package, newest = self._keys.kernel_package(), self._keys.newest_kernel()

        async def build(folder: Path) -> Recorded:
            async with self._archive():
                await apt.update(progress, "kernel")
                progress("kernel", "choose packages")
                closure = kernel.kernel_part(await apt.closure([package], newest=newest))
                debs = await apt.fetch(closure, progress, "kernel")
                progress("kernel", "unpack")
                return await kernel.build_kernel(folder, debs, closure, commands.__getitem__)

        return await self._shelf.make("kernels", digest, build)

    async def blank_disk(self, mib: int) -> Path:
        """A sparse file holding an ext4 file system of that size with a sandbox's empty directories; copy it, never
        write to it.
        """
        if not 1 <= mib <= disks.LARGEST_MIB:
            raise Refused(f"a disk of {mib} MiB cannot be made", hint=f"between 1 and {disks.LARGEST_MIB} MiB")
        digest = digest_of({"mib": mib, "format": disks.FORMAT})
        if disk := self._shelf.find("disks", digest):
            return disk.file(disks.DISK)
        mke2fs, debugfs = await self.tool("mke2fs"), await self.tool("debugfs")

        async def build(folder: Path) -> Recorded:
            return await disks.build(folder, mib, mke2fs.command, debugfs.command)

        return (await self._shelf.make("disks", digest, build)).file(disks.DISK)

    async def component(self, language: str, progress: Progress | None = None) -> Component:
        """A language as a WebAssembly component: `python`; built when it is not there.

        Raises:
            NotFound: there is none for that language. Busy: no network to fetch its builder.
        """
        digest, told = components.component_digest(language), progress or self._progress

        async def build(folder: Path) -> Recorded:
            return await components.build(folder, language, told)

        return Component((await self._shelf.make("components", digest, build)).file(components.FILE), digest)

    # --- templates ---

    async def template(self, inputs: Mapping[str, object], record: Callable[[Path], Awaitable[None]]) -> Path:
        """The folder of the template with these inputs, made by `record` when it is missing or damaged.

        Those that were not used for longest go when all of them take more than `TEMPLATES_CAP_BYTES`.
        """
        digest = digest_of(dict(inputs))

        async def build(folder: Path) -> Recorded:
            await record(folder)
            return Recorded(files=sorted(path.name for path in folder.iterdir()), inputs=inputs)

        template = await self._shelf.make("templates", digest, build)
        os.utime(template.folder)
        await self._evict_templates(keep=template.folder)
        return template.folder

    async def discard_template(self, folder: Path) -> None:
        """Remove a template; what maps its memory keeps it."""
        await self._shelf.remove("templates", folder.name)

    async def _evict_templates(self, keep: Path) -> None:
        folders = [template.folder for template in self._shelf.all("templates") if template.folder != keep]
        folders.sort(key=lambda folder: folder.stat().st_mtime, reverse=True)
        taken = disk_bytes(keep)
        for folder in folders:
            taken += disk_bytes(folder)
            if taken > TEMPLATES_CAP_BYTES:
                await self._shelf.remove("templates", folder.name)

    # --- the package archive ---

    def _apt(self) -> PrivateApt:
        return PrivateApt(self.data / "apt", self._keys.sources(), self._keys.distribution())

    @asynccontextmanager
    async def _archive(self) -> AsyncIterator[None]:
        """One user of the private apt at a time."""
        async with self._shelf.lock("apt"):
            yield

    # --- housekeeping ---

    async def verify(self, progress: Progress | None = None) -> list[Fault]:
        """Read everything and compare; what is damaged is removed, so that the next use builds it anew."""
        faults: list[Fault] = []
        for kind in KINDS:
            for artefact in self._shelf.all(kind):
                (progress or self._progress)("verify", f"{kind} {artefact.digest[:12]}")
                if files := await anyio.to_thread.run_sync(self._shelf.verify, artefact):
                    faults.append(Fault(kind, artefact.digest, tuple(files)))
                    await self._give_up(kind, artefact)
        return faults

    async def remove(self, runtime: str) -> int:
        """Remove a runtime's image; returns the bytes that this frees. The next build of it has another digest.

        Raises:
            NotFound: no such runtime, or it is not built.
        """
        image = self._shelf.find("images", self.resolve(runtime))
        if image is None:
            raise NotFound(f"the image of {runtime} is not built", hint="agentkernel images list shows what is")
        return await self._give_up("images", image)

    def refresh(self, runtime: str) -> None:
        """Make the next `ensure` build the runtime anew, from new package lists. What runs keeps the present image."""
        self._keys.forget(*(recipe.name for recipe in self._cookbook.lineage(runtime)))

    def refresh_tools(self) -> None:
        """Make the next use of tools and kernel fetch them anew."""
        self._keys.forget(TOOLS, KERNEL, GVISOR)

    async def _give_up(self, kind: str, artefact: Artefact) -> int:
        """Remove it, and see to it that what is built next is called something else."""
        name = {"tools": TOOLS, "kernels": KERNEL}.get(kind) or artefact.manifest.facts.get("runtime", "")
        if name:
            self._keys.forget(name)
        return await self._shelf.remove(kind, artefact.digest)

    async def prune(self) -> int:
        """Remove what nothing refers to any more: older images, kernels, trees; downloaded packages. Returns the
        bytes freed."""
        freed = 0
        current = self._in_use()
        for kind in KINDS:
            for name in _names(self.data / kind):
                if name not in current[kind]:
                    freed += await self._shelf.remove(kind, name)
            freed += await self._shelf.clear_abandoned(kind)
        return freed + await self._prune_packages()

    def _in_use(self) -> dict[str, set[str]]:
        """What the next use of each kind will ask for."""
        current: dict[str, set[str]] = {kind: set() for kind in KINDS}
        current["images"] |= self._keys.runtimes().keys() | self.library.in_use()
        current["components"] |= {components.component_digest(language) for language in components.LANGUAGES}
        # Where there is no archive or no agent, there is none of these.
        for kind, name in (
            ("tools", self._keys.tools),
            ("tools", self._keys.gvisor),
            ("kernels", self._keys.kernel),
            ("initramfs", self._keys.initramfs),
        ):
            with contextlib.suppress(Unsupported):
                current[kind].add(name())
        return current

    async def _prune_packages(self) -> int:
        if not (self.data / "apt").is_dir():
            return 0
        async with self._archive():
            size = disk_bytes(self.data / "apt")
            await namespace.remove(self.data / "apt")
        return size

    def usage(self) -> dict[str, int]:
        """Bytes on the disk by part of the data folder."""
        if not self.data.is_dir():
            return {}
        return {path.name: disk_bytes(path) for path in sorted(self.data.iterdir())}


def _names(folder: Path) -> Sequence[str]:
    return [path.name for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []
