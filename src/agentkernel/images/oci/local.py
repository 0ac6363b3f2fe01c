"""Images that lie on this host: archives as `docker save` writes them, and image layouts in a folder or an archive.

Only their small documents are read here; layers stay where they lie, and are verified where they are unpacked.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from agentkernel.images.oci import documents
from agentkernel.images.oci.documents import ImageConfig, Index, Manifest
from agentkernel.images.oci.reference import Form, Local
from agentkernel.images.oci.tarstream import Kind, Reader, TarError
from agentkernel.model.errors import NotFound, Refused

ENTRIES_MOST = 100_000
_NESTED_MOST = 3
"""An index may name an index; nobody needs that more than once."""


@dataclass(frozen=True, slots=True)
class Place:
    """A part of a file, in bytes."""

    path: Path
    offset: int
    size: int

    def read(self, most: int) -> bytes:
        """All of it. Raises Refused when it is more than `most` bytes."""
        if self.size > most:
            raise Refused(f"a document in {self.path} has {self.size} bytes", hint=f"at most {most} are taken")
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True, slots=True)
class LayerAt:
    """Where a layer lies. `digest` is empty where only the one of its uncompressed content is known."""

    place: Place
    digest: str = ""


@dataclass(frozen=True, slots=True)
class LocalImage:
    """What was found. `digest` names its content."""

    digest: str
    config: ImageConfig
    layers: tuple[LayerAt, ...]


class _Files(Protocol):
    """Named parts of a folder or an archive."""

    def place(self, name: str) -> Place:
        """Where it lies. Raises Refused when it is not there."""


def find(local: Local, machine: str) -> LocalImage:
    """Read what is there. Blocks for a few reads.

    Raises:
        NotFound: there is no such file or folder.
        Refused: it holds no image, several, or none for this machine.
    """
    path = Path(local.path)
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
        if is_folder != (local.form is Form.OCI):
            raise Refused(f"{path} is {'a folder' if is_folder else 'no folder'}", hint=_MEANT[local.form])
        files: _Files = _Folder(path) if is_folder else _Archive(path)
        if local.form is Form.DOCKER_ARCHIVE:
            return _saved(files, path, machine)
        return _laid_out(files, local, machine)
    except FileNotFoundError as error:
        raise NotFound(f"there is no {error.filename}", hint="look at the image's path") from error
    except (PermissionError, NotADirectoryError) as error:
        raise Refused(f"{error.filename} cannot be read: {error.strerror}", hint="look at the image's path") from error


_MEANT = {
    Form.OCI: "oci: names a folder, an image layout; a file is docker-archive:FILE or oci-archive:FILE",
    Form.OCI_ARCHIVE: "oci-archive: names a file; a folder is oci:DIR",
    Form.DOCKER_ARCHIVE: "docker-archive: names a file, as `docker save` writes it; a folder is oci:DIR",
}


class _Folder:
    """An image layout's folder."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def place(self, name: str) -> Place:
        """As it says; a device or a pipe in the place of a file is none."""
        path = self._path / name
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise Refused(f"{path} is no file", hint="the image is damaged or hostile")
        return Place(path, 0, facts.st_size)


