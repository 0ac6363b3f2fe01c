"""First use of an image: a runtime's is built once, one by name is fetched once, for all who wait for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

from agentkernel.daemon.shared import SharedWork, Work
from agentkernel.drivers.contract import Driver, Tell
from agentkernel.model.ids import Digest
from agentkernel.model.spec import ImageFacts


class Images(Protocol):
    """What the daemon needs of `images`."""

    def resolve(self, runtime: str) -> Digest:
        """The digest of a runtime's image, built or not. Raises NotFound."""

    def is_built(self, runtime: str) -> bool:
        """Whether that image is there."""

    def warm_up(self, runtime: str) -> tuple[tuple[str, ...], ...]:
        """Throwaway commands for its new sandboxes. Raises NotFound."""

    async def ensure(self, runtime: str, progress: Callable[..., None] | None = None) -> Digest:
        """The digest of a runtime's image, which is built first when it is missing."""


class _Activities:
    """Steps of a build as lines: a new one when something else goes on than before, not for every step of it."""

    def __init__(self, work: Work[Digest]) -> None:
        self._work = work
        self._activity = ""

    def progress(self, stage: str, detail: str, done_bytes: int | None = None, total_bytes: int | None = None) -> None:
        """One step."""
        activity = f"{stage}: {detail.partition(' ')[0]}"
        if activity != self._activity:
            self._activity = activity
            self._work.say(activity + (f" ({total_bytes >> 20} MB)" if total_bytes else ""))


class Builds:
    """Images by runtime, built on first use, and images by name, fetched by their driver. Enter `running` first."""

    def __init__(self, images: Images) -> None:
        self._images = images
        self._builds: SharedWork[Digest] = SharedWork()
        self._pulls: SharedWork[ImageFacts] = SharedWork()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Work lives as long as this block; what is under way at its end is given up, and what it made is removed."""
        async with self._builds.running(), self._pulls.running():
            yield

    def is_built(self, runtime: str) -> bool:
        """Whether the image is there."""
        return self._images.is_built(runtime)

    def warm_up(self, runtime: str) -> tuple[tuple[str, ...], ...]:
        """Throwaway commands for its new sandboxes."""
        return self._images.warm_up(runtime)

    async def ensure(self, runtime: str, tell: Tell | None = None) -> Digest:
        """The digest of the runtime's image, once it is there.

        Raises:
            NotFound: no such runtime.
            Busy, Refused: it could not be built; everyone who waited is told the same.
        """
        if self._images.is_built(runtime):
            return self._images.resolve(runtime)

        async def build(work: Work[Digest]) -> Digest:
            return await self._images.ensure(runtime, _Activities(work).progress)

        return await self._builds.result(runtime, build, tell)

    async def readied(self, driver: Driver, runtime: str, tell: Tell | None = None) -> Digest:
        """What a driver without root file systems makes its sandboxes from, made first when it is not there.

        Raises:
            As `Driver.ready`.
        """

        async def make(work: Work[Digest]) -> Digest:
            async def say(line: str) -> None:
                work.say(line)

            return await driver.ready(runtime, say)

        return await self._builds.result(f"{driver.backend} {runtime}", make, tell)

    async def pulled(self, driver: Driver, name: str, tell: Tell | None = None) -> ImageFacts:
        """What that driver finds under a name, fetched first when it has to be. Asked anew each time: a name may mean
        another image tomorrow.

        Raises:
            As `Driver.image`.
        """

        async def pull(work: Work[ImageFacts]) -> ImageFacts:
            async def say(line: str) -> None:
                work.say(line)

            return await driver.image(name, say)

        return await self._pulls.result((driver.backend, driver.vmm, name), pull, tell)
