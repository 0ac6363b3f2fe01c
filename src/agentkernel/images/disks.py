"""Empty file systems to copy for each sandbox that wants a disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from agentkernel.images import process
from agentkernel.images.shelf import Recorded

DISK = "disk.ext4"
FORMAT = 2
DIRECTORIES = ("workspace", "scratch")
OWNER = 1000
"""The directories that a sandbox binds, and its user. A guest that finds them need not make them: a fifth of the time
that an emulated one spends on mounting.
"""
LARGEST_MIB = 1 << 20
"""One TiB; sparse, so this bounds mistakes, not the disk."""


async def build(folder: Path, mib: int, mke2fs: Sequence[str], debugfs: Sequence[str]) -> Recorded:
    """A sparse ext4. No journal, because the disk dies with its sandbox. The file's holes are zeros already, so the
    kernel need not clear the inode tables in the background, in every sandbox, 16 MiB for each GiB.
    """
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
    extended = ["-E", "assume_storage_prezeroed=1,nodiscard,root_owner=0:0"]
    await process.run([*mke2fs, *options, *extended, "-U", "00000000-0000-4000-8000-000000000000", path])
    commands = folder / "commands"
    commands.write_text("".join(map(_directory, DIRECTORIES)))
    await process.run([*debugfs, "-w", "-f", commands, path])
    commands.unlink()
    return Recorded(files=[DISK], inputs={"mib": mib, "format": FORMAT})


def _directory(name: str) -> str:
    """What debugfs is told; mke2fs alone gives directories only the owners that they have on this host."""
    return f"mkdir {name}\nset_inode_field {name} uid {OWNER}\nset_inode_field {name} gid {OWNER}\n"
