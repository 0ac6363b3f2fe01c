"""Every driver of this installation, made once, in one place. Whoever adds a driver adds a line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agentkernel.drivers.contract import Artifacts, Driver
from agentkernel.drivers.qemu import QemuDriver
from agentkernel.drivers.qemu.accelerator import Verdicts
from agentkernel.drivers.wasm.driver import WasmDriver
from agentkernel.model.kinds import Backend, Vmm


@dataclass(frozen=True, slots=True)
class Settings:
    """What drivers are told of this host and its user's wishes.

    Attributes:
        environ: where DOCKER_HOST and its like are read.
        verdicts: folder where probes that take long keep what they found.
        trials: folder for what probes make, which is gone afterwards.
        docker_host, docker_runtime, podman_host, allow_unlimited: as the configuration's keys of that name.
    """

    environ: Mapping[str, str]
    verdicts: Path
    trials: Path
    docker_host: str = ""
    docker_runtime: str = ""
    podman_host: str = ""
    allow_unlimited: bool = False


def catalogue(artifacts: Artifacts, settings: Settings) -> dict[tuple[Backend, Vmm | None], Driver]:
    """The drivers by what they are known by. Making one does nothing; its probe tells whether it is of use."""
    drivers: list[Driver] = [
        QemuDriver(artifacts, Verdicts(settings.verdicts, settings.trials)),
        WasmDriver(artifacts, settings.trials),
    ]
    return {(driver.backend, driver.vmm): driver for driver in drivers}
