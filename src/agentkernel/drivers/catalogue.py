"""Every driver of this installation, made once, in one place. Whoever adds a driver adds a line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from agentkernel.drivers.apple import AppleDriver
from agentkernel.drivers.contract import Artifacts, Driver
from agentkernel.drivers.docker import DockerDriver
from agentkernel.drivers.docker.endpoint import docker_endpoint, podman_endpoint
from agentkernel.drivers.firecracker import FirecrackerDriver
from agentkernel.drivers.firecracker.driver import Place
from agentkernel.drivers.gvisor import GvisorDriver
from agentkernel.drivers.gvisor.trial import Trials
from agentkernel.drivers.hyperlight.driver import HyperlightDriver
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
        data: our own data folder, where `setup` keeps programs; None where there is none.
        firecracker, docker_host, docker_runtime, podman_host, allow_unlimited: as the configuration's keys so named.
    """

    environ: Mapping[str, str]
    verdicts: Path
    trials: Path
    data: Path | None = None
    firecracker: str = ""
    docker_host: str = ""
    docker_runtime: str = ""
    podman_host: str = ""
    allow_unlimited: bool = False


def catalogue(artifacts: Artifacts, settings: Settings) -> dict[tuple[Backend, Vmm | None], Driver]:
    """The drivers by what they are known by. Making one does nothing; its probe tells whether it is of use."""
    drivers: list[Driver] = [
        QemuDriver(artifacts, Verdicts(settings.verdicts, settings.trials)),
        FirecrackerDriver(
            artifacts,
            Place(settings.firecracker, settings.environ, settings.data, settings.verdicts, settings.trials),
        ),
        AppleDriver(artifacts),
        GvisorDriver(artifacts, Trials(settings.verdicts, settings.trials), allow_unlimited=settings.allow_unlimited),
        DockerDriver(
            Backend.DOCKER,
            artifacts,
            partial(docker_endpoint, settings.docker_host, settings.environ),
            files=settings.verdicts,
            runtime=settings.docker_runtime,
            allow_unlimited=settings.allow_unlimited,
        ),
        DockerDriver(
            Backend.PODMAN,
            artifacts,
            partial(podman_endpoint, settings.podman_host, settings.environ),
            files=settings.verdicts,
            allow_unlimited=settings.allow_unlimited,
        ),
        WasmDriver(artifacts, settings.trials),
        HyperlightDriver(artifacts, settings.verdicts, settings.trials),
    ]
    return {(driver.backend, driver.vmm): driver for driver in drivers}
