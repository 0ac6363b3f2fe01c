"""Version 1: one hierarchy per controller. And the hybrid: a version 2 hierarchy beside them kills and freezes.

Source: the kernel's admin-guide/cgroup-v1 (memory.rst, freezer-subsystem.rst, pids.rst), scheduler/sched-bwc.rst.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from agentkernel.drivers.limits import files
from agentkernel.drivers.limits.group import (
    PERIOD_US,
    Cgroup,
    Cgroups,
    Limits,
    Stats,
    kill_each,
    refusal,
    settle,
)
from agentkernel.drivers.limits.unified import freeze_unified, kill_unified, thaw_unified

NANOSECONDS = 1e9


class LegacyCgroup(Cgroup):
    """One folder per controller; controllers that are mounted together share theirs."""

    def __init__(self, name: str, by_controller: Mapping[str, Path]) -> None:
        self.name = name
        self._at = by_controller
        self.folders = tuple(dict.fromkeys(by_controller.values()))

    def set(self, limits: Limits) -> None:
        """Memory and memory with swap are two limits, and the second may at no time be below the first."""
        with refusal(f"the limits of {self.name} cannot be set"):
            if "memory" in self._at:
                self._set_memory(self._at["memory"], limits.memory_bytes)
            if "cpu" in self._at:
                files.write(self._at["cpu"] / "cpu.cfs_period_us", PERIOD_US)
                files.write(self._at["cpu"] / "cpu.cfs_quota_us", limits.quota_us)
            if "pids" in self._at:
                files.write(self._at["pids"] / "pids.max", limits.pids)

    @staticmethod
    def _set_memory(folder: Path, most: int) -> None:
        plain, with_swap = folder / "memory.limit_in_bytes", folder / "memory.memsw.limit_in_bytes"
        former = files.number(with_swap)
        order = [plain, with_swap] if former is None or most <= former else [with_swap, plain]
        for path in order:
            if path == plain or former is not None:
                files.write(path, most)

    def freeze(self) -> None:
        """A frozen process does not even die."""
        if "freezer" in self._at:
            state = self._at["freezer"] / "freezer.state"
            with refusal(f"{self.name} cannot be frozen"):
                files.write(state, "FROZEN")
            settle(self._states(state, "FROZEN"), f"{self.name} does not stand still")

    def thaw(self) -> None:
        """Nothing to do is fine."""
        if "freezer" in self._at:
            with suppress(FileNotFoundError), refusal(f"{self.name} cannot be thawed"):
                files.write(self._at["freezer"] / "freezer.state", "THAWED")

    @staticmethod
    def _states(path: Path, wanted: str) -> Iterator[bool]:
        while True:
            files.write(path, wanted)  # asked again: a process that was being forked is caught this way
            yield path.read_text("ascii").strip() == wanted

    def kill(self) -> None:
        """Frozen first, so that none forks away; they die when they are thawed."""
        frozen = self._at.get("freezer")
        if frozen is not None:
            with suppress(OSError):
                files.write(frozen / "freezer.state", "FROZEN")
        for folder in self.folders:
            kill_each(folder)
        if frozen is not None:
            with suppress(OSError):
                files.write(frozen / "freezer.state", "THAWED")

    def stats(self) -> Stats:
        """From each controller that is here."""
        memory, pids, time = (self._at.get(name) for name in ("memory", "pids", "cpuacct"))
        used = files.number(time / "cpuacct.usage") if time else None
        return Stats(
            memory_bytes=files.number(memory / "memory.usage_in_bytes") if memory else None,
            memory_peak_bytes=files.number(memory / "memory.max_usage_in_bytes") if memory else None,
            cpu_s=None if used is None else used / NANOSECONDS,
            processes=files.number(pids / "pids.current") if pids else None,
            oom_kills=files.field(memory / "memory.oom_control", "oom_kill") if memory else None,
        )


class HybridCgroup(LegacyCgroup):
    """The same with a folder in a version 2 hierarchy that has no controller, but kills and freezes at once."""

    def __init__(self, name: str, by_controller: Mapping[str, Path], unified: Path) -> None:
        super().__init__(name, by_controller)
        self._unified = unified
        self.folders = (*self.folders, unified)

    def freeze(self) -> None:
        """By the version 2 hierarchy."""
        freeze_unified(self._unified, self.name)

    def thaw(self) -> None:
        """By the version 2 hierarchy."""
        thaw_unified(self._unified, self.name)

    def kill(self) -> None:
        """By the version 2 hierarchy; a process that was moved only half way in is found by the others."""
        kill_unified(self._unified)
        super().kill()


class LegacyCgroups(Cgroups):
    """Groups below the daemon's own group of each hierarchy, so that its own limits hold for them too.

    Args:
        parents: controller to the folder that groups are made in.
        tops: where each hierarchy is mounted.
    """

    def __init__(self, parents: Mapping[str, Path], tops: Mapping[str, Path], missing: Iterable[str]) -> None:
        self.parents = dict(parents)
        self.tops = dict(tops)
        self.missing = tuple(missing)

    def group(self, name: str) -> Cgroup:
        """One folder in each parent."""
        return LegacyCgroup(name, {controller: parent / name for controller, parent in self.parents.items()})

    def homes(self) -> Iterator[Path]:
        """Every folder of the name that our parents have, in each hierarchy."""
        for controller, parent in self.parents.items():
            yield from homes_below(self.tops[controller], parent.name)

    def found(self, name: str, folders: Iterable[Path]) -> Cgroup:
        """Folders are told apart by the hierarchy that they are in."""
        known = tuple(folders)
        group = LegacyCgroup(name, self._by_controller(known))
        group.folders = known
        return group

    def _by_controller(self, folders: Iterable[Path]) -> dict[str, Path]:
        return {
            controller: folder
            for folder in folders
            for controller in self.parents
            if folder.is_relative_to(self.tops[controller])
        }


class HybridCgroups(LegacyCgroups):
    """The same, where a version 2 hierarchy stands beside them."""

    def __init__(
        self, parents: Mapping[str, Path], tops: Mapping[str, Path], missing: Iterable[str], unified: tuple[Path, Path]
    ) -> None:
        super().__init__(parents, tops, missing)
        self.unified, self.unified_top = unified

    def group(self, name: str) -> Cgroup:
        """One folder in each parent, and one in the version 2 hierarchy."""
        at = {controller: parent / name for controller, parent in self.parents.items()}
        return HybridCgroup(name, at, self.unified / name)

    def homes(self) -> Iterator[Path]:
        """Those of version 1, and those of version 2."""
        yield from super().homes()
        yield from homes_below(self.unified_top, self.unified.name)

    def found(self, name: str, folders: Iterable[Path]) -> Cgroup:
        """The version 2 folder may be what a crash left out."""
        known = tuple(folders)
        unified = [folder for folder in known if folder.is_relative_to(self.unified_top)]
        if not unified:
            return super().found(name, known)
        group = HybridCgroup(name, self._by_controller(known), unified[0])
        group.folders = known
        return group


def homes_below(top: Path, name: str) -> Iterator[Path]:
    """Every group of that name below a mount point."""
    return (folder for folder in files.below(top) if folder.name == name)
