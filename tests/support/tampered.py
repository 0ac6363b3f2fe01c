"""Artefacts with one of them replaced by something that will not do."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from agentkernel.drivers.contract import Kernel
from agentkernel.images import cpio
from agentkernel.images.kernel import GuestKernel
from agentkernel.images.store import Store
from agentkernel.images.tools import HostTool, this_machine
from agentkernel.model.ids import Digest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Tampered:
    """`Artifacts` of a store but for what is given here. The kernel keeps its digest, and so the verdict on it."""

    store: Store
    root_image: Path | None = None
    initramfs: Path | None = None
    agent_binary: Path | None = None

    def agent(self, machine: str) -> Path:
        """The one given, or the store's."""
        return self.agent_binary or self.store.agent(machine)

    async def root(self, image: Digest) -> Path:
        """The one given, or the store's."""
        return self.root_image or await self.store.root(image)

    async def tool(self, name: str) -> HostTool:
        """The store's."""
        return await self.store.tool(name)

    async def kernel(self) -> Kernel:
        """The store's, with the initramfs given."""
        kernel: GuestKernel = await self.store.kernel()
        return kernel if self.initramfs is None else replace(kernel, initramfs=self.initramfs)

    async def blank_disk(self, mib: int) -> Path:
        """The store's."""
        return await self.store.blank_disk(mib)


def members(archive: bytes) -> Iterator[cpio.Member]:
    """What a `newc` archive holds."""
    at = 0
    while True:
        fields = [int(archive[at + 6 + 8 * number : at + 14 + 8 * number], 16) for number in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        start = at + 110
        name = archive[start : start + name_size - 1].decode()
        body = (start + name_size + 3) & ~3
        if name == "TRAILER!!!":
            return
        yield cpio.Member(name, mode, archive[body : body + size], (fields[9], fields[10]))
        at = (body + size + 3) & ~3


def compiled(source: Path, target: Path) -> bytes:
    """A static program for this machine."""
    compiler = subprocess.run(
        [ROOT / "tools" / "cc.sh", this_machine().name], check=True, capture_output=True, text=True
    ).stdout.split()
    subprocess.run([*compiler, "-static", "-O1", "-o", target, source], check=True)
    return target.read_bytes()
