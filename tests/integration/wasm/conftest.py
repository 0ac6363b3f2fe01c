"""A wasm sandbox that these tests share, and one that a test has for itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from tests.conformance.conftest import heed
from tests.support.machines import Machine, booted, store_at

from agentkernel.drivers.contract import Guest
from agentkernel.drivers.wasm.driver import WasmDriver
from agentkernel.model.ids import Digest
from agentkernel.model.kinds import Backend
from agentkernel.model.spec import BootSpec


def wasm_spec(**changes: int) -> BootSpec:
    """A small sandbox."""
    sizes = {"memory_mib": 256, "disk_mib": 16, "pids": 100} | changes
    return BootSpec(Backend.WASM, "python", Digest("none"), **sizes)


@pytest.fixture(scope="package")
def driver(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> WasmDriver:
    """The driver as the daemon makes it, where its probe says that it works."""
    place = tmp_path_factory.mktemp("wasm")
    made = WasmDriver(store_at(place / "state"), place / "trials")
    heed("wasm", anyio.run(made.probe), required="wasm" in request.config.getoption("--require-driver"))
    return made


@pytest.fixture
async def machine(driver: WasmDriver, tmp_path: Path) -> AsyncIterator[Machine]:
    """A sandbox for one test."""
    async with booted(driver, wasm_spec(), tmp_path) as made:
        yield made


@pytest.fixture
def guest(machine: Machine) -> Guest:
    """Its inside."""
    return machine.guest
