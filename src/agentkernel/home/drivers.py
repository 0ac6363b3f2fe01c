"""The drivers as a user's configuration wants them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from agentkernel.drivers.catalogue import Settings, catalogue
from agentkernel.drivers.contract import Artifacts, Driver
from agentkernel.model.kinds import Backend, Vmm
from agentkernel.policy.config import Config


def drivers_of(
    config: Config, artifacts: Artifacts, *, environ: Mapping[str, str], data: Path, trials: Path
) -> dict[tuple[Backend, Vmm | None], Driver]:
    """Every driver of this installation. Making them does nothing.

    Args:
        data: our data folder, where probes that take long keep what they found and `setup` keeps programs.
        trials: folder for what probes make, which is gone afterwards.
    """
    settings = Settings(
        environ=environ,
        verdicts=data / "readiness",
        trials=trials,
        data=data,
        firecracker=config.microvm.firecracker,
        docker_host=config.docker.host,
        docker_runtime=config.docker.runtime,
        podman_host=config.podman.host,
        allow_unlimited=config.security.allow_unlimited,
    )
    return catalogue(artifacts, settings)
