"""Every driver of this installation, made once, in one place. Whoever adds a driver adds a line to both tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from agentkernel.drivers import apple, docker, firecracker, gvisor, qemu
from agentkernel.drivers.apple import AppleDriver
from agentkernel.drivers.contract import Artifacts, Driver
from agentkernel.drivers.docker import DockerDriver
from agentkernel.drivers.docker.endpoint import docker_endpoint, podman_endpoint
from agentkernel.drivers.firecracker import FirecrackerDriver
from agentkernel.drivers.firecracker.driver import Place
from agentkernel.drivers.gvisor import GvisorDriver
from agentkernel.drivers.hyperlight.about import ABOUT as HYPERLIGHT
from agentkernel.drivers.hyperlight.driver import HyperlightDriver
from agentkernel.drivers.qemu import QemuDriver
from agentkernel.drivers.vmm.trials import Trials
from agentkernel.drivers.wasm.about import ABOUT as WASM
from agentkernel.drivers.wasm.driver import WasmDriver
from agentkernel.model.kinds import Backend, Vmm
from agentkernel.model.readiness import About


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


ABOUT: dict[tuple[Backend, Vmm | None], About] = {
    (Backend.MICROVM, Vmm.QEMU): qemu.ABOUT,
    (Backend.MICROVM, Vmm.FIRECRACKER): firecracker.ABOUT,
    (Backend.APPLE, None): apple.ABOUT,
    (Backend.GVISOR, None): gvisor.ABOUT,
    (Backend.DOCKER, None): docker.DOCKER,
    (Backend.PODMAN, None): docker.PODMAN,
    (Backend.WASM, None): WASM,
    (Backend.HYPERLIGHT, None): HYPERLIGHT,
}
"""What each declares of itself for readers."""


def catalogue(artifacts: Artifacts, settings: Settings) -> dict[tuple[Backend, Vmm | None], Driver]:
    """The drivers by what they are known by. Making one does nothing; its probe tells whether it is of use."""
    trials = partial(Trials, settings.verdicts, settings.trials)  # one each: drivers try at the same time
    drivers: list[Driver] = [
        QemuDriver(artifacts, trials()),
        FirecrackerDriver(artifacts, Place(settings.firecracker, settings.environ, settings.data), trials()),
        AppleDriver(artifacts),
        GvisorDriver(artifacts, trials(), allow_unlimited=settings.allow_unlimited),
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
        HyperlightDriver(artifacts, trials()),
    ]
    return {(driver.backend, driver.vmm): driver for driver in drivers}
