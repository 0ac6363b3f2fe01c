"""Empty file systems to copy for each sandbox that wants a disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from agentkernel.images import process
from agentkernel.images.shelf import Recorded

DISK = "disk.ext4"
LARGEST_MIB = 1 << 20
"""One TiB; sparse, so this bounds mistakes, not the disk."""


async def build(folder: Path, mib: int, mke2fs: Sequence[str]) -> Recorded:
    """A sparse ext4. No journal, because the disk dies with its sandbox; tables are left to be made when first used."""
    path = folder / DISK
    path.touch(mode=0o600)
    os.truncate(path, mib << 20)
    options = [
        "-q",
        "-F",
        "-t",
        "ext4",
        "-L",
        "agentkernel",
        "-m",
        "0",
        "-O",
        "^has_journal,^resize_inode",
        "-b",
        "4096",
    ]
    extended = ["-E", "lazy_itable_init=1,nodiscard,root_owner=0:0", "-U", "00000000-0000-4000-8000-000000000000"]
    await process.run([*mke2fs, *options, *extended, path])
    return Recorded(files=[DISK], inputs={"mib": mib})
