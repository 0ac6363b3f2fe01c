"""Long work that several callers want at once: done once, by the daemon and not by a caller that may go away."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

import anyio
import anyio.abc

from agentkernel.drivers.contract import Tell
from agentkernel.engine.groups import task_group

T = TypeVar("T")


class Work(Generic[T]):
    """One piece under way. `said` wakes whoever passes its progress on; `result` or `failure` is there once it is
    `over`.
    """

    def __init__(self) -> None:
        self.line = ""
        self.said = anyio.Event()
        self.over = False
        self.result: T | None = None
        self.failure: Exception | None = None

    def say(self, line: str) -> None:
        """What goes on now, for a person."""
        self.line = line
        self._wake()

    def end(self) -> None:
        """Nothing follows."""
        self.over = True
        self._wake()

    def _wake(self) -> None:
        self.said.set()
        self.said = anyio.Event()


class SharedWork(Generic[T]):
    """Work by a key; who asks for a key that is under way waits for that. Enter `running` first."""

    def __init__(self) -> None:
        self._under_way: dict[Hashable, Work[T]] = {}
        self._group: anyio.abc.TaskGroup

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Work lives as long as this block; what is under way at its end is given up."""
        async with task_group() as self._group:
            yield
            self._group.cancel_scope.cancel()

    async def result(self, key: Hashable, do: Callable[[Work[T]], Awaitable[T]], tell: Tell | None) -> T:
        """What `do` returns, begun now or before; its progress to `tell`.

        Raises:
            Whatever it fails with; everyone who waited is told the same, and the next caller begins anew.
        """
        work = self._under_way.get(key)
        if work is None:
            work = self._under_way[key] = Work()
            self._group.start_soon(self._run, key, do, work)
        told = ""
        while not work.over:
            said, line = work.said, work.line
            if tell is not None and line != told:
                told = line
                await tell(line)
            if work.said is said and not work.over:
                await said.wait()
        if work.result is None:
            raise work.failure or RuntimeError("shared work ended without a result")
        return work.result

    async def _run(self, key: Hashable, do: Callable[[Work[T]], Awaitable[T]], work: Work[T]) -> None:
        try:
            work.result = await do(work)
        except Exception as err:
            work.failure = err
        finally:
            del self._under_way[key]
            work.end()
