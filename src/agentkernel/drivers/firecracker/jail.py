"""One jail: the folder that the jailer makes Firecracker's root, the files in it, the jailer's arguments, its cgroups.

Everything that a machine is made of lies in the jail before the jailer starts. What is only read is a hard link where
the file system allows it, so that clones share the memory's pages; else a copy. What is written is the jail's own.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from agentkernel.drivers.confine import private_uid, uid_range
from agentkernel.drivers.firecracker.binary import Binaries
from agentkernel.drivers.firecracker.machine import API
from agentkernel.drivers.vmm.files import copy_sparse
from agentkernel.model.ids import SandboxId

PARENT_CGROUP = "agentkernel-jails"
CGROUPS = Path("/sys/fs/cgroup")
OVERHEAD_MIB = 128
"""What Firecracker may take beside the guest's memory."""
MOST_TASKS = 96
"""32 processors, the API, the monitor, and some to spare."""
OPEN_FILES = 256
CONTROLLERS = ("memory", "pids")


@dataclass(frozen=True, slots=True)
class Cgroups:
    """How this host limits processes.

    Attributes:
        version: 1 or 2; 0 where neither has what we need, and then the monitor is not limited.
        roots: where the hierarchies are mounted.
    """

    version: int
    roots: tuple[Path, ...] = ()


def cgroups(mounts: str, unified: str) -> Cgroups:
    """Read from `/proc/self/mounts`, and from `cgroup.controllers` of the unified hierarchy. Pure."""
    lines = [line.split() for line in mounts.splitlines()]
    first = {
        controller: Path(words[1])
        for words in lines
        if words[2] == "cgroup"
        for controller in CONTROLLERS
        if controller in words[3].split(",")
    }
    if set(first) == set(CONTROLLERS):
        return Cgroups(1, tuple(dict.fromkeys(first.values())))
    second = [Path(words[1]) for words in lines if words[2] == "cgroup2"]
    if second and set(CONTROLLERS) <= set(unified.split()):
        return Cgroups(2, (second[0],))
    return Cgroups(0)


def this_hosts_cgroups() -> Cgroups:
    """Of the machine that we run on."""
    controllers = CGROUPS / "cgroup.controllers"
    return cgroups(Path("/proc/self/mounts").read_text(), controllers.read_text() if controllers.exists() else "")


def remove_cgroups(sandbox: SandboxId, found: Cgroups) -> None:
    """What the jailer made for it and leaves. They are empty by then, or the kernel keeps them."""
    for root in found.roots:
        with suppress(OSError):
            (root / PARENT_CGROUP / sandbox).rmdir()
            (root / PARENT_CGROUP).rmdir()


def own_uid(sandbox: SandboxId) -> int:
    """As whom its Firecracker runs."""
    return private_uid(sandbox, within=uid_range(Path("/proc/self/uid_map").read_text("ascii")))


@dataclass(frozen=True, slots=True)
class Jail:
    """The jail of one sandbox.

    Attributes:
        base: the sandbox's private folder.
        uid: as whom its Firecracker runs, gid alike.
    """

    base: Path
    sandbox: SandboxId
    binaries: Binaries
    uid: int

    @property
    def top(self) -> Path:
        """The first folder below `base` that is the jail's."""
        return self.base / self.binaries.firecracker.name

    @property
    def root(self) -> Path:
        """What Firecracker sees as `/`; the jailer takes it as it is when it is there."""
        return self.top / self.sandbox / "root"

    def arguments(self, memory_mib: int, limits: Cgroups) -> tuple[str, ...]:
        """The jailer's command line. The namespaces are the supervisor's: see `host/README.md`."""
        return (
            *(str(self.binaries.jailer), "--id", self.sandbox, "--exec-file", str(self.binaries.firecracker)),
            *("--uid", str(self.uid), "--gid", str(self.uid), "--chroot-base-dir", str(self.base)),
            *("--resource-limit", f"no-file={OPEN_FILES}"),
            *_limited(memory_mib, limits),
            *("--", "--api-sock", f"/{API}", "--enable-pci"),
        )

    def link(self, source: Path, name: str) -> None:
        """Have a file there that is only read. Raises OSError."""
        target = self.root / name
        if source.stat().st_mode & 0o004:
            with suppress(OSError):  # another file system, or one without hard links
                target.hardlink_to(source)
                return
        copy_sparse(source, target)
        target.chmod(0o444)

    def copy(self, source: Path, name: str) -> Path:
        """Have a file there that is the jail's own. Raises OSError."""
        target = self.root / name
        copy_sparse(source, target)
        os.chown(target, self.uid, self.uid)
        return target

    def lend(self, source: Path, name: str) -> Path:
        """Have a file there that is written in its own place. Raises OSError, on another file system too."""
        target = self.root / name
        target.hardlink_to(source)
        os.chown(target, self.uid, self.uid)
        return target

    def take(self, name: str, target: Path) -> None:
        """Move what Firecracker wrote out of the jail, never to be written again. A link in its place is refused.

        Raises:
            OSError: it is not there, or is no plain file.
        """
        source = self.root / name
        descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode):
                raise OSError(errno.EINVAL, "no plain file", str(source))
            if facts.st_dev == target.parent.stat().st_dev:
                # All else by descriptor: the name is the monitor's, who may change what it means.
                os.fchown(descriptor, os.geteuid(), os.getegid())
                os.fchmod(descriptor, 0o444)
                source.rename(target)
                if target.lstat().st_ino != facts.st_ino:
                    raise OSError(errno.ESTALE, "it was replaced meanwhile", str(source))
            else:
                copy_sparse(Path(f"/proc/self/fd/{descriptor}"), target)
                target.chmod(0o444)
        finally:
            os.close(descriptor)


def _limited(memory_mib: int, limits: Cgroups) -> Sequence[str]:
    if not limits.version:
        return ()
    memory = "memory.limit_in_bytes" if limits.version == 1 else "memory.max"
    size = (memory_mib + OVERHEAD_MIB) << 20
    return (
        *("--cgroup-version", str(limits.version), "--parent-cgroup", PARENT_CGROUP),
        *("--cgroup", f"{memory}={size}", "--cgroup", f"pids.max={MOST_TASKS}"),
    )


@contextmanager
def jailed(base: Path, sandbox: SandboxId, binaries: Binaries, limits: Cgroups) -> Iterator[Jail]:
    """An empty jail; nothing of it is left afterwards. Whoever runs in it has ended by then."""
    jail = Jail(base, sandbox, binaries, own_uid(sandbox))
    try:
        jail.root.mkdir(mode=0o755, parents=True)
        yield jail
    finally:
        shutil.rmtree(jail.top, ignore_errors=True)
        remove_cgroups(sandbox, limits)
