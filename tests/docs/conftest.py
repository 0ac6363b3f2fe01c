"""One daemon for the examples of the documents, in a home of its own."""

from __future__ import annotations

from collections.abc import Iterator

import anyio
import pytest
from tests import conftest
from tests.support.daemons import Daemon, short_home, started

from agentkernel.images.store import Store


@pytest.fixture(scope="session")
def daemon() -> Iterator[Daemon]:
    """With nothing warm: an example shows what a first request does."""

    async def ensure() -> None:
        store = Store()
        await store.kernel()
        await store.ensure("base")

    anyio.run(ensure)
    with (
        short_home() as home,
        started(home, AGENTKERNEL_POOL_PREWARM="", AGENTKERNEL_POOL_MAX_SANDBOXES="2") as running,
    ):
        conftest.KEPT_ROOTS.add(running.pid)
        yield running
        conftest.KEPT_ROOTS.discard(running.pid)
