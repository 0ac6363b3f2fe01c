"""The one driver that all faults are injected into, and an engine over it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentkernel.drivers.qemu import QemuDriver
from agentkernel.engine.engine import Engine
from agentkernel.images.store import Store
from agentkernel.model.kinds import Mode
from agentkernel.pool.events import HostLimits, Key, Limits
from tests.support.engines import engine_over
from tests.support.machines import prepare, qemu_driver, qemu_spec, store_at

LIMITS = HostLimits(max_sandboxes=4, recent_use_s=0)
"""Nothing is kept warm behind a test's back."""


@pytest.fixture(scope="package")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Everything that a microVM boots from."""
    made = store_at(tmp_path_factory.mktemp("state"))
    prepare(made)
    return made


@pytest.fixture(scope="package")
def driver(store: Store) -> QemuDriver:
    """The driver as the daemon makes it."""
    return qemu_driver(store)


@pytest.fixture(scope="package")
def key(store: Store) -> Key:
    """What is asked for."""
    return Key(qemu_spec(store, memory_mib=192), Mode.NATIVE)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the engine keeps its journal and its sandboxes."""
    return tmp_path_factory.mktemp("engine")


@pytest.fixture(scope="module")
async def engine(driver: QemuDriver, key: Key, place: Path) -> AsyncIterator[Engine]:
    """Lends sandboxes; whatever a test did to it, it leaves nothing."""
    async with engine_over(driver, place, key=key, limits=LIMITS, warm=Limits(0, 4)) as running:
        yield running
    assert list((place / "sandboxes").iterdir()) == []
