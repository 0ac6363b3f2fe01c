"""Who is examined. A driver or a lifecycle is added by adding an entry; no test asks which one it has."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agentkernel.drivers.contract import Driver
from agentkernel.drivers.hyperlight.driver import HyperlightDriver
from agentkernel.drivers.vmm.trials import Trials
from agentkernel.drivers.wasm.driver import WasmDriver
from agentkernel.images.store import Store
from agentkernel.model.ids import Digest
from agentkernel.model.kinds import Backend
from agentkernel.model.spec import BootSpec
from tests.support.container_engines import Current
from tests.support.gvisor import gvisor_driver, gvisor_ready, gvisor_spec
from tests.support.machines import (
    Cradle,
    Machine,
    alive,
    booted,
    cloned,
    firecracker_driver,
    firecracker_spec,
    prepare,
    qemu_driver,
    qemu_spec,
)
from tests.support.processes import naming


class Spec(Protocol):
    """Makes a boot specification; sizes may be changed."""

    def __call__(self, store: Store, **changes: int) -> BootSpec: ...


Lifecycle = Callable[[Driver, BootSpec, Path], AbstractAsyncContextManager[Machine]]
"""How a sandbox comes to its caller: leaving the block ends it.

A pooled one is no lifecycle of its own: the engine gets it by one of these, and what it then does to it, a refresh and
a pause, are behaviours here (`life.refresh`, `life.pause`). That none is lent twice is tested where it is decided.
"""


Trace = Callable[[Cradle], set[str]]
"""What this host shows of one sandbox, found as an operator would, by its id and by what the driver recorded."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One driver.

    Attributes:
        ready: everything that the driver needs is there while the block lasts, an engine that it talks to included.
        own_kernel: whether a sandbox runs a kernel that is not the host's.
        lifecycles: how its sandboxes come to be.
        processes: the host's processes that execute a sandbox, as decimal pids; empty when it has ended.
        remains: all that this host still holds of a sandbox, each thing in a few words: its processes, and whatever
            else its driver makes (containers, bundles, cgroups, mounts). Not its birth's folder, which is the engine's.
        end_behind: ends what executes a sandbox, behind the driver's back.
    """

    driver: Callable[[Store], Driver]
    spec: Spec
    ready: Callable[[Store], AbstractContextManager[None]]
    own_kernel: bool
    lifecycles: dict[str, Lifecycle]
    processes: Trace
    remains: Trace
    end_behind: Callable[[Cradle], None]


@contextmanager
def qemu_ready(store: Store) -> Iterator[None]:
    """QEMU, kernel and root file system; nothing of it runs."""
    prepare(store)
    yield


def recorded_processes(birth: Cradle) -> set[str]:
    """The process that a driver recorded as `pid`, while it runs."""
    return {str(pid) for pid in (birth.facts.get("pid", 0),) if alive(int(pid))}


def supervised_remains(birth: Cradle) -> set[str]:
    """Processes of a sandbox that a supervisor of ours holds."""
    recorded = (int(birth.facts.get(name, 0)) for name in ("pid", "supervisor_pid"))
    return {f"process {pid}" for pid in (*naming(birth.id), *recorded) if alive(pid)}


def of_an_engine(backend: Backend) -> Candidate:
    """Containers of an engine that the suite starts for itself."""
    current = Current(backend)
    return Candidate(
        driver=current.driver,
        spec=current.spec,
        ready=current.ready,
        own_kernel=False,
        lifecycles={"fresh": booted},
        processes=current.processes,
        remains=current.remains,
        end_behind=current.end_behind,
    )


def wasm_driver(store: Store) -> WasmDriver:
    """The driver as the daemon makes it."""
    return WasmDriver(store, store.state / "trials")


def wasm_spec(_store: Store, **changes: int) -> BootSpec:
    """A small sandbox; it has no image."""
    sizes = {"memory_mib": 256, "disk_mib": 64, "pids": 256} | changes
    return BootSpec(Backend.WASM, "python", Digest("none"), **sizes)


def hyperlight_driver(store: Store) -> HyperlightDriver:
    """The driver as the daemon makes it."""
    return HyperlightDriver(store, Trials(store.data / "readiness", store.state / "trials"))


def hyperlight_spec(_store: Store, **changes: int) -> BootSpec:
    """A small sandbox; it has no image."""
    sizes = {"memory_mib": 128, "disk_mib": 16, "pids": 16} | changes
    return BootSpec(Backend.HYPERLIGHT, "python", Digest("none"), **sizes)


@contextmanager
def nothing_to_prepare(_store: Store) -> Iterator[None]:
    """What is missing is made on first use."""
    yield


CANDIDATES: dict[str, Candidate] = {
    "qemu": Candidate(
        driver=qemu_driver,
        spec=qemu_spec,
        ready=qemu_ready,
        own_kernel=True,
        lifecycles={"fresh": booted, "forked": cloned},
        processes=recorded_processes,
        remains=supervised_remains,
        end_behind=lambda birth: os.kill(int(birth.facts["pid"]), signal.SIGKILL),
    ),
    "gvisor": Candidate(
        driver=gvisor_driver,
        spec=gvisor_spec,
        ready=gvisor_ready,
        own_kernel=True,
        lifecycles={"fresh": booted},
        processes=recorded_processes,
        remains=supervised_remains,
        end_behind=lambda birth: os.kill(int(birth.facts["pid"]), signal.SIGKILL),
    ),
    "wasm": Candidate(
        driver=wasm_driver,
        spec=wasm_spec,
        ready=nothing_to_prepare,
        own_kernel=False,
        lifecycles={"fresh": booted},
        processes=recorded_processes,
        remains=supervised_remains,
        end_behind=lambda birth: os.kill(int(birth.facts["pid"]), signal.SIGKILL),
    ),
    "hyperlight": Candidate(
        driver=hyperlight_driver,
        spec=hyperlight_spec,
        ready=nothing_to_prepare,
        own_kernel=False,
        lifecycles={"fresh": booted},
        processes=recorded_processes,
        remains=supervised_remains,
        end_behind=lambda birth: os.kill(int(birth.facts["pid"]), signal.SIGKILL),
    ),
    "firecracker": Candidate(
        driver=firecracker_driver,
        spec=firecracker_spec,
        ready=qemu_ready,
        own_kernel=True,
        lifecycles={"fresh": booted, "forked": cloned},
        processes=recorded_processes,
        remains=supervised_remains,
        end_behind=lambda birth: os.kill(int(birth.facts["pid"]), signal.SIGKILL),
    ),
    "docker": of_an_engine(Backend.DOCKER),
    "podman": of_an_engine(Backend.PODMAN),
}


@dataclass(frozen=True, slots=True)
class Subject:
    """A candidate in one lifecycle, ready to make sandboxes."""

    candidate: Candidate
    driver: Driver
    store: Store
    lifecycle: Lifecycle
    place: Path

    def sandbox(self, **sizes: int) -> AbstractAsyncContextManager[Machine]:
        """One that nobody has used."""
        return self.lifecycle(self.driver, self.candidate.spec(self.store, **sizes), self.place)
