"""Finds Firecracker and its jailer: by configuration, FIRECRACKER_BIN, our own data folder, PATH, in that order.

What somebody named and is not there is an objection, not a reason to look further: they would run something else than
they think. The current directory is never looked into, nor a PATH entry that depends on it.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from agentkernel.model.errors import Unsupported
from agentkernel.model.ids import Digest

OLDEST = (1, 13)
"""The first with PCI, which the distribution's kernels find their devices by (docs/adr/0014-*).
"""
VERSION_DEADLINE_S = 1.5
"""For `--version` of both, side by side: a probe answers within two seconds."""
OUTPUT_BYTES = 4096
NAME, JAILER = "firecracker", "jailer"
SUMS = "SHA256SUMS"
SETUP = "agentkernel setup --firecracker PATH takes the release's binary, with jailer beside it"


@dataclass(frozen=True, slots=True)
class Binaries:
    """A pair that belongs together.

    Attributes:
        digest: of both.
    """

    firecracker: Path
    jailer: Path
    version: str
    digest: Digest


def own_folder(data: Path) -> Path:
    """Where `agentkernel setup --firecracker` keeps its copies."""
    return data / "firecracker"


def find(configured: str, environ: Mapping[str, str], data: Path | None) -> Path:
    """Firecracker's path; nothing is run.

    Args:
        configured: `[microvm] firecracker`, or empty.
        data: our own data folder; None where there is none.

    Raises:
        Unsupported: there is none, or what was named is none.
    """
    for named, by in ((configured, "[microvm] firecracker"), (environ.get("FIRECRACKER_BIN", ""), "FIRECRACKER_BIN")):
        if named:
            return _named(named, by)
    if data is not None and _is_program(own_folder(data) / NAME):
        return own_folder(data) / NAME
    for folder in environ.get("PATH", "").split(os.pathsep):
        if folder.startswith("/") and _is_program(Path(folder) / NAME):
            return Path(folder) / NAME
    raise Unsupported("firecracker is not installed", hint=SETUP)


def _named(named: str, by: str) -> Path:
    path = Path(named)
    if not path.is_absolute():
        raise Unsupported(f"{by} is not an absolute path: {named}", hint="begin it with /")
    if not _is_program(path):
        raise Unsupported(f"{by} names {named}, which is no program", hint=f"correct {by}, or remove it")
    return path


def _is_program(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def jailer_beside(firecracker: Path) -> Path:
    """The jailer of that release: `jailer` beside `firecracker`, `jailer-v1.13.1-x86_64` beside the other so named.

    Raises:
        Unsupported: it is not there, or the binary's name is one that no jailer takes.
    """
    if NAME not in firecracker.name:
        raise Unsupported(
            f"the jailer takes only a program whose name contains {NAME}, not {firecracker.name}",
            hint="rename it, or let agentkernel setup --firecracker PATH copy it",
        )
    for name in (firecracker.name.replace(NAME, JAILER, 1), JAILER):
        if _is_program(firecracker.parent / name):
            return firecracker.parent / name
    raise Unsupported(
        f"there is no {JAILER} beside {firecracker}",
        hint="put the jailer of the same release there; nothing runs without it",
    )


async def examine(firecracker: Path) -> Binaries:
    """The pair, its version and digest.

    Raises:
        Unsupported: one of them is missing, does not say its version, is too old, is not what a list of digests beside
            it says, or they are of two releases.
    """
    jailer = jailer_beside(firecracker)
    found = {path.name: await anyio.to_thread.run_sync(file_digest, path) for path in (firecracker, jailer)}
    for name, recorded in sums_beside(firecracker).items():
        if name in found and found[name] != recorded:
            raise Unsupported(
                f"{firecracker.parent / name} is not what {SUMS} beside it says (SHA-256)",
                hint=f"take it from its release again; {SETUP}",
            )
    said: dict[Path, str | Unsupported] = {}

    async def ask(program: Path) -> None:
        try:
            said[program] = await _version(program)
        except Unsupported as err:  # raised below, where the task group does not wrap it
            said[program] = err

    async with anyio.create_task_group() as group:
        group.start_soon(ask, firecracker)
        group.start_soon(ask, jailer)
    version, jailers = _checked(said[firecracker]), _checked(said[jailer])
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        raise Unsupported(
            f"Firecracker {version} is too old, {'.'.join(map(str, OLDEST))} or later is needed",
            hint=f"take a newer release: {SETUP}",
        )
    if version != jailers:
        raise Unsupported(
            f"{firecracker.name} is of release {version} and {jailer.name} of {jailers}",
            hint="take both from one release",
        )
    whole = hashlib.sha256("\n".join(found.values()).encode()).hexdigest()
    return Binaries(firecracker, jailer, version, Digest(whole))


def _checked(said: str | Unsupported) -> str:
    if isinstance(said, Unsupported):
        raise said
    return said


async def _version(program: Path) -> str:
    said = ""
    try:
        with anyio.fail_after(VERSION_DEADLINE_S):
            done = await anyio.run_process(
                [str(program), "--version"], check=False, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/"
            )
            said = done.stdout[:OUTPUT_BYTES].decode("utf-8", "replace")
    except TimeoutError as err:
        raise Unsupported(
            f"{program} --version does not end", hint="is that the program of the release, for this processor?"
        ) from err
    except OSError as err:
        raise Unsupported(
            f"{program} cannot be run: {err.strerror}", hint="is it the program of the release, for this processor?"
        ) from err
    found = re.search(r"\bv?(\d+\.\d+\.\d+)", said.partition("\n")[0])
    if found is None:
        raise Unsupported(f"{program} --version says no version", hint="is that the program of the release?")
    return found[1]


def file_digest(path: Path) -> str:
    """SHA-256, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sums_beside(program: Path) -> dict[str, str]:
    """Name to SHA-256, from the list that a release carries and that `setup` writes beside its copies; empty where
    there is none.
    """
    try:
        lines = (program.parent / SUMS).read_text("utf-8", "replace").splitlines()
    except OSError:
        return {}
    words = (line.split() for line in lines)
    return {pair[1].lstrip("*"): pair[0].lower() for pair in words if len(pair) == 2}
