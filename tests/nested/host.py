"""A host with working KVM, wherever the tests run: a microVM of our own whose emulated processor has AMD's
virtualisation (QEMU emulates SVM with nested paging in software), with this project inside. Slow, and real.

What it needs lies on its private disk, written before it boots: the checkout, the Python packages, the artefacts (QEMU,
kernel, base image), and the kernel's KVM modules, which ordinary guests do without.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread

from agentkernel.drivers.contract import Guest
from agentkernel.images import kernel, modules, process
from agentkernel.images.store import Store
from agentkernel.model.execution import Exited, Stderr, Stdout
from agentkernel.model.kinds import Backend, Vmm
from agentkernel.model.spec import BootSpec
from tests.support.machines import cradle, qemu_driver, request

CHECKOUT = Path(__file__).parents[2]
PACKED = ("src", "tests", "tools", "guest/vectors", "pyproject.toml")
TEST_PACKAGES = ("pytest", "hypothesis")
EXTRAS = ("hyperlight",)
RUNTIME = "python"
MEMORY_MIB, DISK_MIB, PROCESSES = 3072, 4096, 4096
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/root",
    "PYTHONPATH": "/workspace/packages:/workspace/checkout:/workspace/checkout/src",
    "PYTHONDONTWRITEBYTECODE": "1",
    "AGENTKERNEL_DATA": "/workspace/data",
    "AGENTKERNEL_HOME": "/scratch/home",
}
PREPARE = """
set -e
for module in $(cat /workspace/modules/order); do busybox insmod /workspace/modules/$module; done
chown -R root:root /workspace/data
python3 /workspace/checkout/tests/nested/adopt.py /workspace/data
test -c /dev/kvm
"""


@dataclass(frozen=True, slots=True)
class Said:
    """What a program of the nested host said, and how it ended."""

    code: int
    stdout: str
    stderr: str


class NestedHost:
    """It runs. Made by `nested_host`."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest

    async def run(self, *argv: str, **env: str) -> Said:
        """A program, as root, in the checkout; to its end."""
        texts = tuple(f"{name}={value}".encode() for name, value in (ENVIRONMENT | env).items())
        wanted = request(*argv, env=texts, cwd="/workspace/checkout", user="root")
        stdout, stderr = bytearray(), bytearray()
        async for event in await self._guest.exec(wanted):
            match event:
                case Stdout(data):
                    stdout += data
                case Stderr(data):
                    stderr += data
                case Exited(code):
                    return Said(code, stdout.decode(errors="replace"), stderr.decode(errors="replace"))
        raise AssertionError(f"{argv} did not run: {event}")


@asynccontextmanager
async def nested_host(store: Store, place: Path) -> AsyncIterator[NestedHost]:
    """A host of that kind for the length of a block.

    Args:
        place: an empty folder with room for some 600 MB, which is removed.
    """
    await store.ensure(RUNTIME)
    await store.ensure("base")
    disk = place / "disk.ext4"
    try:
        await _lay_out(store, place / "files")
        mke2fs = (await store.tool("mke2fs")).command
        disk.touch()
        await process.run(["truncate", "--size", f"{DISK_MIB}M", disk])
        await process.run([*mke2fs, "-q", "-F", "-t", "ext4", "-d", place / "files", disk])
        await anyio.to_thread.run_sync(shutil.rmtree, place / "files")
        spec = BootSpec(
            *(Backend.MICROVM, RUNTIME, store.resolve(RUNTIME), Vmm.QEMU),
            **{"vcpus": 2, "memory_mib": MEMORY_MIB, "disk_mib": DISK_MIB, "pids": PROCESSES},
        )
        birth = cradle(place / "sandboxes")
        birth.disk = disk
        async with qemu_driver(store).boot(spec, birth) as guest:
            host = NestedHost(guest)
            prepared = await host.run("sh", "-c", PREPARE)
            assert prepared.code == 0, prepared
            yield host
    finally:
        shutil.rmtree(place, ignore_errors=True)


async def _lay_out(store: Store, files: Path) -> None:
    """The disk's content: `workspace`, `scratch`."""
    workspace = files / "workspace"
    (workspace / "data" / "images").mkdir(parents=True)
    (files / "scratch").mkdir()
    base = store.resolve("base")
    await store.kernel()  # complete before it is copied, with its initramfs
    kept = ("tools", "kernels", "initramfs", "generations", f"images/{base}")
    for name in kept:
        await process.run(["cp", "--archive", store.data / name, workspace / "data" / name])
    for name in PACKED:
        target = workspace / "checkout" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        await process.run(["cp", "--archive", CHECKOUT / name, target])
    await _install_packages(workspace / "packages", store)
    await _unpack_modules(store, workspace / "modules", files.parent / "unpacked", ("kvm_amd",))


async def _install_packages(target: Path, store: Store) -> None:
    """What the project and its tests import, for the Python of the guest's distribution."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    image = store._shelf.find("images", store.resolve(RUNTIME))
    assert image is not None
    python = image.manifest.versions["python3"]
    minor = re.match(r"\d+\.\d+", python)
    assert minor, python
    await process.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--target", target),
            *("--python-version", minor[0], "--only-binary=:all:"),
            *(*project["dependencies"], *TEST_PACKAGES),
            *(package for extra in EXTRAS for package in project["optional-dependencies"][extra]),
        ],
        env=process.caller_environment("PIP_"),
    )


async def _unpack_modules(store: Store, target: Path, unpacked: Path, wanted: Sequence[str]) -> None:
    """Modules of the guest's own kernel package, decompressed, with `order`."""
    package, newest = store._keys.kernel_package(), store._keys.newest_kernel()
    zstd = (await store.tool("zstd")).command
    unpacked.mkdir()
    async with store._archive():
        apt = store._apt()
        await apt.update(store._progress, "kernel")
        closure = kernel.kernel_part(await apt.closure([package], newest=newest))
        for deb in await apt.fetch(closure, store._progress, "kernel"):
            await process.run(["dpkg-deb", "--extract", deb, unpacked])
    found = {modules.canonical(path.name.partition(".ko")[0]): path for path in unpacked.rglob("*.ko*")}

    def unpack(_name: str, data: bytes) -> bytes:
        return subprocess.run([*zstd, "-dc"], input=data, capture_output=True, check=True).stdout

    def read(name: str) -> bytes | None:
        return kernel._decompressed(found[name], unpack) if name in found else None

    target.mkdir()
    names = modules.load_order(wanted, read)
    for name in names:
        content = read(name)
        assert content is not None
        (target / f"{name}.ko").write_bytes(content)
    (target / "order").write_text("".join(f"{name}.ko\n" for name in names))
    shutil.rmtree(unpacked)
