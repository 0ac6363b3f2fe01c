"""Images by name: found, fetched, unpacked once, and remembered."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
import tomllib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from agentkernel.images import namespace, tools
from agentkernel.images.manifest import disk_bytes
from agentkernel.images.oci import builder, local, reference, unpacking
from agentkernel.images.oci.documents import Descriptor, ImageConfig
from agentkernel.images.oci.local import LayerAt, Place
from agentkernel.images.oci.names import Names
from agentkernel.images.oci.reference import Local, Remote
from agentkernel.images.progress import Progress
from agentkernel.images.recipe import digest_of
from agentkernel.images.rootfs import FORMAT
from agentkernel.images.shelf import Artefact, Recorded, Shelf
from agentkernel.images.trouble import free_mib, no_space
from agentkernel.model.errors import NotFound, Refused
from agentkernel.model.ids import Digest
from agentkernel.model.spec import ImageFacts

if TYPE_CHECKING:
    from agentkernel.images.oci.registry import Registry

LAYERS_CAP_BYTES = 8 << 30
"""Of layers kept for images that share them, and for the next version of an image."""
LAYER_IN_USE_S = 3600
LAYER = "layer"
BUILDS = "builds"
_NOWHERE = "unknown.invalid"
"""A registry for names that are only looked at (RFC 6761)."""
REGISTRY_VARIABLE = "AGENTKERNEL_IMAGES_REGISTRY"

Program = Callable[[str], Awaitable[Sequence[str]]]
"""Name of a tool to the command that starts it."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """An image by name that is there."""

    name: str
    digest: Digest
    size_bytes: int
    created: str


class Library:
    """All images of one data folder that are no recipes of ours.

    Args:
        state: where `config.toml` may name a default registry.
        program: of the tool tree.
    """

    def __init__(self, shelf: Shelf, environ: Mapping[str, str], state: Path, program: Program) -> None:
        self._shelf = shelf
        self._environ = environ
        self._config = state / "config.toml"
        self._program = program
        self._names = Names(shelf.data / "names")

    async def pulled(self, name: str, progress: Progress, *, fresh: bool = False) -> ImageFacts:
        """The image of that name; one of a registry is looked for there only when it is not here yet, or `fresh`.

        Raises:
            NotFound: nobody has it.
            Refused: it is no name; the image is for another machine, damaged, or hostile.
            Busy: the registry does not answer, or there is no room.
            Unsupported: this user cannot unpack images; the hint says what is missing.
        """
        known = self._named(name)
        if known is not None and not fresh and not name.startswith(tuple(f"{form}:" for form in reference.Form)):
            return _facts(known)
        found = reference.parse(name, self._default_registry())
        if isinstance(found, Local):
            return await self.take(found, name, progress)
        return await self._pull(found, name, progress)

    async def take(self, found: Local, name: str, progress: Progress) -> ImageFacts:
        """An image of this host, to be known by that name."""
        image = await anyio.to_thread.run_sync(local.find, found, tools.this_machine().name)

        async def layers() -> Sequence[LayerAt]:
            return image.layers

        return await self._made(name, image.digest, image.config, layers, progress)

    async def built(self, context: Path, name: str, progress: Progress) -> ImageFacts:
        """What a folder's Dockerfile makes, to be known by that name; it takes the place of an earlier one.

        Raises:
            Refused: it does not build, or the name is none, or one of a file.
            Unsupported: this host has no builder.
        """
        if not isinstance(reference.parse(name, _NOWHERE), Remote):
            raise Refused(f"{name} names a file", hint="give the image a name such as mine or mine:2")
        self._shelf.prepare()
        (self._shelf.data / BUILDS).mkdir(exist_ok=True, mode=0o700)
        work = Path(await anyio.to_thread.run_sync(tempfile.mkdtemp, "", "", self._shelf.data / BUILDS))
        try:
            archive = await builder.build(context, work, partial(progress, f"image {name}"))
            return await self.take(archive, name, progress)
        finally:
            with anyio.CancelScope(shield=True):
                await namespace.remove(work)

    async def _pull(self, remote: Remote, name: str, progress: Progress) -> ImageFacts:
        from agentkernel.images.oci import registry  # noqa: PLC0415  a client for HTTP takes a tenth of a second

        stage = f"image {name}"
        progress(stage, f"ask {remote.registry}")
        async with registry.opened(remote, self._environ) as open_registry:
            image = await open_registry.image(tools.this_machine().name)

            async def layers() -> Sequence[LayerAt]:
                fetched = []
                for number, layer in enumerate(image.layers, start=1):
                    doing = f"fetch layer {number} of {len(image.layers)}"
                    fetched.append(await self._fetched(open_registry, layer, partial(progress, stage, doing)))
                return fetched

            return await self._made(name, image.digest, image.config, layers, progress)

    async def _fetched(self, source: Registry, layer: Descriptor, tell: Callable[[int, int], None]) -> LayerAt:
        """The layer on the shelf, where images that have it too find it."""
        key = layer.digest.partition(":")[2]

        async def fetch(folder: Path) -> Recorded:
            if free_mib(folder) < layer.size >> 20:
                raise no_space("fetching an image's layers", folder, layer.size >> 20)
            with (folder / LAYER).open("wb") as file:
                await source.download(layer, file, lambda count: tell(count, layer.size))
            return Recorded(files=[LAYER])

        artefact = await self._shelf.make("layers", key, fetch)
        os.utime(artefact.folder)
        return LayerAt(Place(artefact.file(LAYER), 0, layer.size), layer.digest)

    async def _made(
        self,
        name: str,
        content: str,
        config: ImageConfig,
        layers: Callable[[], Awaitable[Sequence[LayerAt]]],
        progress: Progress,
    ) -> ImageFacts:
        """The image on the shelf, unpacked if it is not there, and remembered by its name."""
        stage = f"image {name}"
        key = Digest(digest_of({"content": content, "oci": unpacking.FORMAT, "format": FORMAT}))

        async def build(folder: Path) -> Recorded:
            namespace.entry()  # said before anything is fetched: whether this user can unpack images at all
            mkfs = await self._program("mkfs.erofs")
            wanted = unpacking.Wanted(name, key, config, await layers(), mkfs)
            recorded = await unpacking.unpack(wanted, folder, partial(progress, stage))
            recorded.inputs = {"content": content, **local.facts_of(config, recorded.facts["user"])}
            return recorded

        image = self._shelf.find("images", key) or await self._shelf.make("images", key, build)
        self._names.put(name, key)
        await self._evict_layers()
        return _facts(image)

    def _named(self, name: str) -> Artefact | None:
        key = self._names.get(name)
        return None if key is None else self._shelf.find("images", key)

    def _default_registry(self) -> str:
        """From the environment, else from the user's configuration."""
        if said := self._environ.get(REGISTRY_VARIABLE):
            return said
        try:
            images = tomllib.loads(self._config.read_text(encoding="utf-8")).get("images", {})
        except (FileNotFoundError, NotADirectoryError):
            return ""
        except (ValueError, OSError) as error:
            raise Refused(f"{self._config} cannot be read: {error}", hint="mend it") from error
        return str(images.get("registry", "")) if isinstance(images, dict) else ""

    # --- housekeeping ---

    def images(self) -> list[Pulled]:
        """What is there, by name."""
        found = []
        for named in self._names.all():
            if image := self._shelf.find("images", named.image):
                found.append(Pulled(named.name, named.image, image.manifest.size_bytes, image.manifest.created))
        return found

    def has(self, name: str) -> bool:
        """Whether that name is known."""
        return self._names.get(name) is not None

    def in_use(self) -> set[str]:
        """Images that a name leads to. An archive that is gone leads nowhere; its name is forgotten."""
        for named in self._names.all():
            with contextlib.suppress(Refused):
                found = reference.parse(named.name, _NOWHERE)
                if isinstance(found, Local) and not Path(found.path).exists():
                    self._names.forget(named.name)
        return {str(named.image) for named in self._names.all()}

    async def remove(self, name: str) -> int:
        """Forget a name, and remove its image unless another name leads to it; returns the bytes that this frees.

        Raises:
            NotFound: there is none of that name.
        """
        image = self._names.get(name)
        if image is None:
            raise NotFound(f"there is no image {name}", hint="agentkernel images list shows what is there")
        self._names.forget(name)
        if any(named.image == image for named in self._names.all()):
            return 0
        return await self._shelf.remove("images", image)

    async def _evict_layers(self) -> None:
        """Those that were not used for longest, when all of them take more than the cap; not those that somebody may be
        about to unpack."""
        used = {layer.folder: layer.folder.stat().st_mtime for layer in self._shelf.all("layers")}
        taken = 0
        for folder in sorted(used, key=lambda folder: used[folder], reverse=True):
            taken += disk_bytes(folder)
            if taken > LAYERS_CAP_BYTES and used[folder] < time.time() - LAYER_IN_USE_S:
                await self._shelf.remove("layers", folder.name)


def _facts(image: Artefact) -> ImageFacts:
    said = image.manifest.inputs
    env, entrypoint, command = said["env"], said["entrypoint"], said["command"]
    if not isinstance(env, dict) or not isinstance(entrypoint, list) or not isinstance(command, list):
        raise Refused(f"the record of image {image.digest[:12]} is damaged", hint="agentkernel images verify")
    return ImageFacts(image.digest, env, str(said["cwd"]), str(said["user"]), tuple(entrypoint), tuple(command))
