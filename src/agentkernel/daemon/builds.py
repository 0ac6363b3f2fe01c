"""First use of a runtime: its image is built once, for all who wait for it, by the daemon and not by a caller that may
go away.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

import anyio
import anyio.abc

from agentkernel.drivers.contract import Tell
from agentkernel.engine.groups import task_group
from agentkernel.model.ids import Digest

LINES_KEPT = 8


class Images(Protocol):
    """What the daemon needs of `images`."""

    def resolve(self, runtime: str) -> Digest:
        """The digest of a runtime's image, built or not. Raises NotFound."""

    def is_built(self, runtime: str) -> bool:
        """Whether that image is there."""

    async def ensure(self, runtime: str, progress: Callable[..., None] | None = None) -> Digest:
        """The digest of a runtime's image, which is built first when it is missing."""


class _Build:
    """One build under way. `said` wakes whoever passes its progress on; `digest` or `failure` is there once it is
    `over`.
    """

    def __init__(self) -> None:
        self.line = ""
        self._activity = ""
        self.said = anyio.Event()
        self.over = False
        self.digest: Digest | None = None
        self.failure: Exception | None = None

    def progress(self, stage: str, detail: str, done_bytes: int | None = None, total_bytes: int | None = None) -> None:
        """A new line when something else goes on than before, not for every step of it."""
        activity = f"{stage}: {detail.partition(' ')[0]}"
        if activity != self._activity:
            self._activity = activity
            self.line = activity + (f" ({total_bytes >> 20} MB)" if total_bytes else "")
            self._wake()

    def end(self) -> None:
        """Nothing follows."""
        self.over = True
        self._wake()

    def _wake(self) -> None:
        self.said.set()
        self.said = anyio.Event()


class Builds:
    """Images by runtime, built on first use. Enter `running` first."""

    def __init__(self, images: Images) -> None:
        self._images = images
        self._under_way: dict[str, _Build] = {}
        self._group: anyio.abc.TaskGroup

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Builds live as long as this block; those under way at its end are given up, and what they made is removed."""
        async with task_group() as self._group:
            yield
            self._group.cancel_scope.cancel()

    def is_built(self, runtime: str) -> bool:
        """Whether the image is there."""
        return self._images.is_built(runtime)

    async def ensure(self, runtime: str, tell: Tell | None = None) -> Digest:
        """The digest of the runtime's image, once it is there.

        Raises:
            NotFound: no such runtime.
            Busy, Refused: it could not be built; everyone who waited is told the same.
        """
        if self._images.is_built(runtime):
            return self._images.resolve(runtime)
        build = self._under_way.get(runtime)
        if build is None:
            build = self._under_way[runtime] = _Build()
            self._group.start_soon(self._run, runtime, build)
        told = ""
        while not build.over:
            said, line = build.said, build.line
            if tell is not None and line != told:
                told = line
                await tell(line)
            if build.said is said and not build.over:
                await said.wait()
        if build.digest is None:
            raise build.failure or RuntimeError("a build ended without a result")
        return build.digest

    async def _run(self, runtime: str, build: _Build) -> None:
        try:
            build.digest = await self._images.ensure(runtime, build.progress)
        except Exception as err:
            build.failure = err
        finally:
            del self._under_way[runtime]
            build.end()
