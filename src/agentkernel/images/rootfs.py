"""Root file systems by recipe: a parent's tree or nothing, packages on top, checked, packed as read-only erofs."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import tempfile
import urllib.parse
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from agentkernel.images import namespace, wheels
from agentkernel.images.packages import Closure, PrivateApt
from agentkernel.images.progress import Progress
from agentkernel.images.recipe import Recipe
from agentkernel.images.shelf import Artefact, Recorded
from agentkernel.images.sources import Source
from agentkernel.images.trouble import free_mib, no_space

IMAGE = "root.erofs"
MODES = "modes"
"""Beside the image: the set-id files in it, for images that are made from it."""
CHUNK_BYTES = 1 << 20
FORMAT = "erofs-uncompressed-2"
"""Changes when the way an image is packed does, so that older ones are not taken for it. The script's text is an
input by itself."""

_ESSENTIAL = ("?essential", "apt")
_MINIMAL = (*_ESSENTIAL, "?priority(required)")
"""What a system needs to be one: what no package names as dependency, because all may rely on it."""


@dataclass(frozen=True, slots=True)
class Workshop:
    """What building takes: the package archive, its lock, and the file system tools."""

    apt: PrivateApt
    archive: Callable[[], AbstractAsyncContextManager[None]]
    program: Callable[[str], Sequence[str]]


@dataclass(slots=True)
class RootBuild:
    """One image being built in `folder`."""

    shop: Workshop
    folder: Path
    recipe: Recipe
    parent: Artefact | None
    digest: str
    progress: Progress

    @property
    def stage(self) -> str:
        """What progress calls it."""
        return f"image {self.recipe.name}"

    @property
    def tree(self) -> Path:
        """Where the root grows."""
        return self.folder / "tree"

    @property
    def work(self) -> Path:
        """What the script is given."""
        return self.folder / "work"

    async def run(self) -> Recorded:
        """Build it. Raises what the tools raise; the shelf removes what is left."""
        self.tree.mkdir()
        self.tree.chmod(0o755)  # whatever our umask: it becomes the / of the sandbox
        self.work.mkdir()
        try:
            versions = await self._prepare()
            await self._install()
            await anyio.to_thread.run_sync(shutil.copyfile, self.work / MODES, self.folder / MODES)
            await self._pack()
        finally:
            with anyio.CancelScope(shield=True):
                await namespace.remove(self.tree)
                await namespace.remove(self.work)
        return Recorded(files=[IMAGE, MODES], versions=versions, facts={"runtime": self.recipe.name})

    async def _prepare(self) -> dict[str, str]:
        """Everything the script needs, fetched; returns the versions that go in."""
        apt, recipe = self.shop.apt, self.recipe
        if self.parent is not None:
            self.progress(self.stage, f"unpack {self.parent.manifest.facts['runtime']}")
            await self._unpack_parent(self.parent)
        versions: dict[str, str] = dict(self.parent.manifest.versions) if self.parent else {}
        if self.parent is None or recipe.packages:
            async with self.shop.archive():
                await apt.update(self.progress, self.stage)
                self.progress(self.stage, "choose packages")
                essential, rest = await self._closures()
                whole = Closure((*essential.packages, *rest.packages), rest.unpacked_bytes)
                # The tree and its image lie there together.
                await apt.fetch(whole, self.progress, self.stage, times_unpacked=2)
                self._link_debs(whole)
            versions |= whole.versions()
            self._list("essential", essential)
            self._list("install", rest)
        else:
            self._link_debs(Closure((), 0))
            self._list("install", Closure((), 0))
        for number, wheel in enumerate(recipe.wheels):
            name = await wheels.lay_out(
                wheel, self.work / f"wheel{number}", self.work / "overlay", self.progress, self.stage
            )
            versions[wheel.requirement] = name
        (self.work / "checks").write_text("".join(f"{shlex.join(command)}\n" for command in recipe.checks))
        (self.work / "sources").write_text("".join(f"{_without_password(source).line()}\n" for source in apt.sources))
        return versions

    async def _unpack_parent(self, parent: Artefact) -> None:
        need_mib = 2 * parent.manifest.size_bytes // (1 << 20)
        if free_mib(self.folder) < need_mib:
            raise no_space(f"unpacking {parent.manifest.facts['runtime']} for {self.stage}", self.folder, need_mib)
        extract = [*self.shop.program("fsck.erofs"), "-d0", f"--extract={self.tree}", "--preserve", "--overwrite"]
        await namespace.inside("run", *extract, parent.file(IMAGE))
        await anyio.to_thread.run_sync(shutil.copyfile, parent.file(MODES), self.work / MODES)

    async def _closures(self) -> tuple[Closure, Closure]:
        """What is unpacked first because nothing works without it, and the rest."""
        apt = self.shop.apt
        if self.parent is not None:
            return Closure((), 0), await apt.closure(self.recipe.packages, installed=self.tree / "var/lib/dpkg/status")
        essential = await apt.closure(_ESSENTIAL)
        whole = await apt.closure([*_MINIMAL, *self.recipe.packages])
        first = {package.file for package in essential.packages}
        return essential, Closure(tuple(p for p in whole.packages if p.file not in first), whole.unpacked_bytes)

    def _link_debs(self, closure: Closure) -> None:
        """A folder of this build's packages alone: the cache is shared, and another build may clean it."""
        folder = self.work / "debs"
        folder.mkdir()
        for package in closure.packages:
            (folder / package.file).hardlink_to(self.shop.apt.debs / package.file)

    def _list(self, name: str, closure: Closure) -> None:
        (self.work / name).write_text("".join(f"{package.file}\n" for package in closure.packages))

    async def _install(self) -> None:
        verb = "extend" if self.parent else "bootstrap"
        await namespace.inside(verb, self.tree, self.work, on_line=self._show)

    def _show(self, line: str) -> None:
        """Progress out of the script's and apt's lines."""
        kind, _, rest = line.partition(":")
        if kind == "stage":
            self.progress(self.stage, rest)
        elif kind == "pmstatus":
            with contextlib.suppress(IndexError, ValueError):
                self.progress(self.stage, f"install {float(rest.split(':')[1]):.0f} %")

    async def _pack(self) -> None:
        """Times stay as they are: Python's compiled files carry the time of their source."""
        self.progress(self.stage, "pack")
        await pack(self.tree, self.folder / IMAGE, self.shop.program("mkfs.erofs"), self.digest)


