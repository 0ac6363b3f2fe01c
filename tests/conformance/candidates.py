"""Who is examined. A driver or a lifecycle is added by adding an entry; no test asks which one it has."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agentkernel.drivers.contract import Driver
from agentkernel.images.store import Store
from agentkernel.model.spec import BootSpec
from tests.support.machines import (
    Machine,
    booted,
    cloned,
    firecracker_driver,
    firecracker_spec,
    prepare,
    qemu_driver,
    qemu_spec,
)


class Spec(Protocol):
    """Makes a boot specification; sizes may be changed."""

    def __call__(self, store: Store, **changes: int) -> BootSpec: ...


Lifecycle = Callable[[Driver, BootSpec, Path], AbstractAsyncContextManager[Machine]]
"""How a sandbox comes to its caller: leaving the block ends it."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One driver.

    Attributes:
        prepare: has everything there that the driver needs.
        own_kernel: whether a sandbox runs a kernel that is not the host's.
        lifecycles: how its sandboxes come to be.
        end_behind: ends what executes a sandbox, behind the driver's back, given what the driver recorded of it.
    """

    driver: Callable[[Store], Driver]
    spec: Spec
    prepare: Callable[[Store], None]
    own_kernel: bool
    lifecycles: dict[str, Lifecycle]
    end_behind: Callable[[dict[str, str | int]], None]


CANDIDATES: dict[str, Candidate] = {
    "qemu": Candidate(
        driver=qemu_driver,
        spec=qemu_spec,
        prepare=prepare,
        own_kernel=True,
        lifecycles={"fresh": booted, "forked": cloned},
        end_behind=lambda facts: os.kill(int(facts["pid"]), signal.SIGKILL),
    ),
    "firecracker": Candidate(
        driver=firecracker_driver,
        spec=firecracker_spec,
        prepare=prepare,
        own_kernel=True,
        lifecycles={"fresh": booted, "forked": cloned},
        end_behind=lambda facts: os.kill(int(facts["pid"]), signal.SIGKILL),
    ),
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
