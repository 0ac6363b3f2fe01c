"""Indexes, manifests, configurations of images: bytes to values. Pure; what a stranger wrote is checked, not trusted.

Source: the OCI image specification 1.1 (manifest, image index, config), and the Docker forms of the same (schema 2).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from agentkernel.model.errors import Refused, Unsupported

MANIFEST_BYTES_MOST = 4 << 20
"""As registries and clients have it (distribution specification, "Pushing Manifests")."""
CONFIG_BYTES_MOST = 8 << 20
LAYERS_MOST = 256
"""The field's tools stop at 127."""
LAYER_BYTES_MOST = 64 << 30
INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
CONFIGS = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
"""Processor architectures as `uname -m` and as images call them."""
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_LAYER = re.compile(
    r"application/vnd\.(?:oci\.image\.layer|docker\.image\.rootfs)\.(?:nondistributable\.|diff\.)*[a-z0-9.+-]*"
)


class Platform(msgspec.Struct, frozen=True):
    """For which machines an image is."""

    os: str = ""
    architecture: str = ""
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))


class Descriptor(msgspec.Struct, frozen=True, rename="camel"):
    """A blob: what it is, its digest (`sha256:` and 64 digits) and its size in bytes."""

    digest: str
    size: int
    media_type: str = ""
    platform: Platform | None = None
    annotations: dict[str, str] | None = None

    @property
    def tag(self) -> str:
        """The name by which an image layout lists it."""
        return (self.annotations or {}).get("org.opencontainers.image.ref.name", "")


class Index(msgspec.Struct, frozen=True):
    """Images for several platforms, or of one layout."""

    manifests: tuple[Descriptor, ...]


class Manifest(msgspec.Struct, frozen=True):
    """One image: its configuration and its layers, the lowest first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


class _Start(msgspec.Struct, frozen=True, rename="pascal"):
    user: str = ""
    env: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    working_dir: str = ""


class _RootFs(msgspec.Struct, frozen=True):
    diff_ids: tuple[str, ...] = ()


class _Config(msgspec.Struct, frozen=True):
    rootfs: _RootFs
    os: str = ""
    architecture: str = ""
    variant: str = ""
    config: _Start | None = None


class _Kind(msgspec.Struct, frozen=True, rename="camel"):
    schema_version: int = 0
    media_type: str = ""
    manifests: msgspec.Raw = msgspec.Raw()
    layers: msgspec.Raw = msgspec.Raw()


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What an image says of the commands that run in it, and which uncompressed layers it is made of.

    Attributes:
        diff_ids: digests of the uncompressed layers, the lowest first.
    """

    diff_ids: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    user: str
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]


