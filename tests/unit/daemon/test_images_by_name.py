"""Requests that name an image, and what of the image holds for their commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.support.engines import eventually
from tests.support.services import service_over

from agentkernel.drivers.fake import FakeDriver
from agentkernel.drivers.fake.driver import DECLARED
from agentkernel.model.errors import NotFound, Refused, Unsupported
from agentkernel.model.ids import Digest
from agentkernel.model.kinds import Backend, Feature, Isolation, Vmm
from agentkernel.model.readiness import Capabilities
from agentkernel.model.spec import ImageFacts
from agentkernel.policy.presets import OUTSIDE_PRESETS
from agentkernel.protocol import replies, requests
from agentkernel.protocol.words import WireBackend

pytestmark = pytest.mark.anyio

WITH_IMAGES = Capabilities(DECLARED | {Feature.IMAGES})
TOOLS = ImageFacts(Digest("a" * 64), {"A": "image", "B": "image"}, "/tmp", "", ("echo",), ("from", "image"))


def docker() -> FakeDriver:
    return FakeDriver(backend=Backend.DOCKER, capabilities=WITH_IMAGES, images={"tools": TOOLS})


def in_image(command: list[str], **fields: Any) -> requests.Exec:
    return requests.Exec(**{"image": "tools", "command": command, "backend": WireBackend.DOCKER, **fields})


async def executed(service: Any, request: requests.Exec) -> replies.Executed:
    reply = await service.answer(request)
    assert isinstance(reply, replies.Executed)
    return reply


async def test_a_command_runs_in_the_image_as_given_and_the_reply_names_it(tmp_path: Path) -> None:
    async with service_over(tmp_path, docker()) as (service, _):
        reply = await executed(service, in_image(["echo", "hello"]))
        assert (reply.stdout, reply.image, reply.backend) == ("hello\n", "tools", "docker")
        runtime = await executed(
            service, requests.Exec(runtime="base", command=["echo", "hello"], backend=WireBackend.DOCKER)
        )
        assert runtime.image is requests.UNSET


async def test_an_empty_command_runs_what_the_image_starts(tmp_path: Path) -> None:
    driver = docker()
    driver.images["silent"] = ImageFacts(Digest("b" * 64))
    async with service_over(tmp_path, driver) as (service, _):
        assert (await executed(service, in_image([]))).stdout == "from image\n"
        with pytest.raises(Refused, match="the image silent names no command"):
            await executed(service, in_image([], image="silent"))


async def test_the_images_environment_and_directory_lie_under_the_requests(tmp_path: Path) -> None:
    async with service_over(tmp_path, docker()) as (service, _):
        told = (await executed(service, in_image(["env"], env={"B": "request"}))).stdout.splitlines()
        assert {"A=image", "B=request"} <= set(told)
        assert (await executed(service, in_image(["pwd"]))).stdout == "/tmp\n"
        assert (await executed(service, in_image(["pwd"], cwd="/"))).stdout == "/\n"


async def test_a_lease_carries_what_its_image_says(tmp_path: Path) -> None:
    async with service_over(tmp_path, docker()) as (service, engine):
        lease = await service.answer(requests.Acquire(image="tools", backend=WireBackend.DOCKER, env={"B": "lease"}))
        assert isinstance(lease, replies.Acquired)
        assert lease.image == "tools"
        there = requests.Exec(image="tools", command=[], sandbox=lease.id)
        assert (await executed(service, there)).stdout == "from image\n"
        told = await executed(service, requests.Exec(runtime="base", command=["env"], sandbox=lease.id))
        assert {"A=image", "B=lease"} <= set(told.stdout.splitlines())
        (forked,) = await engine.fork(lease.id, 1)  # type: ignore[arg-type]
        assert forked.spec.command == ("echo", "from", "image")


async def test_a_backend_without_images_is_refused_before_anything_is_tried_or_fetched(tmp_path: Path) -> None:
    microvm, container = FakeDriver(vmm=Vmm.QEMU), docker()
    async with service_over(tmp_path, microvm, container) as (service, _):
        with pytest.raises(Unsupported, match="lacks images") as caught:
            await executed(service, in_image(["true"], backend=WireBackend.FIRECRACKER))
        assert "docker" in caught.value.hint
        assert (microvm.probed, container.probed, container.pulled) == (0, 0, 0)


async def test_auto_chooses_the_strongest_that_runs_images(tmp_path: Path) -> None:
    strong = FakeDriver(vmm=Vmm.QEMU, isolation=Isolation.VM)
    gvisor = FakeDriver(
        backend=Backend.GVISOR, isolation=Isolation.KERNEL_PROXY, capabilities=WITH_IMAGES, images={"tools": TOOLS}
    )
    async with service_over(tmp_path, docker(), strong, gvisor) as (service, _):
        assert (await executed(service, in_image(["true"], backend=WireBackend.AUTO))).backend == "gvisor"
        base = requests.Exec(runtime="base", command=["true"], backend=WireBackend.AUTO)
        assert (await executed(service, base)).backend == "firecracker"


async def test_callers_at_the_same_time_share_one_fetch_which_outlives_them(tmp_path: Path) -> None:
    driver = docker()
    driver.faults.image_hangs = True
    told: list[str] = []

    async def tell(line: str) -> None:
        told.append(line)

    async with service_over(tmp_path, driver) as (service, _):

        async def call() -> None:
            async with service.placed(in_image(["true"]), tell):
                raise AssertionError("the image is not there")

        async with anyio.create_task_group() as group:
            group.start_soon(call)
            group.start_soon(call)
            await eventually(lambda: told == ["image tools: pull"] * 2)
            group.cancel_scope.cancel()
        with anyio.move_on_after(0.05):
            await call()
        assert (driver.pulled, len(told)) == (1, 3)


async def test_an_image_that_nobody_has_is_told_as_the_driver_tells_it(tmp_path: Path) -> None:
    async with service_over(tmp_path, docker()) as (service, _):
        with pytest.raises(NotFound, match="nobody has the image zzz"):
            await executed(service, in_image(["true"], image="zzz"))


async def test_an_image_is_kept_warm_as_any_runtime_outside_the_presets(tmp_path: Path) -> None:
    async with service_over(tmp_path, docker()) as (service, engine):
        await executed(service, in_image(["true"]))
        assert (engine.counts().min_warm, engine.counts().max_warm) == (
            OUTSIDE_PRESETS.min_warm,
            OUTSIDE_PRESETS.max_warm,
        )


async def test_the_configured_image_takes_the_place_of_the_runtime(tmp_path: Path) -> None:
    async with service_over(tmp_path, docker(), sandbox__image="tools") as (service, _):
        request = requests.Exec(runtime="python", command=["pwd"], backend=WireBackend.DOCKER)
        assert ((await executed(service, request)).stdout, (await executed(service, request)).image) == (
            "/tmp\n",
            "tools",
        )
