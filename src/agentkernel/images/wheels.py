"""Programs that PyPI carries: fetched by this interpreter's pip, which checks the index's hash, and unpacked into an
overlay."""

from __future__ import annotations

import shutil
import stat
import sys
import zipfile
from pathlib import Path, PurePosixPath

import anyio
import anyio.to_thread

from agentkernel.images import process
from agentkernel.images.progress import Progress
from agentkernel.images.recipe import Wheel
from agentkernel.model.errors import AgentkernelError

_DOWNLOAD = ("download", "--quiet", "--no-deps", "--only-binary", ":all:", "--disable-pip-version-check")


async def lay_out(wheel: Wheel, downloads: Path, overlay: Path, progress: Progress, stage: str) -> str:
    """Fetch a wheel and unpack its parts below `overlay`; returns its file name, which carries the version.

    Raises:
        ChildError: pip cannot get it.
        AgentkernelError: it does not hold what the recipe says.
    """
    progress(stage, f"fetch {wheel.requirement}")
    await anyio.Path(downloads).mkdir(parents=True, exist_ok=True)
    command: list[str | Path] = [sys.executable, "-m", "pip", *_DOWNLOAD, "--dest", downloads, wheel.requirement]
    await process.run(command, env=process.caller_environment("PIP_"))
    name = await anyio.to_thread.run_sync(_unpack_only, downloads, wheel, overlay / wheel.target.lstrip("/"))
    await anyio.to_thread.run_sync(_open_directories, overlay)
    await anyio.to_thread.run_sync(shutil.rmtree, downloads)
    return name


def _unpack_only(downloads: Path, wheel: Wheel, target: Path) -> str:
    """Unpack the one file that is there; returns its name."""
    files = sorted(downloads.glob("*.whl"))
    if len(files) != 1:
        raise AgentkernelError(f"pip brought {len(files)} wheels for {wheel.requirement}, not one")
    _unpack(files[0], wheel, target)
    return files[0].name


def _open_directories(overlay: Path) -> None:
    """Whatever our umask, and the daemon's is strict: in the sandbox others read them."""
    for directory in (overlay, *(path for path in overlay.rglob("*") if path.is_dir() and not path.is_symlink())):
        directory.chmod(0o755)


def _unpack(file: Path, wheel: Wheel, target: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            path = _place(entry, wheel)
            if path is not None:
                _write(archive, entry, target / path)
    for name, destination in wheel.links.items():
        link = target / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(destination)
        if not (link.parent / destination).exists():
            raise AgentkernelError(f"{file.name} does not hold {destination}, which {name} should lead to")


def _place(entry: zipfile.ZipInfo, wheel: Wheel) -> PurePosixPath | None:
    """Where an entry goes, relative to the target; None for what is not wanted or does not stay inside."""
    path = PurePosixPath(entry.filename)
    if entry.is_dir() or path.is_absolute() or ".." in path.parts or not path.is_relative_to(wheel.folder):
        return None
    inner = path.relative_to(wheel.folder)
    return inner if any(inner.is_relative_to(part) for part in wheel.parts) else None


def _write(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(entry) as source, path.open("wb") as sink:
        shutil.copyfileobj(source, sink, 1 << 20)
    executable = (entry.external_attr >> 16) & stat.S_IXUSR or path.parent.name == "bin"
    path.chmod(0o755 if executable else 0o644)