class _Archive:
    """A tar file, not compressed as a whole: its parts are read where they are."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: dict[str, Place] = {}
        self._links: dict[str, str] = {}
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Refused(f"{path} is no file", hint="name an image archive")
            if file.read(2) == b"\x1f\x8b":
                raise Refused(f"{path} is compressed as a whole", hint=f"unpack it first: gunzip {path}")
            file.seek(0)
            reader = Reader(file.read, lambda count: file.seek(count, os.SEEK_CUR))
            try:
                for number, entry in enumerate(reader):
                    if number > ENTRIES_MOST or file.tell() + entry.size > size:
                        raise TarError("it ends within a file" if number <= ENTRIES_MOST else "it has too many entries")
                    name = posixpath.normpath(os.fsdecode(entry.name))
                    if entry.kind is Kind.FILE:
                        self._places[name] = Place(path, file.tell(), entry.size)
                    elif entry.kind is Kind.SYMLINK:
                        self._links[name] = posixpath.normpath(
                            posixpath.join(posixpath.dirname(name), os.fsdecode(entry.target))
                        )
                    elif entry.kind is Kind.HARD_LINK:
                        self._links[name] = posixpath.normpath(os.fsdecode(entry.target))
            except TarError as error:
                raise Refused(f"{path} is no image archive: {error}", hint="was it copied completely?") from error

    def place(self, name: str) -> Place:
        """As it says; one link is followed, as `docker save` writes them for layers that images share."""
        name = posixpath.normpath(name)
        found = self._places.get(name) or self._places.get(self._links.get(name, ""))
        if found is None:
            raise Refused(
                f"{self._path} holds no {name[:100]!a}", hint="it is no image archive of this form, or damaged"
            )
        return found


class _Saved(msgspec.Struct, frozen=True, rename="pascal"):
    config: str
    layers: tuple[str, ...]
    repo_tags: tuple[str, ...] | None = None


def _saved(files: _Files, path: Path, machine: str) -> LocalImage:
    """What `docker save` wrote."""
    content = files.place("manifest.json").read(documents.MANIFEST_BYTES_MOST)
    try:
        images = msgspec.json.decode(content, type=tuple[_Saved, ...])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Refused(f"{path} has a malformed manifest.json: {error}", hint="it is damaged or hostile") from error
    if len(images) != 1:
        raise Refused(f"{path} holds {len(images)} images", hint="save one image by itself")
    raw = files.place(images[0].config).read(documents.CONFIG_BYTES_MOST)
    config = documents.image_config(raw, machine)
    layers = tuple(LayerAt(files.place(name)) for name in images[0].layers)
    if len(layers) != len(config.diff_ids) or len(layers) > documents.LAYERS_MOST:
        raise Refused(
            f"{path} has {len(layers)} layers, its configuration {len(config.diff_ids)}", hint="it is damaged"
        )
    return LocalImage(documents.digest_of_bytes(raw), config, layers)


def _laid_out(files: _Files, local: Local, machine: str) -> LocalImage:
    """An image layout, from its `index.json` down."""
    index = documents.manifest_or_index(_as_index(files.place("index.json")))
    tag = local.tag
    for _ in range(_NESTED_MOST):
        if isinstance(index, Manifest):
            break
        chosen = documents.choose(index, machine, tag=tag)
        content = _verified(files, chosen.digest, documents.MANIFEST_BYTES_MOST)
        index, tag = documents.manifest_or_index(content), ""
    else:
        raise Refused(f"{local.path} has an index within an index within an index", hint="it is damaged or hostile")
    if not isinstance(index, Manifest):
        raise Refused(f"{local.path} names no image", hint="it is damaged")
    config = documents.image_config(_verified(files, index.config.digest, documents.CONFIG_BYTES_MOST), machine)
    documents.check_layers(index, config)
    layers = tuple(LayerAt(_sized(files, each), each.digest) for each in index.layers)
    return LocalImage(chosen.digest, config, layers)


def _as_index(place: Place) -> bytes:
    content = place.read(documents.MANIFEST_BYTES_MOST)
    if not isinstance(documents.manifest_or_index(content), Index):
        raise Refused(f"{place.path} is no image layout", hint="its index.json lists no images")
    return content


def _sized(files: _Files, layer: documents.Descriptor) -> Place:
    place = files.place(_blob(layer.digest))
    if place.size != layer.size:
        raise Refused(f"the layer {layer.digest} has {place.size} bytes, not {layer.size}", hint="copy the image again")
    return place


def _verified(files: _Files, digest: str, most: int) -> bytes:
    content = files.place(_blob(digest)).read(most)
    if documents.digest_of_bytes(content) != digest:
        raise Refused(f"what should be {digest} holds something else", hint="the image is damaged; copy it again")
    return content


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def facts_of(config: ImageConfig, user: str) -> Mapping[str, object]:
    """What is kept of a configuration."""
    return {
        "env": config.env,
        "cwd": config.cwd,
        "user": user,
        "entrypoint": list(config.entrypoint),
        "command": list(config.command),
    }
