"""Whose sandboxes are made ahead of time."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.engines import eventually
from tests.support.services import service_over

from agentkernel.daemon import service as service_module
from agentkernel.drivers.fake import FakeDriver
from agentkernel.model.kinds import Backend, Mode, Vmm
from agentkernel.protocol import replies, requests
from agentkernel.protocol.words import WireBackend

pytestmark = pytest.mark.anyio


async def test_prewarm_makes_microvms_unless_told_otherwise(tmp_path: Path) -> None:
    microvm, docker = FakeDriver(vmm=Vmm.QEMU), FakeDriver(backend=Backend.DOCKER)
    async with service_over(tmp_path, microvm, docker) as (service, _):
        made = await service.answer(requests.Prewarm(compatibility_mode=Mode.NATIVE))
        assert isinstance(made, replies.Prewarmed)
        assert (made.count, len(microvm.alive), len(docker.alive)) == (2, 2, 0)
        made = await service.answer(requests.Prewarm(compatibility_mode=Mode.CODEX, backend=WireBackend.DOCKER))
        assert isinstance(made, replies.Prewarmed)
        assert (made.count, len(microvm.alive), len(docker.alive)) == (1, 2, 1)


@pytest.mark.parametrize(("backend", "microvms", "containers"), [("firecracker", 2, 0), ("docker", 0, 2)])
async def test_a_daemon_fills_the_backend_that_its_configuration_names(
    backend: str, microvms: int, containers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "FILL_DELAY_S", 0.0)
    microvm, docker = FakeDriver(vmm=Vmm.QEMU), FakeDriver(backend=Backend.DOCKER)
    async with service_over(tmp_path, microvm, docker, pool__prewarm_backend=backend) as (service, engine):
        await service.fill()
        await eventually(lambda: engine.counts().warm == 2)
        assert (len(microvm.alive), len(docker.alive)) == (microvms, containers)
        assert microvm.probed + docker.probed == 1
