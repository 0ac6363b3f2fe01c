"""A hyperlight sandbox that tests share: its machine is restored for each program, so that they do not meet."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest
from tests.conformance.candidates import hyperlight_driver, hyperlight_spec
from tests.conformance.conftest import heed
from tests.support.machines import Machine, booted, store_at

from agentkernel.drivers.contract import Guest
from agentkernel.drivers.hyperlight.driver import HyperlightDriver


@pytest.fixture(scope="package")
def driver(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> HyperlightDriver:
    """The driver as the daemon makes it, where its probe says that it works."""
    made = hyperlight_driver(store_at(tmp_path_factory.mktemp("hyperlight") / "state"))
    heed("hyperlight", anyio.run(made.probe), required="hyperlight" in request.config.getoption("--require-driver"))
    return made


@pytest.fixture(scope="package")
async def machine(driver: HyperlightDriver, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Machine]:
    """One sandbox."""
    place = tmp_path_factory.mktemp("sandbox")
    async with booted(driver, hyperlight_spec(store_at(place / "state")), place) as made:
        yield made


@pytest.fixture
def guest(machine: Machine) -> Guest:
    """Its inside."""
    return machine.guest
