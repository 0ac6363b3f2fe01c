"""Drivers are tried when somebody wants them, and nobody waits for one that he does not want."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from tests.support.engines import eventually
from tests.support.services import service_over

from agentkernel.drivers.fake import FakeDriver
from agentkernel.engine import probes
from agentkernel.model.errors import Unsupported
from agentkernel.model.kinds import Backend, Vmm
from agentkernel.protocol import replies, requests
from agentkernel.protocol.words import WireBackend

pytestmark = pytest.mark.anyio


def hanging() -> FakeDriver:
    driver = FakeDriver(backend=Backend.DOCKER)
    driver.faults.probe_hangs = True
    return driver


def run(backend: WireBackend) -> requests.Exec:
    return requests.Exec(runtime="base", command=["true"], backend=backend)


async def test_a_probe_that_hangs_delays_only_who_wants_its_driver(tmp_path: Path) -> None:
    microvm, docker = FakeDriver(vmm=Vmm.QEMU), hanging()
    async with service_over(tmp_path, microvm, docker) as (service, _):
        assert isinstance(await service.answer(run(WireBackend.FIRECRACKER)), replies.Executed)
        assert docker.probed == 0
        for waits in (WireBackend.DOCKER, WireBackend.AUTO):
            with anyio.move_on_after(0.05) as patience:
                await service.answer(run(waits))
            assert patience.cancelled_caught
        assert (docker.probed, microvm.probed) == (1, 1)
        assert isinstance(await service.answer(run(WireBackend.FIRECRACKER)), replies.Executed)


async def test_status_shows_what_is_known_and_has_the_rest_tried(tmp_path: Path) -> None:
    microvm, docker = FakeDriver(vmm=Vmm.QEMU), hanging()
    async with service_over(tmp_path, microvm, docker) as (service, engine):
        first = await service.answer(requests.Status())
        assert isinstance(first, replies.StatusReply)
        assert first.drivers == {}
        await eventually(lambda: bool(engine.readiness_now()) and docker.probed == 1)
        second = await service.answer(requests.Status())
        assert isinstance(second, replies.StatusReply)
        assert list(second.drivers) == second.backends == ["firecracker"]


async def test_a_verdict_against_a_driver_is_tried_anew_after_a_while_and_one_for_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker = FakeDriver(backend=Backend.DOCKER)
    docker.faults.unusable = "no engine listens"
    async with service_over(tmp_path, docker) as (service, _):
        for _ in range(2):
            with pytest.raises(Unsupported, match="no engine listens"):
                await service.answer(run(WireBackend.DOCKER))
        assert docker.probed == 1
        monkeypatch.setattr(probes, "STALE_S", 0.0)
        docker.faults.unusable = ""
        for _ in range(2):
            assert isinstance(await service.answer(run(WireBackend.DOCKER)), replies.Executed)
        assert docker.probed == 2
