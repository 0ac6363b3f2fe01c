"""Finds which mode of cgroups this host has, and where in it groups of ours may be made.

Version 1: below the daemon's own groups, so that whatever holds for the daemon holds for its sandboxes. Version 2 the
same, for root where that group was delegated, for an ordinary user where it is his; there only a group without
processes hands controllers on, so the daemon moves itself into a group beside. Root without a delegated group uses the
top of the hierarchy, as Docker's `cgroupfs` driver does. On a systemd host that group is not in systemd's books; but
systemd leaves alone what it did not make, and no controller can be taken from a group that hands it on.

Source: proc_pid_mountinfo(5); cgroups(7); systemd, "Control Group APIs and Delegation".
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agentkernel.drivers.limits import files
from agentkernel.drivers.limits.group import Cgroups, NoCgroups
from agentkernel.drivers.limits.legacy import HybridCgroups, LegacyCgroups
from agentkernel.drivers.limits.unified import UnifiedCgroups

OURS = "agentkernel"
DAEMON = "agentkernel-daemon"
LIMITING = ("memory", "cpu", "pids")
LEGACY = (*LIMITING, "cpuacct", "freezer")
DELEGATED = ("trusted.delegate", "user.delegate")


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One mounted hierarchy of cgroups.

    Attributes:
        controllers: of version 1; empty for version 2, which says it in a file.
        top: where it is mounted.
        own: the group of this process in it.
    """

    version: int
    controllers: frozenset[str]
    top: Path
    own: Path


def find(proc: Path = Path("/proc"), *, ours: str = OURS) -> Cgroups:
    """Where this process may make groups; makes the folder (called `ours`) for them if it has to.

    Never raises: what cannot be held here is in `missing`, everything if need be.
    """
    try:
        found = list(hierarchies(proc))
    except OSError as error:
        return NoCgroups(f"{proc} cannot be read: {error.strerror}")
    legacy = [one for one in found if one.version == 1 and one.controllers & set(LEGACY)]
    unified = next((one for one in found if one.version == 2), None)
    if legacy:
        return _legacy(legacy, unified, ours, proc)
    if unified:
        return _unified(unified, ours, proc)
    return NoCgroups("no cgroup hierarchy is mounted")


