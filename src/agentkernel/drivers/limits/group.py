"""What a group of processes with limits is, whatever the mode: values, the two interfaces, and how one is ended."""

from __future__ import annotations

import os
import re
import select
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from agentkernel.drivers.limits import files
from agentkernel.model.errors import Broken, Refused, Unsupported

DESTROY_S = 10.0
STEP_S = 0.05
PERIOD_US = 100_000
LEAST_QUOTA_US = 1000
NAME = re.compile(r"[0-9A-Za-z_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Limits:
    """What the processes of one sandbox may take together.

    Attributes:
        memory_bytes: memory, page cache of their files included. There is no swap beyond it.
        cpus: processors' worth of time, 0.5 is half of one.
        pids: processes and threads.
    """

    memory_bytes: int
    cpus: float
    pids: int

    @property
    def quota_us(self) -> int:
        """Processor time in each `PERIOD_US`."""
        return max(LEAST_QUOTA_US, round(self.cpus * PERIOD_US))


@dataclass(frozen=True, slots=True)
class Stats:
    """What they take. None is what this kernel does not count."""

    memory_bytes: int | None
    memory_peak_bytes: int | None
    cpu_s: float | None
    processes: int | None
    oom_kills: int | None


class Cgroup(ABC):
    """One sandbox's group, in as many folders as there are hierarchies.

    Attributes:
        name: the sandbox's id.
        folders: every folder of it.
    """

    name: str
    folders: tuple[Path, ...]

    @abstractmethod
    def set(self, limits: Limits) -> None:
        """Put limits in place of the former ones; those that cannot be held here are left out.

        Raises:
            Broken: the kernel refused, because more is in use than is allowed now, for instance.
        """

    @abstractmethod
    def freeze(self) -> None:
        """Stop every process in it. Returns when they stand still.

        Raises:
            Broken: they do not, in time.
        """

    @abstractmethod
    def thaw(self) -> None:
        """Let them go on."""

    @abstractmethod
    def kill(self) -> None:
        """Kill every process in it, frozen ones and those that are being forked included. Does not wait for them."""

    @abstractmethod
    def stats(self) -> Stats:
        """What it takes now, and has taken."""

    def attach(self, pid: int) -> None:
        """Move a process in, with all its threads; its later children are born inside.

        What it has already allocated stays with the group it came from, so this comes before the program is executed.

        Raises:
            Broken: there is no such process any more, or it may not be moved.
        """
        for folder in self.folders:
            with refusal(f"process {pid} cannot be moved into {folder}"):
                files.write(folder / "cgroup.procs", pid)

    def processes(self) -> frozenset[int]:
        """Every process in it."""
        return frozenset().union(*(files.processes(folder) for folder in self.folders))

    def destroy(self) -> None:
        """Kill what is in it, wait, and remove it. Nothing there is fine. Blocks for at most `DESTROY_S`.

        Raises:
            Broken: something is still in it, which a process stuck in the kernel can cause.
        """
        deadline = time.monotonic() + DESTROY_S
        while True:
            with suppress(FileNotFoundError):
                self.kill()
            left = [folder for folder in self.folders if not files.remove(folder)]
            if not left:
                return
            if time.monotonic() > deadline:
                raise Broken(f"the cgroup {left[0]} cannot be removed", hint="see what its cgroup.procs names")
            wait_for_death(self.processes(), STEP_S)


class Cgroups(ABC):
    """Where this host lets us make groups.

    Attributes:
        missing: what cannot be held here, each with its reason: `cpu: ...`. Empty is as it should be.
    """

    missing: tuple[str, ...]

    @abstractmethod
    def group(self, name: str) -> Cgroup:
        """The group of that name, whether it is there or not."""

    @abstractmethod
    def homes(self) -> Iterator[Path]:
        """Folders that groups of ours are looked for in, those of a daemon that ran elsewhere included."""

    @abstractmethod
    def found(self, name: str, folders: Iterable[Path]) -> Cgroup:
        """The group that has these folders."""

    def create(self, name: str, limits: Limits) -> Cgroup:
        """An empty group with limits.

        Raises:
            Unsupported: no group can be made here at all.
            Broken: the kernel refused; nothing is left of it then.
        """
        group = self.group(checked(name))
        try:
            for folder in group.folders:
                with refusal(f"the cgroup {folder} cannot be made"):
                    folder.mkdir(mode=0o755)
            group.set(limits)
        except BaseException:
            group.destroy()
            raise
        return group

    def reap(self, name: str) -> None:
        """End what is left of a group, wherever on this host a daemon made it. Nothing there is fine.

        Raises:
            Broken: something is still in it.
        """
        wanted = checked(name)
        folders = [home / wanted for home in self.homes() if (home / wanted).is_dir()]
        if folders:
            self.found(wanted, folders).destroy()


class NoCgroups(Cgroups):
    """A host that has none that we may use."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.missing = tuple(f"{what}: {reason}" for what in ("memory", "swap", "cpu", "pids"))

    def group(self, name: str) -> Cgroup:
        """None can be made."""
        raise Unsupported(f"no limits can be held for {name}: {self.reason}")

    def homes(self) -> Iterator[Path]:
        """None were made."""
        return iter(())

    def found(self, name: str, folders: Iterable[Path]) -> Cgroup:
        """None are there."""
        raise Unsupported(f"there is no group {name}: {self.reason}, {list(folders)}")


class refusal:  # noqa: N801  reads as a statement, like `suppress`
    """Turns the kernel's refusal into one line that says what was wanted."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Raise `Broken` for an OSError."""
        if isinstance(error, OSError):
            raise Broken(f"{self.what}: {error.strerror}") from error


def checked(name: str) -> str:
    """A name that is one folder's, and nothing else.

    Raises:
        Refused: it is not.
    """
    if not NAME.fullmatch(name):
        raise Refused(f"{name!r} cannot name a cgroup")
    return name


def kill_each(folder: Path) -> None:
    """Kill what is in a group, one by one; a pid that was given to a stranger meanwhile is left alone."""
    for pid in files.processes(folder):
        with ExitStack() as stack:
            try:
                pidfd = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            stack.callback(os.close, pidfd)
            if pid in files.processes(folder):
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def wait_for_death(pids: Iterable[int], within_s: float) -> None:
    """Return when one of them is gone, or after that time."""
    with ExitStack() as stack:
        poll = select.poll()
        for pid in pids:
            with suppress(ProcessLookupError):
                pidfd = os.pidfd_open(pid)
                stack.callback(os.close, pidfd)
                poll.register(pidfd, select.POLLIN)
        poll.poll(within_s * 1000)


def settle(is_so: Iterator[bool], what: str) -> None:
    """Wait for what the kernel announces to nobody.

    Raises:
        Broken: it did not come to be in time.
    """
    deadline = time.monotonic() + DESTROY_S
    for so in is_so:
        if so:
            return
        if time.monotonic() > deadline:
            raise Broken(what)
        time.sleep(STEP_S / 10)
