"""Real builds. AGENTKERNEL_TEST_DATA names a data folder to keep from run to run; without it each run makes its own."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentkernel.images.store import Store


@pytest.fixture(scope="session")
def anyio_backend():
    return "asyncio"


@pytest.fixture(autouse=True)
def _umask_of_a_daemon() -> Iterator[None]:
    """Which is stricter than most users': what is made under it must still be read inside."""
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.fixture(scope="session")
def environment(tmp_path_factory) -> dict[str, str]:
    """What a store is made from: a data folder that tests of this session share, and a state folder of its own."""
    if shutil.which("apt-get") is None:
        pytest.skip("images are built from a Debian or Ubuntu archive; this host has no apt-get")
    data = os.environ.get("AGENTKERNEL_TEST_DATA") or str(tmp_path_factory.mktemp("data") / "agentkernel")
    return dict(os.environ) | {
        "AGENTKERNEL_DATA": data,
        "AGENTKERNEL_HOME": str(tmp_path_factory.mktemp("home") / "ak"),
    }


@pytest.fixture(scope="session")
def agent(environment) -> Path:
    """The guest agent, or a reason to skip: it is built by `make`, not by these tests."""
    from agentkernel.images.kernel import agent_binary
    from agentkernel.images.tools import this_machine
    from agentkernel.model.errors import Unsupported

    try:
        return agent_binary(this_machine().name)
    except Unsupported as error:
        pytest.skip(f"{error.message}: {error.hint}")


@pytest.fixture
def store(environment) -> Store:
    return Store(environment)


@pytest.fixture
def own(tmp_path) -> dict[str, str]:
    """An environment with an empty data folder."""
    return dict(os.environ) | {"AGENTKERNEL_DATA": str(tmp_path / "data"), "AGENTKERNEL_HOME": str(tmp_path / "home")}
