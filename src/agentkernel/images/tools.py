"""Host programs: from a private tree of unpacked packages where the host has apt, from the system elsewhere.

The tree is a root of its own, with its C library: a confined VMM is pivoted into it, and its other programs run from
where they are, without root, through the tree's own dynamic loader.
"""

from __future__ import annotations

import platform
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio.to_thread

from agentkernel.images import process
from agentkernel.images.manifest import FileFacts
from agentkernel.images.packages import Closure
from agentkernel.images.shelf import Artefact, Recorded
from agentkernel.model.errors import AgentkernelError, Unsupported
from agentkernel.model.ids import Digest

OLDEST_QEMU = (7, 2)
ROOT = "root"
"""Folder of the tree within its artefact."""


@dataclass(frozen=True, slots=True)
class HostTool:
    """A program ready to be started; see `Tool` in the drivers' contract.

    Attributes:
        path: the program, as seen below `root`.
        root: `/`, or the private tree.
        command: how to start it from outside of its tree.
    """

    path: str
    root: Path
    version: str
    digest: Digest
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Machine:
    """What a processor architecture is called by each of those concerned."""

    name: str
    qemu: str
    qemu_package: str
    kernel_packages: dict[str, str]
    loader: str


MACHINES = {
    "x86_64": Machine(
        "x86_64",
        "qemu-system-x86_64",
        "qemu-system-x86",
        {"debian": "linux-image-cloud-amd64", "ubuntu": "linux-image-virtual"},
        "ld-linux-x86-64.so.2",
    ),
    "aarch64": Machine(
        "aarch64",
        "qemu-system-aarch64",
        "qemu-system-arm",
        {"debian": "linux-image-cloud-arm64", "ubuntu": "linux-image-virtual"},
        "ld-linux-aarch64.so.1",
    ),
}


def this_machine() -> Machine:
    """Raises Unsupported on an architecture that no guest is made for."""
    try:
        return MACHINES[platform.machine()]
    except KeyError:
        raise Unsupported(
            f"microVMs are not made for {platform.machine()}",
            hint="use a container backend; agentkernel doctor lists what works here",
        ) from None


def packages(machine: Machine) -> tuple[str, ...]:
    """What goes into the tree: the VMM, makers of file systems, and unpackers for kernels."""
    return (machine.qemu_package, "erofs-utils", "e2fsprogs", "lz4", "zstd")


_PROGRAMS = {
    "mkfs.erofs": ("usr/bin", "usr/sbin"),
    "fsck.erofs": ("usr/bin", "usr/sbin"),
    "mke2fs": ("sbin", "usr/sbin"),
    "debugfs": ("sbin", "usr/sbin"),
    "lz4": ("usr/bin",),
    "zstd": ("usr/bin",),
}


async def build_tree(folder: Path, debs: Sequence[Path], closure: Closure, machine: Machine) -> Recorded:
    """Unpack packages into `folder/root` and try the VMM in it."""
    root = folder / ROOT
    for place in (root, *(root / name for name in ("proc", "sys", "dev", "run", "tmp"))):
        place.mkdir()  # where a confined VMM finds what its supervisor mounts
        place.chmod(0o755)  # whatever the builder's umask: that VMM is another user
    for deb in debs:
        await process.run(["dpkg-deb", "--extract", deb, root])
    for name in ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/lintian", "usr/share/info"):
        await anyio.to_thread.run_sync(partial(shutil.rmtree, root / name, ignore_errors=True))
    qemu = _program(root, machine.qemu, ("usr/bin",))
    if qemu is None:
        raise AgentkernelError(f"the archive's {machine.qemu_package} does not hold {machine.qemu}")
    version = await _qemu_version(_command(root, qemu, machine))
    watched = [
        f"{ROOT}/{qemu}",
        *(f"{ROOT}/{path}" for name in _PROGRAMS if (path := _program(root, name, _PROGRAMS[name]))),
    ]
    return Recorded(
        files=watched,
        inputs={"packages": list(packages(machine))},
        versions=closure.versions(),
        facts={"qemu": version},
        tree=ROOT,
    )


def from_tree(tree: Artefact, name: str, machine: Machine) -> HostTool:
    """One program of the tree. `qemu` is the VMM for this machine."""
    root = tree.file(ROOT)
    program, places = (machine.qemu, ("usr/bin",)) if name == "qemu" else (name, _PROGRAMS.get(name, ()))
    path = _program(root, program, places)
    if path is None:
        raise Unsupported(f"agentkernel has no tool called {name}", hint=f"known: qemu, {', '.join(_PROGRAMS)}")
    version = tree.manifest.facts["qemu"] if name == "qemu" else ""
    return HostTool(f"/{path}", root, version, tree.digest, tuple(_command(root, path, machine)))


async def from_system(name: str, machine: Machine) -> HostTool:
    """A program that the system has.

    Raises:
        Unsupported: it has none, or an older one than we need; the hint names what to install.
    """
    program = machine.qemu if name == "qemu" else name
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if found is None:
        raise Unsupported(
            f"this system has no {program}",
            hint="install it with the system's package manager; README.md lists the packages",
        )
    version = await _qemu_version([found]) if name == "qemu" else ""
    facts = await anyio.to_thread.run_sync(FileFacts.of, Path(found))
    return HostTool(found, Path("/"), version, Digest(facts.sha256), (found,))


def _program(root: Path, name: str, places: Sequence[str]) -> str | None:
    return next((f"{place}/{name}" for place in places if (root / place / name).is_file()), None)


def _command(root: Path, path: str, machine: Machine) -> list[str]:
    """Through the tree's own loader, so that neither root nor the host's C library is needed."""
    triplet = f"{machine.name}-linux-gnu"
    folders = [root / "lib" / triplet, root / "usr/lib" / triplet, root / "lib", root / "usr/lib"]
    loader = next((folder / machine.loader for folder in folders if (folder / machine.loader).is_file()), None)
    if loader is None:
        raise AgentkernelError(f"the tool tree {root} has no {machine.loader}")
    return [str(loader), "--library-path", ":".join(map(str, folders)), str(root / path)]


async def _qemu_version(command: Sequence[str]) -> str:
    """As it says it, `10.0.2`. Raises Unsupported when it is too old."""
    said = await process.run([*command, "--version"])
    found = re.search(r"version (\d+(?:\.\d+)+)", said)
    version = found[1] if found else "0.0"
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_QEMU:
        raise Unsupported(
            f"QEMU {version} is too old, {'.'.join(map(str, OLDEST_QEMU))} or later is needed",
            hint="upgrade the system's QEMU",
        )
    return version
