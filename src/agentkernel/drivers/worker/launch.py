"""A worker that comes up: its confinement entered, its start held to a deadline, its failure explained."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

from agentkernel.drivers.confine import ConfinedProcess, Confinement, confined
from agentkernel.drivers.contract import Birth
from agentkernel.drivers.link import PlainSocket
from agentkernel.drivers.worker.guest import WorkerGuest
from agentkernel.model.errors import Broken

WORDS_KEPT = 600


@asynccontextmanager
async def greeted(
    guest_of: type[WorkerGuest],
    confinement_of: Callable[[int], Confinement],
    birth: Birth,
    *,
    pids: int,
    deadline_s: float,
) -> AsyncIterator[WorkerGuest]:
    """A worker that was greeted.

    Args:
        confinement_of: what it gets, by the number of its end of the link.
        deadline_s: from spawn to greeting.
    """
    async with AsyncExitStack() as stack:
        ours, theirs = socket.socketpair()
        stream = PlainSocket(ours)
        stack.push_async_callback(stream.aclose)
        with theirs:
            process = await stack.enter_async_context(confined(confinement_of(theirs.fileno()), birth))
        with _coming_up(process, guest_of.name, deadline_s):
            guest = await stack.enter_async_context(guest_of.attach(stream, birth.identity, pids=pids))
        yield guest


@contextmanager
def _coming_up(process: ConfinedProcess, name: str, deadline_s: float) -> Iterator[None]:
    """Hold a start to its deadline and explain its failure; the deadline ends the worker, and so its stream."""
    loop = asyncio.get_running_loop()
    deadline = loop.call_later(deadline_s, process.kill)
    try:
        yield
    except (Broken, OSError) as err:
        late = deadline.when() <= loop.time()
        reason = f"did not come up within {deadline_s:.0f} s" if late else f"did not come up: {err}"
        words = process.last_words().strip()[-WORDS_KEPT:]
        raise Broken(
            f"the {name} worker {reason}" + (f"; its last words: {words}" if words else ""),
            hint="agentkernel doctor tells what works here",
        ) from err
    finally:
        deadline.cancel()