def digest_of_bytes(content: bytes) -> str:
    """`sha256:` and 64 digits."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def manifest_or_index(content: bytes) -> Manifest | Index:
    """Read either. Raises Refused for anything else."""
    kind = _decoded(content, _Kind, "manifest", MANIFEST_BYTES_MOST)
    if kind.schema_version == 1:
        raise Unsupported("the image has a manifest of schema 1, which nobody makes any more", hint="push it again")
    is_index = kind.media_type in INDEXES or (not kind.media_type and bytes(kind.manifests) != b"")
    if bytes(kind.manifests) and bytes(kind.layers):
        raise Refused("the image's manifest is an index too; it cannot be both", hint="it is damaged or hostile")
    if is_index:
        index = _decoded(content, Index, "index", MANIFEST_BYTES_MOST)
        for each in index.manifests:
            _check(each, MANIFEST_BYTES_MOST)
        return index
    manifest = _decoded(content, Manifest, "manifest", MANIFEST_BYTES_MOST)
    _check(manifest.config, CONFIG_BYTES_MOST)
    if manifest.config.media_type and manifest.config.media_type not in CONFIGS:
        raise Unsupported(
            f"this is no image but an artefact of type {_plain(manifest.config.media_type)}",
            hint="name a container image",
        )
    if len(manifest.layers) > LAYERS_MOST:
        raise Refused(f"the image has {len(manifest.layers)} layers", hint=f"at most {LAYERS_MOST} are taken")
    for layer in manifest.layers:
        _check(layer, LAYER_BYTES_MOST)
        if layer.media_type and not _LAYER.fullmatch(layer.media_type):
            raise Unsupported(
                f"the image has a layer of type {_plain(layer.media_type)}", hint="layers are tar archives"
            )
    return manifest


def choose(index: Index, machine: str, *, tag: str = "") -> Descriptor:
    """The image of an index for Linux on that machine (`uname -m`), under that tag if one is given.

    Raises:
        Refused: there is none; the message names what there is.
    """
    offered = [each for each in index.manifests if not tag or each.tag == tag]
    if not offered:
        tags = sorted({each.tag for each in index.manifests if each.tag})
        raise Refused(f"there is no image with the tag {tag}", hint=f"there are: {_plain(', '.join(tags)) or 'none'}")
    architecture = ARCHITECTURES.get(machine, machine)
    fitting = [each for each in offered if each.platform and _fits(each.platform, architecture)]
    if fitting:
        return fitting[0]
    unsaid = [each for each in offered if each.platform is None]
    if len(unsaid) == 1:
        return unsaid[0]
    if unsaid:
        names = _plain(", ".join(sorted({each.tag or "without a tag" for each in unsaid})))
        raise Refused(f"there are {len(unsaid)} images here: {names}", hint="add the tag of one to the name")
    there = sorted({str(each.platform) for each in offered if each.platform and each.platform.os != "unknown"})
    raise _wrong_platform(", ".join(there), architecture)


def image_config(content: bytes, machine: str) -> ImageConfig:
    """Read a configuration. Raises Refused when it is malformed or for another platform."""
    config = _decoded(content, _Config, "configuration", CONFIG_BYTES_MOST)
    platform, architecture = (
        Platform(config.os, config.architecture, config.variant),
        ARCHITECTURES.get(machine, machine),
    )
    if (platform.os or platform.architecture) and not _fits(platform, architecture):
        raise _wrong_platform(str(platform), architecture)
    if not all(_DIGEST.fullmatch(each) for each in config.rootfs.diff_ids):
        raise Refused("the image's configuration has a malformed digest", hint="it is damaged or hostile")
    start = config.config or _Start()
    texts = (*(start.env or ()), *(start.entrypoint or ()), *(start.cmd or ()), start.user, start.working_dir)
    if any("\0" in text for text in texts):
        raise Refused("the image's configuration has a NUL in a text", hint="it is damaged or hostile")
    return ImageConfig(
        diff_ids=config.rootfs.diff_ids,
        env=dict(_variable(text) for text in start.env or ()),
        cwd=_cwd(start.working_dir),
        user=start.user,
        entrypoint=start.entrypoint or (),
        command=start.cmd or (),
    )


def check_layers(manifest: Manifest, config: ImageConfig) -> None:
    """As many layers as the configuration lists. Raises Refused."""
    if len(manifest.layers) != len(config.diff_ids):
        raise Refused(
            f"the image has {len(manifest.layers)} layers and its configuration lists {len(config.diff_ids)}",
            hint="it is damaged or hostile",
        )


def _fits(platform: Platform, architecture: str) -> bool:
    return platform.os == "linux" and platform.architecture == architecture


def _wrong_platform(there: str, architecture: str) -> Refused:
    return Refused(
        f"the image is for {_plain(there) or 'no platform'}, not for linux/{architecture}",
        hint="name an image that was built for this host's processor",
    )


def _plain(text: str) -> str:
    """What an image says, for a message: short, and nothing that a terminal obeys."""
    return "".join(sign if sign.isprintable() else "?" for sign in text[:200])


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise Refused(f"the image's configuration has {text[:60]!r} as a variable", hint="NAME=value is one")
    return name, value


def _cwd(text: str) -> str:
    """Absolute and plain; one that is not would be taken from the root, as the field's tools do."""
    if not text:
        return ""
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise Refused(f"the image's working directory is {text[:80]!r}", hint="an absolute path without .. is one")
    return "/" + "/".join(parts)


def _check(blob: Descriptor, most: int) -> None:
    if not _DIGEST.fullmatch(blob.digest):
        raise Refused(f"the image has a digest {blob.digest[:80]!r}", hint="only sha256 is known")
    if not 0 <= blob.size <= most:
        raise Refused(f"a part of the image has {blob.size} bytes", hint=f"at most {most} are taken")


_Document = TypeVar("_Document")


def _decoded(content: bytes, kind: type[_Document], what: str, most: int) -> _Document:
    if len(content) > most:
        raise Refused(f"the image's {what} is larger than {most} bytes", hint="it is damaged or hostile")
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(
            f"the image's {what} is malformed: {str(error)[:200]}", hint="it is damaged or hostile"
        ) from error


class _Token(msgspec.Struct, frozen=True):
    token: str = ""
    access_token: str = ""


def token_of(content: bytes) -> str:
    """What a token server answered. Raises Refused when there is none in it."""
    answer = _decoded(content, _Token, "token", MANIFEST_BYTES_MOST)
    token = answer.token or answer.access_token
    if not token or not token.isascii() or not token.isprintable():
        raise Refused("the registry's token server sent no token", hint="look at the registry's configuration")
    return token
