"""The data folder: artefacts by kind and digest, made beside their place and renamed into it, checked when they are
used."""

from __future__ import annotations

import datetime
import json
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio
import anyio.to_thread

from agentkernel.images.locks import lock_if_free, locked
from agentkernel.images.manifest import FileFacts, Manifest, disk_bytes
from agentkernel.images.trouble import explained
from agentkernel.model.errors import AgentkernelError, Refused
from agentkernel.model.ids import Digest

KINDS = ("tools", "kernels", "initramfs", "images", "layers", "disks", "components", "templates")
TAG = "CACHEDIR.TAG"
_TAG_TEXT = "Signature: 8a477f597d28d172789f06886806bc55\n# Made by agentkernel; safe to delete at any time.\n"
"""Tells backup programs to leave the folder out. Source: the Cache Directory Tagging Specification."""
_BESIDE = ("locks", "generations", "names", "builds", "apt", "readiness", "lost+found")
"""What else may be in the data folder."""
_UNFINISHED = ".new-"


@dataclass(frozen=True, slots=True)
class Artefact:
    """One thing that we made, ready to use."""

    folder: Path
    manifest: Manifest

    @property
    def digest(self) -> Digest:
        """Its key."""
        return Digest(self.manifest.digest)

    def file(self, name: str) -> Path:
        """A file of it."""
        return self.folder / name


@dataclass(slots=True)
class Recorded:
    """What a builder says of what it made; the rest of the manifest is found by looking.

    Attributes:
        files: relative paths to list in the manifest.
        tree: a folder of many files to be listed in `contents.json`, itself one of the files.
    """

    files: list[str]
    inputs: Mapping[str, object] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    tree: str | None = None


Builder = Callable[[Path], Awaitable[Recorded]]
"""Makes the artefact in the empty folder that it is given."""
Remover = Callable[[Path], Awaitable[None]]
"""Removes a folder, whoever owns the files in it."""


async def remove_tree(folder: Path) -> None:
    """Remove a folder whose files are ours."""
    await anyio.to_thread.run_sync(lambda: shutil.rmtree(folder, ignore_errors=True))


