"""The one door to this room: resolve a runtime, get what drivers boot from, list, verify, remove."""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread

from agentkernel.images import disks, kernel, modules, namespace, rootfs, tools
from agentkernel.images.kernel import GuestKernel
from agentkernel.images.manifest import FileFacts, disk_bytes
from agentkernel.images.packages import PrivateApt
from agentkernel.images.progress import Progress, silent
from agentkernel.images.recipe import Cookbook, digest_of
from agentkernel.images.rootfs import RootBuild, Workshop
from agentkernel.images.shelf import KINDS, Artefact, Recorded, Shelf
from agentkernel.images.sources import FALLBACK, Source, choose, distribution_of, read_host
from agentkernel.images.tools import HostTool
from agentkernel.images.trouble import explained
from agentkernel.model.errors import NotFound, Refused
from agentkernel.model.ids import Digest

_TOOLS = "_tools"
_KERNEL = "_kernel"
"""Names of generations beside the runtimes'; no runtime can be called so."""


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
    """AGENTKERNEL_HOME, or `~/.agentkernel`."""
    return Path(environ.get("AGENTKERNEL_HOME") or Path.home() / ".agentkernel").absolute()


class Store:
    """All artefacts of one user. Implements the drivers' `Artifacts`.

    Args:
        environ: where AGENTKERNEL_DATA, AGENTKERNEL_HOME, AGENTKERNEL_MIRROR and AGENTKERNEL_KERNEL (`backports`,
        `stable`) are read.
        progress: told of builds that a method starts which takes no `progress` itself.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ, progress: Progress = silent) -> None:
        self._environ = environ
        self._progress = progress
        self.data = data_folder(environ)
        self.state = state_folder(environ)
        self._shelf = Shelf(self.data, remover=namespace.remove)
        self._cookbook = Cookbook(self.state / "recipes")
        self._sources: tuple[Source, ...] | None = None
        self._agent: tuple[tuple[int, int], str] | None = None

    # --- runtimes ---

    def resolve(self, runtime: str) -> Digest:
        """The digest of a runtime's image, built or not; a few file reads at most.

        Raises:
            NotFound: no such runtime; the hint lists the known ones.
            Refused: its recipe is malformed, or the data folder cannot be written.
        """
        lineage = self._cookbook.lineage(runtime)
        inputs = {
            "lineage": [recipe.digest_inputs() for recipe in lineage],
            "sources": [source.line() for source in self._package_sources()],
            "machine": tools.this_machine().name,
            "format": rootfs.FORMAT,
            "script": _script_digest(),
            "generation": self._generation(runtime),
        }
        return Digest(digest_of(inputs))

    def _package_sources(self) -> tuple[Source, ...]:
        if self._sources is None:
            distribution = distribution_of(_os_release())
            self._sources = tuple(choose(read_host(), distribution, self._environ))
        return self._sources

    def _generation(self, runtime: str) -> str:
        """A token that changes whenever an image is given up.

        Packages get updates, so building the same recipe again gives other bytes; a digest must never mean two images,
        because templates keep pages of theirs in memory.
        """
        path = self.data / "generations" / runtime
        try:
            return path.read_text()
        except FileNotFoundError:
            pass
        self._shelf.prepare()
        try:
            path.parent.mkdir(exist_ok=True, mode=0o700)
            beside = path.with_name(f".{runtime}.{secrets.token_hex(4)}")
            beside.write_text(secrets.token_hex(8))
            try:
                path.hardlink_to(beside)  # fails where another process was first: then its token counts
            except FileExistsError:
                pass
            finally:
                beside.unlink()
            return path.read_text()
        except OSError as error:
            raise explained(error, doing="writing the data folder", folder=self.data) from error

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

    def _current(self) -> dict[Digest, str]:
        """What each runtime's image is called now; a malformed recipe of the user's spoils only itself."""
        found: dict[Digest, str] = {}
        for name in self._cookbook.names():
            with contextlib.suppress(Refused):
                found[self.resolve(name)] = name
        return found

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
        if name := self._current().get(image):
            return (await self._image(name, self._progress)).file(rootfs.IMAGE)
        raise NotFound(
            f"there is no image {image[:12]}",
            hint="it was removed or its recipe changed; ask for the runtime by name again",
        )

    async def tool(self, name: str, progress: Progress | None = None) -> HostTool:
        """A host program: `qemu`, `mkfs.erofs`, `fsck.erofs`, `mke2fs`, `lz4`, `zstd`.

        Raises:
            Unsupported: it cannot be had; the hint says what to install.
        """
        return await self._tool(await self._tool_tree(progress or self._progress), name, tools.this_machine())

    @staticmethod
    async def _tool(tree: Artefact | None, name: str, machine: tools.Machine) -> HostTool:
        return tools.from_tree(tree, name, machine) if tree else await tools.from_system(name, machine)

    async def _tool_tree(self, progress: Progress) -> Artefact | None:
        """The private tree; None where there is no apt to make one and the system's programs are used."""
        machine = tools.this_machine()
        if not self._has_archive():
            return None
        inputs = {"packages": tools.packages(machine), "sources": self._source_lines(), "format": 1}
        digest = digest_of({**inputs, "generation": self._generation(_TOOLS)})
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
        machine = tools.this_machine()
        agent = kernel.agent_binary(machine.name)
        base = await self._kernel(machine, progress or self._progress)
        digest = digest_of({"kernel": base.digest, "agent": self._agent_digest(agent), "format": 1})

        async def build(folder: Path) -> Recorded:
            return await kernel.build_initramfs(folder, base, agent)

        archive = await self._shelf.make("initramfs", digest, build)
        release = base.manifest.facts["release"]
        return GuestKernel(base.file(kernel.IMAGE), archive.file(kernel.INITRAMFS), release, archive.digest)

    async def _kernel(self, machine: tools.Machine, progress: Progress) -> Artefact:
        choice = self._environ.get("AGENTKERNEL_KERNEL", "backports")
        if choice not in ("backports", "stable"):
            raise Refused(f"AGENTKERNEL_KERNEL is {choice!r}", hint="use backports or stable")
        apt = self._apt()
        package = machine.kernel_packages[apt.distribution.family]
        inputs = {"package": package, "choice": choice, "sources": self._source_lines(), "wanted": modules.WANTED}
        digest = digest_of({**inputs, "generation": self._generation(_KERNEL), "format": 1})
        if found := self._shelf.find("kernels", digest):
            return found
        tree = await self._tool_tree(progress)
        commands = {name: (await self._tool(tree, name, machine)).command for name in ("lz4", "zstd")}

        async def build(folder: Path) -> Recorded:
            async with self._archive():
                await apt.update(progress, "kernel")
                progress("kernel", "choose packages")
                closure = kernel.kernel_part(await apt.closure([package], newest=choice == "backports"))
                debs = await apt.fetch(closure, progress, "kernel")
                progress("kernel", "unpack")
                return await kernel.build_kernel(folder, debs, closure, commands.__getitem__)

        return await self._shelf.make("kernels", digest, build)

    def _agent_digest(self, agent: Path) -> str:
        facts = agent.stat()
        stamp = (facts.st_mtime_ns, facts.st_ino)
        if self._agent is None or self._agent[0] != stamp:
            self._agent = (stamp, FileFacts.of(agent).sha256)
        return self._agent[1]

    async def blank_disk(self, mib: int) -> Path:
        """A sparse file holding an empty ext4 file system of that size; copy it, never write to it."""
        if not 1 <= mib <= disks.LARGEST_MIB:
            raise Refused(f"a disk of {mib} MiB cannot be made", hint=f"between 1 and {disks.LARGEST_MIB} MiB")
        digest = digest_of({"mib": mib, "format": 1})
        if disk := self._shelf.find("disks", digest):
            return disk.file(disks.DISK)
        mke2fs = await self.tool("mke2fs")

        async def build(folder: Path) -> Recorded:
            return await disks.build(folder, mib, mke2fs.command)

        return (await self._shelf.make("disks", digest, build)).file(disks.DISK)

    # --- the package archive ---

    def _has_archive(self) -> bool:
        return bool(self._environ.get("AGENTKERNEL_MIRROR")) or distribution_of(_os_release()) is not None

    def _source_lines(self) -> list[str]:
        return [source.line() for source in self._package_sources()]

    def _apt(self) -> PrivateApt:
        return PrivateApt(self.data / "apt", self._package_sources(), distribution_of(_os_release()) or FALLBACK)

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
        self._forget(*(recipe.name for recipe in self._cookbook.lineage(runtime)))

    def refresh_tools(self) -> None:
        """Make the next use of tools and kernel fetch them anew."""
        self._forget(_TOOLS, _KERNEL)

    def _forget(self, *names: str) -> None:
        (self.data / "apt" / "updated").unlink(missing_ok=True)
        for name in names:
            (self.data / "generations" / name).unlink(missing_ok=True)

    async def _give_up(self, kind: str, artefact: Artefact) -> int:
        """Remove it, and see to it that what is built next is called something else."""
        name = {"tools": _TOOLS, "kernels": _KERNEL}.get(kind) or artefact.manifest.facts.get("runtime", "")
        if name:
            (self.data / "generations" / name).unlink(missing_ok=True)
        return await self._shelf.remove(kind, artefact.digest)

    async def prune(self) -> int:
        """Remove what nothing refers to any more: older images, kernels, trees; downloaded packages. Returns the
        bytes freed."""
        freed = 0
        current: dict[str, set[str]] = {"images": set(self._current())}
        for kind in ("tools", "kernels", "initramfs"):
            current[kind] = {artefact.digest for artefact in self._shelf.all(kind)[:1]}
        current["disks"] = set()
        for kind in KINDS:
            for name in _names(self.data / kind):
                if name not in current[kind]:
                    freed += await self._shelf.remove(kind, name)
            freed += await self._shelf.clear_abandoned(kind)
        return freed + await self._prune_packages()

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


def _os_release() -> str:
    for path in (Path("/etc/os-release"), Path("/usr/lib/os-release")):
        if path.is_file():
            return path.read_text(encoding="utf-8", errors="replace")
    return ""


@functools.cache
def _script_digest() -> str:
    return digest_of({"text": namespace.script().read_text()})
