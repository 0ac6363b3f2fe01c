"""Subjects and the sandboxes they share."""

from __future__ import annotations

import tomllib
from collections.abc import AsyncIterator, Generator, Iterator
from functools import cache
from pathlib import Path

import anyio
import pytest

from agentkernel.drivers.contract import Guest
from agentkernel.model.errors import Unsupported
from agentkernel.model.kinds import Feature
from agentkernel.model.readiness import Readiness
from tests.conformance.candidates import CANDIDATES, Subject
from tests.support.machines import Machine, store_at

MANIFEST = Path(__file__).with_name("behaviours.toml")


@cache
def manifest() -> dict[str, dict[str, str]]:
    """Behaviour id, `group.name`, to its text, source, and the feature that it requires, if any."""
    groups = tomllib.loads(MANIFEST.read_text())
    return {f"{group}.{name}": facts for group, names in groups.items() for name, facts in names.items()}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test that uses a subject runs for each driver in each of its lifecycles."""
    if "subject" in metafunc.fixturenames:
        pairs = [(name, way) for name, candidate in CANDIDATES.items() for way in candidate.lifecycles]
        metafunc.parametrize("subject", pairs, ids=["-".join(pair) for pair in pairs], indirect=True, scope="package")


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """A behaviour whose feature the driver does not declare is not skipped: what its test does is Unsupported."""
    subject = pyfuncitem.funcargs.get("subject")
    asked = [manifest().get(mark.args[0], {}) for mark in pyfuncitem.iter_markers("behaviour")]
    lacking = isinstance(subject, Subject) and any(
        Feature(facts["requires"]) not in subject.driver.capabilities for facts in asked if "requires" in facts
    )
    if not lacking:
        runs_all = not isinstance(subject, Subject) or subject.driver.programs is None
        if runs_all or all(facts.get("bare") for facts in asked):
            return (yield)
        # A driver that runs only programs of its own: what needs another one is Unsupported, the rest holds.
        try:
            return (yield)
        except Unsupported:
            return True
        except BaseExceptionGroup as errors:
            if errors.split(Unsupported)[1] is None:
                return True
            raise
    with pytest.raises(Unsupported):
        yield
    return True


def heed(name: str, verdict: Readiness, *, required: bool) -> None:
    """Skip the tests of a driver that cannot work here, or fail them where it has to."""
    if not verdict.usable:
        end = pytest.fail if required else pytest.skip
        end(f"{name}: {verdict.reason}; {verdict.remedy}")


@pytest.fixture(scope="package")
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    """A driver whose probe says that it works here, in one lifecycle."""
    name, way = request.param
    candidate = CANDIDATES[name]
    place = tmp_path_factory.mktemp(name)
    sandboxes = place / "sandboxes"
    sandboxes.mkdir()
    store = store_at(place / "state")
    with candidate.ready(store):
        driver = candidate.driver(store)
        verdict = anyio.run(driver.probe)
        heed(name, verdict, required=name in request.config.getoption("--require-driver"))
        yield Subject(candidate, driver, store, candidate.lifecycles[way], sandboxes)


@pytest.fixture(scope="package")
async def machine(subject: Subject) -> AsyncIterator[Machine]:
    """A sandbox that all tests of this suite share, who leave it as they found it."""
    async with subject.sandbox() as made:
        yield made


@pytest.fixture(scope="package")
async def sibling(subject: Subject) -> AsyncIterator[Machine]:
    """Another one, beside it."""
    async with subject.sandbox() as made:
        yield made


@pytest.fixture
def guest(machine: Machine) -> Guest:
    """The shared sandbox's inside."""
    return machine.guest