class Shelf:
    """All artefacts below one folder."""

    def __init__(self, data: Path, remover: Remover = remove_tree) -> None:
        self.data = data
        self._remover = remover
        self._checked: dict[tuple[str, str], Artefact] = {}

    def prepare(self) -> None:
        """Make the data folder, for its owner only.

        Raises:
            Refused: it cannot be made or written, or holds what is not ours.
        """
        try:
            self.data.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._claim()
            for kind in (*KINDS, "locks"):
                (self.data / kind).mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            raise explained(error, doing="preparing the data folder", folder=_existing(self.data)) from error

    def _claim(self) -> None:
        """Tag the folder as ours. One that holds somebody's files is left alone: uninstall will remove all of it."""
        tag = self.data / TAG
        if tag.exists():
            return
        foreign = {path.name for path in self.data.iterdir()} - {*KINDS, *_BESIDE}
        if foreign:
            raise Refused(
                f"{self.data} is not agentkernel's: it holds {sorted(foreign)[0]}",
                hint="point AGENTKERNEL_DATA to a folder that is empty or not there yet",
            )
        self.data.chmod(0o700)
        tag.write_text(_TAG_TEXT)

    def find(self, kind: str, digest: str) -> Artefact | None:
        """The artefact if it is there and looks unchanged; a few stat calls."""
        artefact = self._checked.pop((kind, digest), None)
        if artefact is None or not artefact.manifest.looks_unchanged(artefact.folder):
            artefact = self._read(kind, digest)  # another process may have made it anew
        if artefact is None or not artefact.manifest.looks_unchanged(artefact.folder):
            return None
        self._checked[kind, digest] = artefact
        return artefact

    def _read(self, kind: str, digest: str) -> Artefact | None:
        folder = self.data / kind / digest
        try:
            return Artefact(folder, Manifest.read(folder))
        except (OSError, ValueError):
            return None

    async def make(self, kind: str, digest: str, build: Builder, *, need_mib: int | None = None) -> Artefact:
        """The artefact, built when it is missing or damaged; one builder at a time, in this process and in others.

        Raises:
            AgentkernelError: the build failed, in words; nothing of it is left.
        """
        if artefact := self.find(kind, digest):
            return artefact
        self.prepare()
        doing = f"making {kind}/{digest[:12]}"
        try:
            async with self.lock(f"{kind}-{digest}"):
                if artefact := self.find(kind, digest) or await self._restamped(kind, digest):
                    return artefact
                return await self._build(kind, digest, build)
        except (OSError, AgentkernelError) as error:
            raise explained(error, doing=doing, folder=_existing(self.data), need_mib=need_mib) from error

    @asynccontextmanager
    async def lock(self, name: str) -> AsyncIterator[None]:
        """A lock of the data folder that other processes respect."""
        async with locked(self.data / "locks" / f"{name}.lock"):
            yield

    async def _restamped(self, kind: str, digest: str) -> Artefact | None:
        """An artefact whose files were touched or copied but hold what they should: its stamps are written anew."""
        artefact = self._read(kind, digest)
        if artefact is None:
            return None
        faults = await anyio.to_thread.run_sync(_all_faults, artefact)
        if faults:
            return None
        files = {name: FileFacts.of(artefact.folder / name) for name in artefact.manifest.files}
        replace(artefact.manifest, files=files).write(artefact.folder)
        return self.find(kind, digest)

    async def _build(self, kind: str, digest: str, build: Builder) -> Artefact:
        place = self.data / kind / digest
        await self._clear_leftovers(kind, digest)
        beside = self.data / kind / f"{_UNFINISHED}{digest}"
        beside.mkdir(mode=0o700)
        try:
            recorded = await build(beside)
            await anyio.to_thread.run_sync(_seal, kind, digest, beside, recorded)
            if place.exists():
                place.rename(self.data / kind / f"{_UNFINISHED}{digest}.old-{secrets.token_hex(4)}")
            beside.rename(place)
        finally:
            with anyio.CancelScope(shield=True):
                await self._clear_leftovers(kind, digest)
        artefact = self.find(kind, digest)
        if artefact is None:
            raise AgentkernelError(
                f"{place} vanished as soon as it was made", hint="is something else cleaning the data folder?"
            )
        return artefact

    async def _clear_leftovers(self, kind: str, digest: str) -> None:
        """What a builder of this artefact left, ours or one that was killed: only the holder of the lock comes here."""
        for path in (self.data / kind).glob(f"{_UNFINISHED}{digest}*"):
            await self._remover(path)

    def all(self, kind: str) -> list[Artefact]:
        """What is there of one kind, newest first, damaged ones left out."""
        folder = self.data / kind
        names = [path.name for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []
        found = [artefact for name in names if (artefact := self._read(kind, name))]
        return sorted(found, key=lambda artefact: artefact.manifest.created, reverse=True)

    async def remove(self, kind: str, digest: str) -> int:
        """Remove one artefact, or what is left of it; returns the bytes that this frees."""
        place = self.data / kind / digest
        async with self.lock(f"{kind}-{digest}"):
            self._checked.pop((kind, digest), None)
            size = await anyio.to_thread.run_sync(disk_bytes, place)
            doomed = self.data / kind / f"{_UNFINISHED}{digest}.old-{secrets.token_hex(4)}"
            if place.exists():
                place.rename(doomed)  # first out of sight, then gone: nobody finds a half
            await self._clear_leftovers(kind, digest)
        return size

    async def clear_abandoned(self, kind: str) -> int:
        """Remove what killed builders left and nobody has built since; returns the bytes freed."""
        freed = 0
        for path in (self.data / kind).glob(f"{_UNFINISHED}*"):
            digest = path.name.removeprefix(_UNFINISHED).partition(".")[0]
            with lock_if_free(self.data / "locks" / f"{kind}-{digest}.lock") as held:
                if held:
                    freed += await anyio.to_thread.run_sync(disk_bytes, path)
                    await self._remover(path)
        return freed

    def verify(self, artefact: Artefact) -> list[str]:
        """Names of files that do not hold what the manifest says; reads all of them."""
        return _all_faults(artefact)


def _all_faults(artefact: Artefact) -> list[str]:
    """Faults of the listed files, and, where there is a tree, of what its `contents.json` lists."""
    faults = artefact.manifest.faults(artefact.folder)
    contents = artefact.folder / "contents.json"
    if faults or not contents.exists():
        return faults
    listed: dict[str, str] = json.loads(contents.read_bytes())
    return [name for name, digest in listed.items() if _content_of(artefact.folder / name) != digest]


def _content_of(path: Path) -> str:
    """SHA-256 of a file, or the target of a symbolic link; empty for what is not there."""
    try:
        return f"-> {path.readlink()}" if path.is_symlink() else FileFacts.of(path).sha256
    except OSError:
        return ""


def _seal(kind: str, digest: str, folder: Path, recorded: Recorded) -> None:
    """List and hash what was made, and write it out to the disk before its name becomes valid."""
    names = list(recorded.files)
    if recorded.tree is not None:
        paths = (Path(base) / name for base, _, files in os.walk(folder / recorded.tree) for name in files)
        listed = {str(path.relative_to(folder)): _content_of(path) for path in paths}
        (folder / "contents.json").write_text(json.dumps(listed, sort_keys=True))
        names.append("contents.json")
    for name in names:
        _open_to_readers(folder / name)
        _sync(folder / name)
    Manifest(
        kind=kind,
        digest=digest,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        inputs=recorded.inputs,
        versions=recorded.versions,
        facts=recorded.facts,
        files={name: FileFacts.of(folder / name) for name in names},
        size_bytes=disk_bytes(folder),
    ).write(folder)


def _open_to_readers(path: Path) -> None:
    """A confined VMM runs as a user of its own, and opens by `/proc/self/fd` what it was handed, with that user's
    rights; the builder's umask must not stand against that. The data folder itself is closed to others."""
    mode = path.stat().st_mode
    if mode & 0o444 != 0o444:
        path.chmod(mode | 0o444)


def _sync(path: Path) -> None:
    """A power cut must not leave a manifest that is whole beside an image that is not; the digest would tell, the
    quick check not."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest parent of it that is there."""
    return next(path for path in (folder, *folder.parents) if path.exists())
