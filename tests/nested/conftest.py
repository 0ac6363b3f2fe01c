"""One nested host for all tests here: it takes half a minute to make."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.nested.host import NestedHost, nested_host
from tests.support.machines import prepare, store_at


@pytest.fixture(scope="package")
async def nested(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NestedHost]:
    """A host with working KVM."""
    place: Path = tmp_path_factory.mktemp("nested")
    store = store_at(place / "state")
    async with nested_host(store, place / "host") as host:
        yield host


@pytest.fixture(scope="package", autouse=True)
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What every microVM boots from."""
    prepare(store_at(tmp_path_factory.mktemp("prepare")))