def hierarchies(proc: Path) -> Iterator[Hierarchy]:
    """Every hierarchy that is mounted where this process sees it.

    Raises:
        OSError: there is no such `/proc`.
    """
    own: dict[frozenset[str], str] = {}
    for line in (proc / "self/cgroup").read_text("utf-8", "surrogateescape").splitlines():
        _, names, where = line.split(":", 2)
        own[frozenset(names.split(",")) - {""}] = where
    for line in (proc / "self/mountinfo").read_text("utf-8", "surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        root, point = (unescaped(word) for word in before.split()[3:5])
        kind, _, options = after.split(" ", 2)
        if kind == "cgroup2" and frozenset() in own:
            yield Hierarchy(2, frozenset(), Path(point), _within(Path(point), root, own[frozenset()]))
        elif kind == "cgroup":
            for controllers, path in own.items():
                if controllers and controllers <= set(options.split(",")):
                    yield Hierarchy(1, controllers, Path(point), _within(Path(point), root, path))


def unescaped(text: str) -> str:
    """A path as mountinfo spells it: `\\040` is a blank."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text


def _within(point: Path, root: str, path: str) -> Path:
    """Where a group is seen, given which group is mounted there; the mount point itself when it lies outside."""
    with suppress(ValueError):
        return point / Path(path).relative_to(root)
    return point


def has_swap(proc: Path) -> bool:
    """Whether this host swaps at all."""
    try:
        lines = (proc / "swaps").read_text("utf-8", "replace").splitlines()
    except OSError:
        return False
    return len(lines) > 1


# --- version 1 ---


def _legacy(found: Iterable[Hierarchy], unified: Hierarchy | None, ours: str, proc: Path) -> Cgroups:
    parents: dict[str, Path] = {}
    tops: dict[str, Path] = {}
    missing: list[str] = []
    for one in found:
        parent = one.own / ours
        refused = _made(parent)
        for controller in sorted(one.controllers & set(LEGACY)):
            if refused:
                missing.append(f"{controller}: {refused}")
            else:
                parents[controller], tops[controller] = parent, one.top
    known = {line.partition(":")[0] for line in missing} | set(parents)
    missing += [f"{name}: this kernel has no {name} controller mounted" for name in LIMITING if name not in known]
    missing = [line for line in missing if line.partition(":")[0] in LIMITING]
    if not parents:
        return NoCgroups(missing[0].partition(": ")[2])
    if has_swap(proc) and not (parents.get("memory", Path()) / "memory.memsw.limit_in_bytes").exists():
        missing.append("swap: this kernel does not count it (start it with swapaccount=1)")
    if unified and not _made(unified.own / ours):
        return HybridCgroups(parents, tops, missing, (unified.own / ours, unified.top))
    return LegacyCgroups(parents, tops, missing)


def _made(folder: Path) -> str:
    """Have a folder that groups can be made in; returns why not."""
    try:
        folder.mkdir(mode=0o755, exist_ok=True)
    except OSError as error:
        return f"{folder.parent} takes no group from us: {error.strerror}"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"{folder} is not ours"
    return ""


# --- version 2 ---


def _unified(one: Hierarchy, ours: str, proc: Path) -> Cgroups:
    base = _base(one)
    if base is None:
        return NoCgroups(
            f"the group {one.own} is not ours: start the daemon by `systemd-run --user --scope -p Delegate=yes`"
        )
    return _below(base, one.top, ours, proc)


def _base(one: Hierarchy) -> Path | None:
    """The group that ours may be made in."""
    if os.geteuid() == 0:
        return one.own if _is_delegated(one.own) else one.top
    return one.own if all(os.access(path, os.W_OK) for path in (one.own, one.own / "cgroup.procs")) else None


def _is_delegated(group: Path) -> bool:
    for name in DELEGATED:
        with suppress(OSError):
            if os.getxattr(group, name) == b"1":
                return True
    return False


def _below(base: Path, top: Path, ours: str, proc: Path) -> Cgroups:
    parent = base / ours
    refused = _made(parent)
    if refused:
        return NoCgroups(refused)
    reasons = {}
    for controller in LIMITING:
        reason = _hand_on(base, controller) or _hand_on(parent, controller)
        if reason:
            reasons[controller] = reason
    missing = [f"{controller}: {reason}" for controller, reason in reasons.items()]
    if "memory" in reasons:
        missing.append(f"swap: {reasons['memory']}")
    elif has_swap(proc) and not (parent / "memory.swap.max").exists() and parent != top:
        missing.append("swap: this kernel does not count it (start it with swapaccount=1)")
    return UnifiedCgroups(parent, top, missing)


def _hand_on(group: Path, controller: str) -> str:
    """Switch a controller on for the groups below; returns why that cannot be."""
    try:
        if controller not in (group / "cgroup.controllers").read_text("ascii").split():
            return f"{group} has no such controller"
        if controller in (group / "cgroup.subtree_control").read_text("ascii").split():
            return ""
        with suppress(OSError):
            files.write(group / "cgroup.subtree_control", f"+{controller}")
            return ""
        _step_aside(group)
        files.write(group / "cgroup.subtree_control", f"+{controller}")
    except OSError as error:
        return f"{group} does not hand it on ({error.strerror}): is another process in that group?"
    return ""


def _step_aside(group: Path) -> None:
    """Move this process out of a group that must have none, into one below it."""
    if os.getpid() in files.processes(group):
        daemon = group / DAEMON
        daemon.mkdir(mode=0o755, exist_ok=True)
        files.write(daemon / "cgroup.procs", os.getpid())
