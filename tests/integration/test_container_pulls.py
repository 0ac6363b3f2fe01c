"""Images that a container engine pulls for us, from a real registry on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.container_engines import ContainerEngine, shared_engine
from tests.support.layers import Image, member, tar
from tests.support.machines import booted, store_at
from tests.support.registries import Registry, push, running_registry

from agentkernel.drivers.docker import DockerDriver
from agentkernel.drivers.docker.driver import AGENT_ALONE
from agentkernel.model.errors import Broken, Busy, NotFound, Refused
from agentkernel.model.kinds import Backend
from agentkernel.model.spec import BootSpec

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

START = {"Env": ["A=b"], "WorkingDir": "/work", "Entrypoint": ["/tool"], "Cmd": ["--help"], "User": "7"}


@pytest.fixture(scope="module", params=[Backend.DOCKER, Backend.PODMAN])
def engine(request: pytest.FixtureRequest) -> ContainerEngine:
    """The session's: these tests leave in it what they found."""
    return shared_engine(request.param)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """For everybody."""
    with running_registry(tmp_path_factory.mktemp("open")) as running:
        yield running


@pytest.fixture(scope="module")
def driver(engine: ContainerEngine, tmp_path_factory: pytest.TempPathFactory) -> DockerDriver:
    """For that engine."""
    return engine.driver(store_at(tmp_path_factory.mktemp("state")))


async def test_an_image_is_pulled_once_with_progress_and_runs(
    engine: ContainerEngine, registry: Registry, driver: DockerDriver, tmp_path: Path
) -> None:
    """A tag, and the same by its digest."""
    layers = [tar(member("first.txt", b"one" * 50_000)), tar(member("second.txt", b"two"))]
    name = await push(registry, "tests/two-layers", "1.0", Image(layers, START))
    told: list[str] = []

    async def tell(line: str) -> None:
        told.append(line)

    try:
        facts = await driver.image(name, tell)
        assert told[0] == f"pull {name}"
        assert len(set(told)) > 2, told
        assert all(line.startswith(f"pull {name}") for line in told)
        assert (facts.env["A"], facts.cwd, facts.user) == ("b", "/work", "7")
        assert (facts.entrypoint, facts.command) == (("/tool",), ("--help",))
        told.clear()
        assert (await driver.image(name, tell), told) == (facts, [])
        alone = BootSpec(engine.backend, "", AGENT_ALONE, memory_mib=64, disk_mib=4, pids=32)
        async with booted(driver, replace(alone, image=facts.digest, image_name=name), tmp_path) as machine:
            assert await machine.guest.read_file("/second.txt") == b"two"
            assert len(await machine.guest.read_file("/first.txt")) == 150_000
        repository = name.rpartition(":")[0]
        (known,) = engine.ask("GET", f"/images/{name}/json")["RepoDigests"]
        assert (await driver.image(f"{repository}@{known.partition('@')[2]}", tell)).digest == facts.digest
    finally:
        engine.ask("DELETE", f"/images/{name}", params={"force": "1"})


async def test_what_a_registry_does_not_have_or_does_not_show_is_not_found(
    registry: Registry, driver: DockerDriver, tmp_path: Path
) -> None:
    """And one that is not there at all is Busy. Beside an image that is there, in the same registry."""
    name = await push(registry, "tests/there", "1", Image([tar(member("f", b""))]))
    with pytest.raises(NotFound):
        await driver.image(f"{name}-none", nobody)
    with pytest.raises(NotFound):
        await driver.image(f"{registry.host}/tests/nothing:1", nobody)
    with running_registry(tmp_path, password=True) as closed:
        hidden = await push(closed, "tests/hidden", "1", Image([tar(member("f", b""))]))
        with pytest.raises(NotFound) as refusal:
            await driver.image(hidden, nobody)
        assert "logged in" in refusal.value.hint
    with pytest.raises(Busy):
        await driver.image(hidden, nobody)


async def test_an_image_for_other_processors_only_is_refused(registry: Registry, driver: DockerDriver) -> None:
    others = [Image([tar(member("f", b"x"))], architecture=other) for other in ("s390x", "ppc64le")]
    name = await push(registry, "tests/foreign", "1", *others)
    with pytest.raises(Refused):
        await driver.image(name, nobody)


async def test_a_volume_that_was_removed_behind_our_back_is_made_anew(
    engine: ContainerEngine, registry: Registry, driver: DockerDriver, tmp_path: Path
) -> None:
    """One sandbox finds that it is gone; the next one does not miss it."""
    name = await push(registry, "tests/plain", "1", Image([tar(member("f", b"x"))]))
    alone = BootSpec(engine.backend, "", AGENT_ALONE, memory_mib=64, disk_mib=4, pids=32)
    try:
        spec = replace(alone, image=(await driver.image(name, nobody)).digest, image_name=name)
        async with booted(driver, spec, tmp_path) as machine:
            assert await machine.guest.read_file("/f") == b"x"
        for volume in [each for each in engine.holds()["volumes"] if each.startswith("agentkernel-agent-")]:
            engine.ask("DELETE", f"/volumes/{volume}")
        with pytest.raises(Broken):
            async with booted(driver, spec, tmp_path):
                pass
        async with booted(driver, spec, tmp_path) as machine:
            assert await machine.guest.read_file("/f") == b"x"
    finally:
        engine.ask("DELETE", f"/images/{name}", params={"force": "1"})


async def nobody(_line: str) -> None:
    """Progress that nobody looks at."""
