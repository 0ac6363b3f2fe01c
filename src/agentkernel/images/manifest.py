"""What an artefact is made of: a small JSON file beside it, and the checks against it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO

NAME = "manifest.json"
SPARSE = ".ext4"
"""Files of this suffix are nearly all holes and may be a TiB: their digest is over what is not zero, and where it
is."""
_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class FileFacts:
    """One file as it was when it was made; size in bytes, time of change in ns."""

    sha256: str
    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> FileFacts:
        """Read the whole file."""
        with path.open("rb") as stream:
            facts = os.fstat(stream.fileno())
            if path.suffix == SPARSE:
                digest = _sparse_digest(stream, facts.st_size)
            else:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return cls(digest, facts.st_size, facts.st_mtime_ns, facts.st_ino)

    def looks_unchanged(self, path: Path) -> bool:
        """Same size, time and inode: enough on every use; reading is for `verify`."""
        try:
            facts = path.stat(follow_symlinks=False)
        except OSError:
            return False
        return (facts.st_size, facts.st_mtime_ns, facts.st_ino) == (self.size, self.mtime_ns, self.inode)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The record of one artefact.

    Attributes:
        created: UTC, ISO 8601.
        inputs: what its digest was computed from.
        versions: package names to versions that went in.
        facts: what its users need to know without opening it (`release`, `version`).
        files: relative path to facts, of every file that matters by itself; a tree lists the rest in `contents.json`.
        size_bytes: on the disk, all together.
    """

    kind: str
    digest: str
    created: str
    inputs: Mapping[str, object]
    versions: Mapping[str, str]
    facts: Mapping[str, str]
    files: Mapping[str, FileFacts] = field(default_factory=dict)
    size_bytes: int = 0

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Raises OSError or ValueError when there is none or it is damaged."""
        raw = json.loads((folder / NAME).read_bytes())
        try:
            files = {name: FileFacts(**facts) for name, facts in raw.pop("files").items()}
            return cls(files=files, **raw)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{folder / NAME} is damaged") from error

    def write(self, folder: Path) -> None:
        """Replace the record in `folder` atomically."""
        beside = folder / f"{NAME}.new"
        beside.write_text(json.dumps(asdict(self), indent=1, sort_keys=True))
        beside.replace(folder / NAME)

    def looks_unchanged(self, folder: Path) -> bool:
        """The quick check, by size, time and inode."""
        return all(facts.looks_unchanged(folder / name) for name, facts in self.files.items())

    def faults(self, folder: Path) -> list[str]:
        """The full check, by SHA-256: names of files that are missing or hold something else."""
        return [name for name, facts in self.files.items() if _digest(folder / name) != facts.sha256]


def _sparse_digest(stream: BinaryIO, size: int) -> str:
    """SHA-256 over the chunks that hold anything, each after its offset, and the size. A copy without holes has the
    same."""
    total = hashlib.sha256(b"%d\n" % size)
    at = 0
    while at < size:
        try:
            at = os.lseek(stream.fileno(), at, os.SEEK_DATA) // _CHUNK * _CHUNK
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break  # only a hole is left
        chunk = os.pread(stream.fileno(), _CHUNK, at)
        if chunk.strip(b"\0"):
            total.update(b"%d\n" % at + chunk)
        at += _CHUNK
    return total.hexdigest()


def _digest(path: Path) -> str:
    try:
        return FileFacts.of(path).sha256
    except OSError:
        return ""


def disk_bytes(folder: Path) -> int:
    """Room that a folder takes on the disk; sparse and shared files count once, as what they really use."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for facts in _walk(folder):
        if (facts.st_dev, facts.st_ino) not in seen:
            seen.add((facts.st_dev, facts.st_ino))
            total += facts.st_blocks * 512
    return total


def _walk(folder: Path) -> Iterator[os.stat_result]:
    try:
        yield folder.stat(follow_symlinks=False)
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    yield from _walk(Path(entry.path))
                else:
                    yield entry.stat(follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return  # it went away while we looked, which is its right
