"""First-use builds: one for all, told to all, owned by nobody who may leave."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest
from tests.support.engines import eventually

from agentkernel.daemon.builds import Builds
from agentkernel.model.errors import Busy
from agentkernel.model.ids import Digest

pytestmark = pytest.mark.anyio


class SlowImages:
    """Builds when told to go on."""

    def __init__(self) -> None:
        self.go_on = anyio.Event()
        self.builds = 0
        self.failure: Exception | None = None
        self.built = False
        self.progress: Callable[..., None] | None = None

    def resolve(self, runtime: str) -> Digest:
        return Digest(runtime)

    def is_built(self, runtime: str) -> bool:
        return self.built

    def warm_up(self, runtime: str) -> tuple[tuple[str, ...], ...]:
        return ()

    async def ensure(self, runtime: str, progress: Callable[..., None] | None = None) -> Digest:
        self.builds += 1
        self.progress = progress
        await self.go_on.wait()
        if self.failure:
            raise self.failure
        self.built = True
        return Digest(runtime)


async def test_callers_at_the_same_time_share_one_build_and_its_progress() -> None:
    images = SlowImages()
    builds, told, digests = Builds(images), [], []

    async def tell(line: str) -> None:
        told.append(line)

    async def call() -> None:
        digests.append(await builds.ensure("go", tell))

    async with builds.running(), anyio.create_task_group() as group:
        group.start_soon(call)
        group.start_soon(call)
        await eventually(lambda: images.builds == 1)
        assert images.progress is not None
        images.progress("image go", "download", 0, 50 << 20)
        await eventually(lambda: told == ["image go: download (50 MB)"] * 2)
        images.go_on.set()
    assert (digests, images.builds) == (["go", "go"], 1)


async def test_a_caller_that_leaves_does_not_end_the_build_of_the_others() -> None:
    images = SlowImages()
    builds = Builds(images)
    async with builds.running():
        with anyio.move_on_after(0.01):
            await builds.ensure("go")
        images.go_on.set()
        assert await builds.ensure("go") == "go"
    assert images.builds == 1


async def test_a_build_that_fails_fails_all_who_wait_and_the_next_caller_builds_again() -> None:
    images = SlowImages()
    images.failure = Busy("no space")
    builds, failures = Builds(images), []

    async def call() -> None:
        with pytest.raises(Busy, match="no space"):
            await builds.ensure("go")
        failures.append(1)

    async with builds.running():
        async with anyio.create_task_group() as group:
            group.start_soon(call)
            group.start_soon(call)
            await eventually(lambda: images.builds == 1)
            images.go_on.set()
        images.failure = None
        assert await builds.ensure("go") == "go"
    assert (failures, images.builds) == ([1, 1], 2)
