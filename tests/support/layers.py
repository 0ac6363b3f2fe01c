"""Images made for tests: layers, configurations, and the three forms in which they lie on a disk."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
MACHINE = "amd64"


def sha256(content: bytes) -> str:
    """`sha256:` and 64 digits."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def member(name: str, content: bytes | None = None, **facts: Any) -> tuple[tarfile.TarInfo, bytes]:
    """One entry of a layer: a directory when its name ends in a slash, else a file; `facts` may say otherwise."""
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
    info.mode = 0o755 if name.endswith("/") else 0o644
    info.size = len(content or b"")
    info.mtime = 1_600_000_000
    for key, value in facts.items():
        setattr(info, key, value)
    return info, content or b""


def symlink(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    """A symbolic link."""
    return member(name, type=tarfile.SYMTYPE, linkname=target, mode=0o777)


def hard_link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    """Another name of a file."""
    return member(name, type=tarfile.LNKTYPE, linkname=target)


def tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """A layer, not compressed."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return buffer.getvalue()


def packed(layer: bytes, how: str) -> bytes:
    """As it is stored: `tar`, `gzip` or `zstd`."""
    match how:
        case "gzip":
            return gzip.compress(layer, 1, mtime=0)
        case "zstd":
            return zstandard.compress(layer)
        case _:
            return layer


@dataclass(frozen=True)
class Image:
    """An image in memory. `start` is its configuration's `config`."""

    layers: Sequence[bytes]
    start: Mapping[str, Any] = field(default_factory=dict)
    how: str = "gzip"
    architecture: str = MACHINE

    @property
    def config(self) -> bytes:
        """Its configuration."""
        diff_ids = [sha256(layer) for layer in self.layers]
        document = {"os": "linux", "architecture": self.architecture, "config": dict(self.start)}
        return json.dumps({**document, "rootfs": {"type": "layers", "diff_ids": diff_ids}}).encode()

    @property
    def blobs(self) -> list[bytes]:
        """Its layers as they are stored."""
        return [packed(layer, self.how) for layer in self.layers]

    @property
    def manifest(self) -> bytes:
        """Its manifest."""
        suffix = {"tar": "", "gzip": "+gzip", "zstd": "+zstd"}[self.how]
        layers = [descriptor(blob, LAYER + suffix) for blob in self.blobs]
        config = descriptor(self.config, CONFIG)
        return json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}).encode()

    def all_blobs(self) -> dict[str, bytes]:
        """Digest to content, the manifest's too."""
        return {sha256(blob): blob for blob in (*self.blobs, self.config, self.manifest)}


def descriptor(content: bytes, media_type: str, **more: Any) -> dict[str, Any]:
    """What names a blob."""
    return {"mediaType": media_type, "digest": sha256(content), "size": len(content), **more}


def index(*images: Image) -> bytes:
    """An image for several architectures."""
    platforms = [{"os": "linux", "architecture": image.architecture} for image in images]
    entries = [descriptor(i.manifest, MANIFEST, platform=p) for i, p in zip(images, platforms, strict=True)]
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()


def layout_files(image: Image, tag: str = "latest") -> dict[str, bytes]:
    """The files of an image layout."""
    entry = descriptor(image.manifest, MANIFEST, annotations={"org.opencontainers.image.ref.name": tag})
    files = {f"blobs/{digest.replace(':', '/')}": blob for digest, blob in image.all_blobs().items()}
    document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}
    return {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}', "index.json": json.dumps(document).encode(), **files}


def write_layout(image: Image, folder: Path) -> str:
    """Lay it out; returns its name."""
    for name, content in layout_files(image).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return f"oci:{folder}"


def write_oci_archive(image: Image, file: Path) -> str:
    """The same in a tar file."""
    file.write_bytes(tar(*(member(name, content) for name, content in layout_files(image).items())))
    return f"oci-archive:{file}"


def write_docker_archive(image: Image, file: Path) -> str:
    """As `docker save` writes it, layers not compressed, and one of them only linked to; returns its name."""
    names = [f"{number}/layer.tar" for number in range(len(image.layers))]
    stored = [member(f"kept/{name}", layer) for name, layer in zip(names, image.layers, strict=True)]
    links = [symlink(name, f"../kept/{name}") for name in names]
    entry = {"Config": "config.json", "RepoTags": ["made:latest"], "Layers": names}
    file.write_bytes(
        tar(*stored, *links, member("config.json", image.config), member("manifest.json", json.dumps([entry]).encode()))
    )
    return f"docker-archive:{file}"
