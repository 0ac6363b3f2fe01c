"""A worker that comes up: its confinement entered, its start held to a deadline, its failure explained."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from agentkernel.drivers.confine import Confinement, confined
from agentkernel.drivers.contract import Birth
from agentkernel.drivers.link import PlainSocket
from agentkernel.drivers.vmm.coming_up import coming_up
from agentkernel.drivers.worker.guest import WorkerGuest


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
        with coming_up(process, deadline_s, f"{guest_of.name} worker"):
            guest = await stack.enter_async_context(guest_of.attach(stream, birth.identity, pids=pids))
        yield guest
