"""The driver end to end against AppleContainerStandIn: complete sequences, failures at each step, nothing left."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.apple_standin import AppleContainerStandIn
from tests.support.machines import Cradle, cradle, run

from agentkernel.drivers.apple import AppleDriver
from agentkernel.drivers.apple import driver as driver_module
from agentkernel.drivers.apple.commands import LABEL, name_of
from agentkernel.drivers.apple.driver import Host
from agentkernel.images.store import Store
from agentkernel.model.errors import AgentkernelError, Broken, NotFound, Refused, Unsupported
from agentkernel.model.ids import Digest
from agentkernel.model.kinds import Backend, Isolation
from agentkernel.model.spec import BootSpec

pytestmark = pytest.mark.anyio

SPEC = BootSpec(Backend.APPLE, "", Digest("ab" * 32), memory_mib=256, image_name="debian:stable-slim")


@pytest.fixture(params=["standin"])
def standin(request: pytest.FixtureRequest, tmp_path: Path) -> AppleContainerStandIn:
    made = AppleContainerStandIn(tmp_path / "standin")
    made.folder.mkdir()
    made.install()
    return made


@pytest.fixture
def driver(standin: AppleContainerStandIn) -> AppleDriver:
    """On a Mac, but for the processor of the guests: the agent has to run here."""
    store = Store({"AGENTKERNEL_DATA": str(standin.folder), "AGENTKERNEL_HOME": str(standin.folder)})
    return AppleDriver(store, lambda: Host("Darwin", "arm64", "26.1", standin.path, platform.machine()))


@pytest.fixture
def birth(tmp_path: Path, standin: AppleContainerStandIn) -> Iterator[Cradle]:
    made = cradle(tmp_path / "sandboxes")
    yield made
    assert list(made.directory.iterdir()) == []


async def told(_: str) -> None:
    """Nobody looks."""


async def test_a_container_is_run_linked_stopped_and_deleted(
    standin: AppleContainerStandIn, driver: AppleDriver, birth: Cradle
) -> None:
    async with driver.boot(SPEC, birth) as guest:
        assert standin.names() == ["run", "exec"]
        assert list(standin.containers()) == [name_of(birth.id)] == [birth.facts["container"]]
        assert standin.containers()[name_of(birth.id)]["labels"] == {LABEL: birth.id}
        assert (await run(guest, "/bin/echo", "hello", cwd="/")).text == "hello"
        assert (await run(guest, "/bin/cat", cwd="/", stdin=b"x" * 300_000)).stdout == b"x" * 300_000
    assert standin.names() == ["run", "exec", "stop", "delete"]
    assert standin.containers() == {}


async def test_what_is_asked_for_is_hardened_and_limited(
    standin: AppleContainerStandIn, driver: AppleDriver, birth: Cradle
) -> None:
    async with driver.boot(replace(SPEC, vcpus=3, memory_mib=512), birth):
        text = " ".join(standin.said()[0])
    for words in (
        *("--detach", "--interactive", "--read-only", "--cap-drop ALL", "--network none", "--no-dns"),
        *("--cpus 3", "--memory 512M", "--uid 1000 --gid 1000", "--tmpfs /workspace", ",readonly"),
    ):
        assert words in text
    assert not [word for word in ("--publish", "--ssh", "--virtualization", "--volume") if word in text]
    assert "--uid 1000 --gid 1000" in " ".join(standin.said()[1])


TROUBLES = {
    "services down": ("run", "fail XPC connection error: apiserver is not running", Unsupported, "system start"),
    "missing image": ("run", "fail image debian:stable-slim not found", NotFound, "name"),
    "full disk": ("run", "fail No space left on device", Broken, "disk space"),
    "an option it does not know": ("run", "fail Unknown option '--read-only'", Unsupported, "update"),
    "no kernel": ("run", "fail default kernel not configured for architecture arm64", Unsupported, "kernel set"),
    "no reason": ("run", "fail", Broken, "system logs"),
    "dead run": ("run", "die", Broken, "system logs"),
    "dead exec": ("exec", "die", Broken, "container logs"),
    "no exec": ("exec", "fail cannot exec: container is not running", Broken, "container logs"),
    "nonsense exec": ("exec", "garbage", Broken, "container logs"),
}


@pytest.mark.parametrize("what", TROUBLES)
async def test_trouble_is_an_error_with_something_to_do_and_leaves_nothing(
    standin: AppleContainerStandIn, driver: AppleDriver, birth: Cradle, what: str
) -> None:
    step, trouble, kind, hint = TROUBLES[what]
    standin.trouble = {step: trouble}
    standin.install()
    with pytest.raises(kind) as caught:
        async with driver.boot(SPEC, birth):
            pass
    assert type(caught.value) is kind
    assert hint in caught.value.hint
    assert "\n" not in caught.value.message
    assert standin.containers() == {}


async def test_the_words_of_a_link_that_fails_and_the_containers_state_are_in_the_error(
    standin: AppleContainerStandIn, driver: AppleDriver, birth: Cradle
) -> None:
    standin.trouble = {"exec": "fail cannot exec in this container"}
    standin.install()
    with pytest.raises(Broken, match=r"container is running.*cannot exec in this container"):
        async with driver.boot(SPEC, birth):
            pass


async def test_what_takes_too_long_is_ended(
    standin: AppleContainerStandIn, driver: AppleDriver, birth: Cradle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_module, "RUN_S", 1.0)
    standin.trouble = {"run": "slow 60"}
    standin.install()
    with pytest.raises(Broken, match="run did not end within 1 s"):
        async with driver.boot(SPEC, birth):
            pass
    monkeypatch.undo()
    monkeypatch.setattr(driver_module, "GREETING_S", 1.0)
    standin.trouble = {"exec": "slow 60"}
    standin.install()
    with pytest.raises(Broken, match="does not answer"):
        async with driver.boot(SPEC, birth):
            pass


async def test_the_death_of_the_link_breaks_the_guest(
    standin: AppleContainerStandIn, driver: AppleDriver, birth: Cradle
) -> None:
    with pytest.raises(Broken):
        async with driver.boot(SPEC, birth) as guest:
            os.kill(standin.containers()[name_of(birth.id)]["pids"][1], 9)
            await guest.wait_broken()
            await guest.ping()
    assert standin.containers() == {}


async def test_an_error_of_the_callers_own_passes_as_it_is(
    standin: AppleContainerStandIn, driver: AppleDriver, birth: Cradle
) -> None:
    with pytest.raises(ZeroDivisionError):
        async with driver.boot(SPEC, birth):
            _ = 1 / 0
    assert standin.containers() == {}


async def test_a_container_that_does_not_stop_is_deleted_all_the_same(
    standin: AppleContainerStandIn, driver: AppleDriver, birth: Cradle
) -> None:
    async with driver.boot(SPEC, birth):
        standin.trouble = {"stop": "fail the container is busy"}
        standin.install()
    assert standin.containers() == {}


async def test_one_that_cannot_be_deleted_is_said_and_the_next_daemon_finds_it(
    standin: AppleContainerStandIn, driver: AppleDriver, birth: Cradle
) -> None:
    with pytest.raises(Broken, match="cannot be deleted: container delete: the container is busy") as caught:
        async with driver.boot(SPEC, birth):
            standin.trouble = {"delete": "fail the container is busy"}
            standin.install()
    assert caught.value.hint == f"container delete --force {name_of(birth.id)}"
    standin.trouble = {}
    standin.install()
    await driver.reap(birth.id, birth.facts)
    assert standin.containers() == {}


@pytest.mark.parametrize("generation", ["old", "new"])
async def test_a_crashs_container_is_found_by_its_label_and_nobody_elses_is_touched(
    standin: AppleContainerStandIn, driver: AppleDriver, birth: Cradle, tmp_path: Path, generation: str
) -> None:
    standin.generation = generation
    standin.install()
    other = cradle(tmp_path / "sandboxes")
    async with driver.boot(SPEC, other):
        with pytest.raises(Broken):
            async with driver.boot(SPEC, birth) as guest:
                await driver.reap(birth.id, {})
                assert list(standin.containers()) == [name_of(other.id)]
                await guest.wait_broken()
                await guest.ping()
        await driver.reap(birth.id, birth.facts)


async def test_reaping_where_nothing_can_run_finds_nothing(standin: AppleContainerStandIn) -> None:
    linux = AppleDriver(Store({}), lambda: Host("Linux", "x86_64", "", standin.path))
    await linux.reap(cradle(standin.folder).id, {})
    assert standin.said() == []


# --- images ---


async def test_an_image_that_is_here_is_looked_at_and_another_is_pulled(
    standin: AppleContainerStandIn, driver: AppleDriver
) -> None:
    said: list[str] = []

    async def tell(line: str) -> None:
        said.append(line)

    facts = await driver.image("debian:stable-slim", tell)
    assert (facts.digest, facts.cwd, facts.user, facts.command) == ("ab" * 32, "/srv", "app", ("/bin/sh",))
    assert facts.env == {"PATH": "/bin", "A": "b=c"}
    assert said == []
    await driver.image("alpine:3", tell)
    assert said == ["pulling alpine:3"]
    with pytest.raises(NotFound, match="manifest unknown"):
        await driver.image("nowhere:1", tell)


async def test_an_image_for_another_processor_or_with_no_name_is_refused(
    standin: AppleContainerStandIn, driver: AppleDriver
) -> None:
    standin.images["foreign"] = "amd64"
    standin.install()
    with pytest.raises(Refused, match="not for linux/arm64"):
        await driver.image("foreign", told)
    for name in ("--network=host", "", "a b", "x" * 300):
        with pytest.raises(Refused, match="no name of an image"):
            await driver.image(name, told)
    assert ["image", "inspect", "--network=host"] not in standin.said()


async def test_garbage_is_broken_and_not_believed(standin: AppleContainerStandIn, driver: AppleDriver) -> None:
    standin.trouble = {"image inspect": "garbage"}
    standin.install()
    with pytest.raises(Broken, match="not the JSON"):
        await driver.image("debian:stable-slim", told)


async def test_a_runtime_is_refused_because_only_images_run(driver: AppleDriver, birth: Cradle) -> None:
    assert driver.runtimes == frozenset()
    with pytest.raises(Unsupported, match="images by name"):
        async with driver.boot(replace(SPEC, runtime="base", image_name=""), birth):
            pass


# --- the probe ---


async def test_the_probe_finds_program_and_services(standin: AppleContainerStandIn, driver: AppleDriver) -> None:
    verdict = await driver.probe()
    assert (verdict.usable, verdict.isolation, verdict.version) == (True, Isolation.VM, "1.0.0"), verdict
    assert [words[:2] for words in standin.said()] == [["--version"], ["system", "status"]]


HOSTS = {
    "Linux": (Host("Linux", "x86_64", "", ""), "macOS only, not on Linux"),
    "Intel": (Host("Darwin", "x86_64", "26.0", ""), "Apple silicon"),
    "old": (Host("Darwin", "arm64", "15.5", ""), "macOS 26 or later is needed, this is 15.5"),
    "unknown": (Host("Darwin", "arm64", "", ""), "macOS 26 or later"),
    "not installed": (Host("Darwin", "arm64", "26.0", ".:relative"), "not installed"),
}


@pytest.mark.parametrize("what", HOSTS)
async def test_the_probe_says_why_not_here_and_starts_nothing(standin: AppleContainerStandIn, what: str) -> None:
    host, reason = HOSTS[what]
    verdict = await AppleDriver(Store({}), lambda: replace(host, path=host.path or standin.path)).probe()
    assert not verdict.usable
    assert reason in verdict.reason
    assert verdict.remedy
    assert standin.said() == []


async def test_the_probe_says_that_the_services_are_down_or_the_program_is_too_old(
    standin: AppleContainerStandIn, driver: AppleDriver
) -> None:
    standin.trouble = {"system status": "fail apiserver is not running and not registered with launchd"}
    standin.install()
    verdict = await driver.probe()
    assert "services of Apple's container do not run" in verdict.reason
    assert "container system start" in verdict.remedy
    standin.version = "0.9.0"
    standin.install()
    assert "0.9.0 is too old" in (await driver.probe()).reason
    standin.trouble = {"--version": "garbage"}
    standin.install()
    assert "of unknown version is too old" in (await driver.probe()).reason


async def test_this_host_is_told_as_it_is() -> None:
    verdict = await AppleDriver(Store({})).probe()
    assert verdict.usable or verdict.reason
    if platform.system() == "Linux":
        assert "not on Linux" in verdict.reason


async def test_every_error_is_one_of_ours(standin: AppleContainerStandIn, driver: AppleDriver, birth: Cradle) -> None:
    (standin.folder / "bin/container").write_text("#!/none\n")
    with pytest.raises(AgentkernelError, match="cannot be run"):
        async with driver.boot(SPEC, birth):
            pass
