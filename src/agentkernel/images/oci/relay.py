"""Progress, which is called and must return at once, passed on to whoever takes a line at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio

from agentkernel.images.progress import Progress

Tell = Callable[[str], Awaitable[None]]


@asynccontextmanager
async def relayed(tell: Tell) -> AsyncIterator[Progress]:
    """A `Progress` whose last words are told, one after another; what is overtaken is dropped. A line is new when
    something else goes on, or a tenth more of it is done."""
    line, told = "", ""
    wake = anyio.Event()
    over = False

    def progress(stage: str, detail: str, done_bytes: int | None = None, total_bytes: int | None = None) -> None:
        nonlocal line
        tenths = f", {10 * (done_bytes or 0) // total_bytes * 10} % of {total_bytes >> 20} MiB" if total_bytes else ""
        line = f"{stage}: {detail}{tenths}"
        wake.set()

    failure: Exception | None = None

    async def pass_on() -> None:
        nonlocal told, wake, failure
        try:
            while not (over and line == told):
                await wake.wait()
                wake = anyio.Event()
                while line != told:
                    told = line
                    await tell(told)
        except Exception as error:
            failure = error
            group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(pass_on)
        try:
            yield progress
        except Exception as error:
            failure = error  # raised outside of the group, which would wrap it
        over = True
        wake.set()
    if failure is not None:
        raise failure