async def pack(tree: Path, image: Path, mkfs: Sequence[str | Path], digest: str) -> None:
    """Pack a tree, whose owners are those of a private namespace, as read-only erofs.

    Args:
        mkfs: the command of mkfs.erofs.
        digest: what the image's own identifier is made from.
    """
    make: list[str | Path] = [
        *mkfs,
        "--quiet",
        "-d0",
        "-Enoinline_data",  # gVisor's reader of erofs (2024-07, pkg/erofs) knows no tails within inodes
        "-U",
        str(uuid.UUID(digest[:32])),
        image,
        tree,
    ]
    await namespace.inside("run", *make)


def _without_password(source: Source) -> Source:
    """A mirror's user name and password are the host's, not the guest's."""
    parts = urllib.parse.urlsplit(source.uri)
    plain = parts._replace(netloc=parts.netloc.rpartition("@")[2])
    return Source(plain.geturl(), source.suite, source.components, source.signed_by)


@asynccontextmanager
async def as_tar(image: Path, fsck: Sequence[str | Path]) -> AsyncIterator[AsyncIterator[bytes]]:
    """An image as a tar stream with owners, modes and links; `MODES` lies beside it. Made beside the system's other
    temporary files, and gone with the block.

    Args:
        fsck: the command of fsck.erofs.
    """
    work = Path(await anyio.to_thread.run_sync(tempfile.mkdtemp, "", "agentkernel-tar-"))
    try:
        tree, archive = work / "tree", work / "root.tar"
        extract = [*fsck, "-d0", f"--extract={tree}", "--preserve", "--overwrite", image]
        await namespace.inside("archive", tree, image.with_name(MODES), archive, *extract)
        yield _chunks(archive)
    finally:
        with anyio.CancelScope(shield=True):
            await namespace.remove(work)


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    async with await anyio.open_file(path, "rb") as file:
        while chunk := await file.read(CHUNK_BYTES):
            yield chunk
