"""The guest kernel: the distribution's cloud kernel package, unpacked; and the initramfs that carries our agent and
the modules."""

from __future__ import annotations

import lzma
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path

import anyio
import anyio.to_thread

from agentkernel.images import cpio, modules, process, vmlinux
from agentkernel.images.packages import Closure, Package
from agentkernel.images.shelf import Artefact, Recorded
from agentkernel.model.errors import AgentkernelError, Unsupported
from agentkernel.model.ids import Digest

IMAGE = "vmlinux"
INITRAMFS = "initramfs.cpio"
_UNPACKED = "unpacked"

Program = Callable[[str], Sequence[str]]
"""Name of a tool to the command that starts it."""


@dataclass(frozen=True, slots=True)
class GuestKernel:
    """A bootable pair; see `Kernel` in the drivers' contract."""

    image: Path
    initramfs: Path
    release: str
    digest: Digest


def kernel_part(closure: Closure) -> Closure:
    """Of all that a kernel package pulls in, the packages with the kernel and its modules."""
    wanted = tuple(
        package
        for package in closure.packages
        if re.match(r"linux-(image|modules)(-unsigned|-extra)?-\d", package.name)
    )
    if not wanted:
        raise AgentkernelError("the archive's kernel package does not lead to a kernel")
    return Closure(wanted, closure.unpacked_bytes)


def needed_mib(packages: Sequence[Package]) -> int:
    """Room for the packages and, uncompressed, for what is in them."""
    return sum(package.size for package in packages) * 8 // (1 << 20)


async def build_kernel(folder: Path, debs: Sequence[Path], closure: Closure, program: Program) -> Recorded:
    """Unpack the kernel into `vmlinux` and `modules/`, in loading order by their numbers."""
    unpacked = folder / _UNPACKED
    unpacked.mkdir()
    for deb in debs:
        await process.run(["dpkg-deb", "--extract", deb, unpacked])
    image = next(iter(sorted(unpacked.glob("boot/vmlinu*"))), None)
    if image is None:
        raise AgentkernelError(f"the kernel package {debs[0].name} holds no kernel")
    release = image.name.partition("-")[2]
    await _extract_image(image, folder / IMAGE, program)
    names = await anyio.to_thread.run_sync(_collect_modules, unpacked, release, folder, partial(_unpack_now, program))
    await anyio.to_thread.run_sync(shutil.rmtree, unpacked)
    return Recorded(
        files=[IMAGE, *(f"modules/{name}" for name in names), "modules/order"],
        versions=closure.versions(),
        facts={"release": release},
    )


async def _extract_image(image: Path, target: Path, program: Program) -> None:
    """The ELF file where we can get at it, else what the package has: a VMM takes that too."""
    raw = await anyio.to_thread.run_sync(image.read_bytes)
    payload = vmlinux.payload_of(raw)
    content = None
    if payload is not None:
        work = (
            partial(vmlinux.unpack, payload)
            if payload.program is None
            else partial(_unpack_now, program, payload.program, payload.data)
        )
        content = await anyio.to_thread.run_sync(work)
    await anyio.to_thread.run_sync(target.write_bytes, content if content and vmlinux.is_elf(content) else raw)


def _unpack_now(program: Program, name: str, data: bytes) -> bytes | None:
    """Through a program of the tool tree; takes a fraction of a second, so it is not worth cancelling."""
    done = subprocess.run(
        [*program(name), "-dc"], input=data, capture_output=True, check=False, env=process.plain_environment()
    )
    return done.stdout if done.returncode == 0 or vmlinux.is_elf(done.stdout) else None


def _collect_modules(
    unpacked: Path, release: str, folder: Path, unpack: Callable[[str, bytes], bytes | None]
) -> list[str]:
    """Write the modules a guest needs, decompressed, and `order`; returns their file names in loading order."""
    below = next(
        path for path in (unpacked / "usr/lib/modules" / release, unpacked / "lib/modules" / release) if path.is_dir()
    )
    found = {modules.canonical(path.name.partition(".ko")[0]): path for path in below.rglob("*.ko*")}
    content: dict[str, bytes] = {}

    def read(name: str) -> bytes | None:
        if name not in content and name in found:
            content[name] = _decompressed(found[name], unpack)
        return content.get(name)

    names = [f"{name}.ko" for name in modules.load_order(modules.WANTED, read)]
    (folder / "modules").mkdir()
    for name in names:
        (folder / "modules" / name).write_bytes(content[name.removesuffix(".ko")])
    (folder / "modules" / "order").write_text("".join(f"{name}\n" for name in names))
    return names


def _decompressed(path: Path, unpack: Callable[[str, bytes], bytes | None]) -> bytes:
    raw = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(raw)
    if path.suffix == ".zst":
        plain = unpack("zstd", raw)
        if plain is None:
            raise AgentkernelError(f"kernel module {path.name} cannot be unpacked")
        return plain
    return raw


def agent_binary(machine: str) -> Path:
    """The guest agent that belongs to this package.

    Raises:
        Unsupported: it was not built.
    """
    path = Path(str(resources.files("agentkernel").joinpath("_bin", f"agent-{machine}")))
    if not path.is_file():
        raise Unsupported(
            f"the guest agent {path.name} is not built", hint="in a source checkout run `make`; a wheel carries it"
        )
    return path


async def build_initramfs(folder: Path, kernel: Artefact, agent: Path) -> Recorded:
    """Agent and modules in one archive. Uncompressed: under emulation unpacking costs more than reading."""

    def pack() -> None:
        order = kernel.file("modules/order").read_text().split()
        members = [
            *(cpio.directory(name) for name in ("dev", "proc", "sys", "run", "modules", "root")),
            cpio.character_device("dev/console", 5, 1),
            cpio.character_device("dev/null", 1, 3, 0o666),
            cpio.regular("init", agent.read_bytes(), 0o755),
            cpio.regular("modules/order", "".join(f"{name}\n" for name in order).encode()),
            *(cpio.regular(f"modules/{name}", kernel.file(f"modules/{name}").read_bytes()) for name in order),
        ]
        (folder / INITRAMFS).write_bytes(cpio.archive(members))

    await anyio.to_thread.run_sync(pack)
    return Recorded(
        files=[INITRAMFS], inputs={"kernel": kernel.digest}, facts={"release": kernel.manifest.facts["release"]}
    )
