"""Version 2: one hierarchy, where only groups without processes of their own hand controllers on.

Source: the kernel's admin-guide/cgroup-v2.rst; systemd, "Control Group APIs and Delegation".
"""

from __future__ import annotations

import select
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from agentkernel.drivers.limits import files
from agentkernel.drivers.limits.group import DESTROY_S, PERIOD_US, Cgroup, Cgroups, Limits, Stats, kill_each, refusal
from agentkernel.model.errors import Broken

MICROSECONDS = 1e6


class UnifiedCgroup(Cgroup):
    """One folder."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folders = (folder,)
        self._folder = folder

    def set(self, limits: Limits) -> None:
        """A file that is not there belongs to a controller that is missing, which was said."""
        values: dict[str, int | str] = {
            "memory.max": limits.memory_bytes,
            "memory.swap.max": 0,
            "cpu.max": f"{limits.quota_us} {PERIOD_US}",
            "pids.max": limits.pids,
        }
        for name, value in values.items():
            path = self._folder / name
            if path.exists():
                with refusal(f"{name} of {self.name} cannot be set"):
                    files.write(path, value)

    def freeze(self) -> None:
        """Frozen processes can be killed."""
        freeze_unified(self._folder, self.name)

    def thaw(self) -> None:
        """Nothing to do is fine."""
        thaw_unified(self._folder, self.name)

    def kill(self) -> None:
        """All at once since Linux 5.14."""
        kill_unified(self._folder)

    def stats(self) -> Stats:
        """The peak is counted since Linux 5.19."""
        used = files.field(self._folder / "cpu.stat", "usage_usec")
        return Stats(
            memory_bytes=files.number(self._folder / "memory.current"),
            memory_peak_bytes=files.number(self._folder / "memory.peak"),
            cpu_s=None if used is None else used / MICROSECONDS,
            processes=files.number(self._folder / "pids.current"),
            oom_kills=files.field(self._folder / "memory.events", "oom_kill"),
        )


class UnifiedCgroups(Cgroups):
    """Groups in one folder of the hierarchy.

    Args:
        parent: the folder; controllers are on in it.
        top: where the hierarchy is mounted.
    """

    def __init__(self, parent: Path, top: Path, missing: Iterable[str]) -> None:
        self.parent = parent
        self.top = top
        self.missing = tuple(missing)

    def group(self, name: str) -> Cgroup:
        """One folder."""
        return UnifiedCgroup(name, self.parent / name)

    def homes(self) -> Iterator[Path]:
        """Every folder of our parent's name."""
        return (folder for folder in files.below(self.top) if folder.name == self.parent.name)

    def found(self, name: str, folders: Iterable[Path]) -> Cgroup:
        """One is the rule; more are ended together."""
        group = UnifiedCgroup(name, self.parent / name)
        group.folders = tuple(folders)
        group._folder = group.folders[0]
        return group


def freeze_unified(folder: Path, name: str) -> None:
    """Freeze and wait until the kernel says that all stand still.

    Raises:
        Broken: they do not, in time.
    """
    with refusal(f"{name} cannot be frozen"):
        files.write(folder / "cgroup.freeze", 1)
    events = folder / "cgroup.events"
    with events.open("rb", buffering=0) as stream:
        poll = select.poll()
        poll.register(stream, select.POLLPRI)
        while files.field(events, "frozen") != 1:
            stream.seek(0)
            stream.read()  # the kernel announces what changed since it was last read
            if files.field(events, "frozen") == 1:
                return
            if not poll.poll(DESTROY_S * 1000):
                raise Broken(f"{name} does not stand still")


def thaw_unified(folder: Path, name: str) -> None:
    """Let them go on."""
    with refusal(f"{name} cannot be thawed"):
        files.write(folder / "cgroup.freeze", 0)


def kill_unified(folder: Path) -> None:
    """Kill all below; before Linux 5.14 frozen first, so that none forks away."""
    with suppress(FileNotFoundError):
        if (folder / "cgroup.kill").exists():
            files.write(folder / "cgroup.kill", 1)
            return
        with suppress(OSError):
            files.write(folder / "cgroup.freeze", 1)
        kill_each(folder)
        with suppress(OSError):
            files.write(folder / "cgroup.freeze", 0)
