"""One daemon for all end-to-end tests that do not hurt it; those that do start their own."""

from __future__ import annotations

from collections.abc import Iterator

import anyio
import pytest
from tests import conftest
from tests.support.daemons import Daemon, short_home, started

from agentkernel.client import Connection
from agentkernel.images.store import Store


@pytest.fixture(scope="session")
def images() -> None:
    """QEMU, kernel and the images that these tests use: made on a machine that has nothing of ours, found otherwise."""

    async def ensure() -> None:
        store = Store()
        await store.tool("qemu")
        await store.kernel()
        for runtime in ("base", "python"):
            await store.ensure(runtime)

    anyio.run(ensure)


SHARED = {
    "AGENTKERNEL_POOL_MAX_SANDBOXES": "3",
    "AGENTKERNEL_POOL_PREWARM": "",
    "AGENTKERNEL_POOL_QUEUE_TIMEOUT_S": "600",
}
"""A pool of three, no prewarming, and patience for twenty emulated boots in a row."""


@pytest.fixture(scope="session")
def daemon(images: None) -> Iterator[Daemon]:
    """Shared by all tests that do not hurt it."""
    with short_home() as home, started(home, **SHARED) as running:
        conftest.KEPT_ROOTS.add(running.pid)
        yield running
        conftest.KEPT_ROOTS.discard(running.pid)


@pytest.fixture
def connection(daemon: Daemon) -> Iterator[Connection]:
    """A client of the shared daemon."""
    with daemon.connect() as connected:
        yield connected


@pytest.fixture(scope="session")
def lease(daemon: Daemon) -> Iterator[str]:
    """A sandbox of the shared daemon for commands that leave nothing behind: most tests need no fresh one."""
    with daemon.connect() as connected:
        acquired = connected.ask("acquire", runtime="python")["id"]
        yield acquired
        connected.ask("release", id=acquired)
