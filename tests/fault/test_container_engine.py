"""A container engine that is not there, is not ours, is slow, refuses, or dies: clear words, and nothing left."""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from agentkernel.drivers.contract import Driver
from agentkernel.drivers.docker import DockerDriver
from agentkernel.drivers.docker.container import name_of
from agentkernel.drivers.docker.driver import AGENT_ALONE
from agentkernel.drivers.docker.endpoint import parse
from agentkernel.drivers.hardening import profile
from agentkernel.engine.reaping import DriverKey, reap_again_forever
from agentkernel.engine.sandbox import conceived, new_identity
from agentkernel.images.store import Store
from agentkernel.journal import Journal
from agentkernel.model.errors import AgentkernelError, Broken, Busy, NotFound, Refused
from agentkernel.model.execution import ExecRequest, Exited
from agentkernel.model.ids import Digest, new_sandbox_id
from agentkernel.model.kinds import Backend, Isolation
from agentkernel.model.spec import BootSpec
from tests.support.container_engines import ContainerEngine, container_engine, shared_engine
from tests.support.daemons import short_home, started
from tests.support.machines import Machine, alive, booted, cradle, run_request, settles, store_at

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

ROOT = Path(__file__).parents[2]
AGENT = ExecRequest((b"/.agentkernel/agent",), cwd="/")
"""The one program that every container has: it says how it is used, and ends with 2."""
MOST_TRIES = 5
KEEPS = ExecRequest((b"/.agentkernel/agent", b"--socket", b"/tmp/s"), cwd="/")
"""The same, for ever."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The agent is all that is needed of it."""
    return store_at(tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="module", params=[Backend.DOCKER, Backend.PODMAN])
def engine(request: pytest.FixtureRequest) -> ContainerEngine:
    """The session's: these tests leave in it what they found."""
    return shared_engine(request.param)


@pytest.fixture
def driver(engine: ContainerEngine, store: Store) -> DockerDriver:
    """With the agent's image and volume in the engine already: those stay."""
    made = engine.driver(store)
    assert anyio.run(made.probe).usable
    return made


@pytest.fixture
def _keeps_nothing(engine: ContainerEngine, driver: DockerDriver) -> Iterator[None]:
    before = engine.holds()
    yield
    deadline = time.monotonic() + 20
    while engine.holds() != before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert engine.holds() == before


def alone(backend: Backend, **changes: int) -> BootSpec:
    """A container that holds the agent and nothing else."""
    return BootSpec(backend, "", AGENT_ALONE, memory_mib=64, disk_mib=4, pids=32, **changes)


def driver_at(address: str, backend: Backend, store: Store, files: Path) -> DockerDriver:
    return DockerDriver(backend, store, lambda: parse(address, "the test"), files=files)


async def works(machine: Machine) -> bool:
    return (await run_request(machine.guest, AGENT)).code == 2


# --- not there, not ours, not one ---


async def test_an_engine_that_works_says_so(engine: ContainerEngine, driver: DockerDriver, tmp_path: Path) -> None:
    verdict = await driver.probe()
    assert (verdict.usable, verdict.isolation, verdict.reason) == (True, Isolation.CONTAINER, "")
    assert verdict.version
    async with booted(driver, alone(engine.backend), tmp_path) as machine:
        assert await works(machine)


async def test_a_socket_that_is_missing_is_said_to_be(store: Store, tmp_path: Path) -> None:
    verdict = await driver_at(f"unix://{tmp_path}/no.sock", Backend.DOCKER, store, tmp_path).probe()
    assert not verdict.usable
    assert f"{tmp_path}/no.sock" in verdict.reason
    assert "is not there" in verdict.reason
    assert "start" in verdict.remedy


async def test_a_socket_that_nobody_listens_on_is_said_to_be(store: Store, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead.sock"))
        verdict = await driver_at(f"unix://{tmp_path}/dead.sock", Backend.PODMAN, store, tmp_path).probe()
    assert (verdict.usable, "nobody listens" in verdict.reason) == (False, True)


async def test_what_is_no_engine_is_said_to_be_none(store: Store, tmp_path: Path) -> None:
    """It answers HTTP, and knows nothing of containers."""
    with answering(tmp_path / "web.sock", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"):
        verdict = await driver_at(f"unix://{tmp_path}/web.sock", Backend.DOCKER, store, tmp_path).probe()
    assert (verdict.usable, "no container engine" in verdict.reason) == (False, True)


async def test_what_speaks_no_http_is_no_engine_either(store: Store, tmp_path: Path) -> None:
    with answering(tmp_path / "odd.sock", b"220 smtp.example\r\n"):
        verdict = await driver_at(f"unix://{tmp_path}/odd.sock", Backend.DOCKER, store, tmp_path).probe()
    assert not verdict.usable


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_a_socket_of_somebody_else_is_said_to_be(engine: ContainerEngine, driver: DockerDriver) -> None:
    """As another user, beside root, whose probe has just found the engine usable."""
    engine.socket.chmod(0o600)
    script = (
        "import anyio, os, sys; from pathlib import Path; sys.path[:0] = [sys.argv[1], sys.argv[1] + '/src']; "
        "from agentkernel.drivers.docker import DockerDriver; from agentkernel.drivers.docker.endpoint import parse; "
        "from agentkernel.model.kinds import Backend; "
        "at = lambda place: DockerDriver(Backend.DOCKER, None, lambda: parse(place, 'the test'), files=Path('/none')); "
        "anyio.run(at('unix:///nonexistent').probe); "  # imports what else could not be read any more
        "os.setgroups([]); os.setgid(65534); os.setuid(65534); "
        "verdict = anyio.run(at(sys.argv[2]).probe); print(verdict.usable, verdict.reason, '|', verdict.remedy)"
    )
    argv = [sys.executable, "-c", script, str(ROOT), engine.address]
    ran = subprocess.run(argv, check=False, capture_output=True, text=True)
    assert "False" in ran.stdout, ran.stderr
    assert "may not be used by this user" in ran.stdout
    assert "group" in ran.stdout


# --- slow ---


async def test_a_slow_engine_is_waited_for_and_one_that_is_too_slow_is_not(
    engine: ContainerEngine, driver: DockerDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _keeps_nothing: None
) -> None:
    """The engine is the real one; what it says is held back on its way."""
    with delayed(engine.socket, tmp_path / "slow.sock", 0.3) as slow:
        late = driver_at(f"unix://{slow}", engine.backend, driver._artifacts, engine.place / "files")  # type: ignore[arg-type]
        assert (await late.probe()).usable
        async with booted(late, alone(engine.backend), tmp_path) as machine:
            assert await works(machine)
    with delayed(engine.socket, tmp_path / "slower.sock", 5) as slower:
        monkeypatch.setattr("agentkernel.drivers.docker.driver.ASK_S", 0.5)
        later = driver_at(f"unix://{slower}", engine.backend, driver._artifacts, engine.place / "files")  # type: ignore[arg-type]
        verdict = await later.probe()
        assert not verdict.usable
        assert "did not answer GET /version" in verdict.reason


# --- given up, killed, gone ---


@pytest.mark.parametrize("after_s", [0.0, 0.01, 0.03, 0.06, 0.1, 0.15, 0.2])
async def test_a_boot_that_is_given_up_leaves_nothing(
    engine: ContainerEngine, driver: DockerDriver, tmp_path: Path, after_s: float, _keeps_nothing: None
) -> None:
    with anyio.move_on_after(after_s):
        async with booted(driver, alone(engine.backend), tmp_path):
            await anyio.sleep_forever()


async def test_a_container_removed_under_a_command_breaks_it_and_leaves_nothing(
    engine: ContainerEngine, driver: DockerDriver, tmp_path: Path, _keeps_nothing: None
) -> None:
    with pytest.raises(Broken):
        async with booted(driver, alone(engine.backend), tmp_path) as machine:
            process = await machine.guest.exec(KEEPS)
            events = aiter(process)
            await anext(events)
            engine.end_behind(machine.birth)
            with anyio.fail_after(20):
                [event async for event in events]


async def test_what_its_owner_has_left_ends_by_itself(
    engine: ContainerEngine, driver: DockerDriver, tmp_path: Path, _keeps_nothing: None
) -> None:
    """Only the stream ends, as when our process is killed: no call tells the engine anything."""
    child = await anyio.to_thread.run_sync(lambda: start_child(engine, tmp_path))
    try:
        assert not await gone(engine, child.name)
        child.process.kill()
        assert await settles(lambda: gone(engine, child.name))
    finally:
        child.process.kill()
        child.process.wait()
        child.output.close()


async def test_reaping_removes_what_a_crash_left_and_nobody_elses(
    engine: ContainerEngine, driver: DockerDriver, tmp_path: Path, _keeps_nothing: None
) -> None:
    agent = engine.ask("GET", "/images/json", params={"filters": json.dumps({"label": ["agentkernel.agent"]})})
    ours, labelled, foreign = cradle(tmp_path), cradle(tmp_path), cradle(tmp_path)
    body = {"Image": agent[0]["Id"], "Entrypoint": ["/.agentkernel/agent"], "Cmd": ["--stdio"]}
    engine.ask("POST", "/containers/create", params={"name": name_of(ours.id)}, json=body)
    label = {"Labels": {"agentkernel.sandbox": labelled.id}}
    engine.ask("POST", "/containers/create", params={"name": "renamed"}, json=body | label)
    engine.ask("POST", "/containers/create", params={"name": "somebody-elses"}, json=body)
    engine.ask("POST", "/containers/create", params={"name": name_of(foreign.id)}, json=body)
    try:
        await driver.reap(ours.id, {"container": name_of(ours.id)})
        await driver.reap(labelled.id, {})
        await driver.reap(labelled.id, {})
        left = {name.removeprefix("/") for each in containers(engine) for name in each["Names"]}
        assert left == {"somebody-elses", name_of(foreign.id)}
    finally:
        for name in ("somebody-elses", name_of(foreign.id)):
            engine.ask("DELETE", f"/containers/{name}", params={"force": "1"})


def all_run(engine: ContainerEngine, status: dict[str, Any]) -> bool:
    """Two are lent and one is warm; none comes up, and the one that was used is gone."""
    whole = status["in_use"] + status["warm"]
    return whole >= 3 and not status["booting"] and len(ours(engine)) == len(ours(engine, "running")) == whole


def test_kill_9_of_the_daemon_leaves_containers_that_end_or_that_the_next_one_removes_and_nobody_elses(
    engine: ContainerEngine, store: Store, driver: DockerDriver
) -> None:
    """Leases, a warm sandbox, and one that stands still, so that it cannot notice that it was left."""
    anyio.run(store.ensure, "base")
    agent = engine.ask("GET", "/images/json", params={"filters": json.dumps({"label": ["agentkernel.agent"]})})
    body = {"Image": agent[0]["Id"], "Entrypoint": ["/.agentkernel/agent"], "Cmd": ["--stdio"], "OpenStdin": True}
    foreign = engine.ask("POST", "/containers/create", params={"name": "somebody-elses"}, json=body)["Id"]
    engine.ask("POST", f"/containers/{foreign}/start")
    settings = {
        "AGENTKERNEL_POOL_PREWARM": "",
        {Backend.DOCKER: "DOCKER_HOST", Backend.PODMAN: "CONTAINER_HOST"}[engine.backend]: engine.address,
    }
    try:
        with short_home() as home:
            with started(home, **settings) as daemon:
                with daemon.connect() as connection:
                    ran = connection.ask("exec", runtime="base", backend=engine.backend, command=["echo", "hi"])
                    assert ran["stdout"] == "hi\n"
                    for _ in range(2):
                        connection.ask("acquire", runtime="base", backend=engine.backend)
                    wait_until(lambda: all_run(engine, connection.ask("status")))
                still = sorted(ours(engine))[0]
                engine.ask("POST", f"/containers/{still}/pause")
                os.kill(daemon.pid, signal.SIGKILL)
                wait_until(lambda: ours(engine, "running") == set())
                assert still in ours(engine, "paused")
            with started(home, **settings):
                wait_until(lambda: ours(engine) == set())
                assert {each["Id"] for each in containers(engine)} == {foreign}
    finally:
        engine.ask("DELETE", f"/containers/{foreign}", params={"force": "1"})


async def test_an_engine_that_dies_under_a_command_breaks_it_and_is_told_to_be_gone(
    store: Store, tmp_path: Path
) -> None:
    """It breaks the stream, and so the command."""
    for backend in (Backend.DOCKER,):
        with container_engine(backend) as dying:
            driver = dying.driver(store)
            assert (await driver.probe()).usable
            with pytest.raises(Broken):
                async with booted(driver, alone(backend), tmp_path) as machine:
                    process = await machine.guest.exec(KEEPS)
                    events = aiter(process)
                    await anext(events)
                    dying.process.kill()
                    with anyio.fail_after(20):
                        [event async for event in events]
            verdict = await driver.probe()
            assert (verdict.usable, "nobody listens" in verdict.reason) == (False, True)


@pytest.mark.parametrize("backend", [Backend.DOCKER, Backend.PODMAN])
async def test_what_was_paused_when_its_engine_died_ends_when_it_is_back(
    store: Store, backend: Backend, tmp_path: Path
) -> None:
    """A frozen process takes SIGKILL only once it is thawed, where control groups are of version 1. Podman, whose
    monitor died too, believes at the third try that it ended: the daemon tries again as well.
    """
    with container_engine(backend) as dying:
        driver = dying.driver(store)
        assert (await driver.probe()).usable
        with suppress(AgentkernelError):
            async with booted(driver, alone(backend), tmp_path) as machine:
                (process,) = dying.processes(machine.birth)
                await machine.guest.pause()
                assert alive(int(process))
                await anyio.to_thread.run_sync(dying.die)
        await anyio.to_thread.run_sync(dying.start)
        for more in reversed(range(MOST_TRIES)):
            try:
                await dying.driver(store).reap(machine.birth.id, {})
                break
            except AgentkernelError:
                assert more
        wait_until(lambda: not alive(int(process)))
        assert not ours(dying)


@pytest.mark.parametrize("backend", [Backend.DOCKER, Backend.PODMAN])
async def test_what_an_engine_leaves_that_dies_between_creation_and_start_is_removed_when_it_is_back(
    store: Store, backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal keeps the row of what could not be removed; a foreign container stays."""
    monkeypatch.setattr("agentkernel.engine.reaping.AGAIN_S", 0.2)
    with container_engine(backend) as dying, dies_at_start(dying, tmp_path / "p.sock") as path:
        assert (await dying.driver(store).probe()).usable
        agent = dying.ask("GET", "/images/json", params={"filters": json.dumps({"label": ["agentkernel.agent"]})})
        body = {"Image": agent[0]["Id"], "Entrypoint": ["/.agentkernel/agent"], "Cmd": ["--stdio"]}
        foreign = dying.ask("POST", "/containers/create", params={"name": "somebody-elses"}, json=body)["Id"]
        driver = driver_at(f"unix://{path}", backend, store, dying.place / "files")
        async with Journal.open(tmp_path / "journal.db") as journal:
            with pytest.raises(AgentkernelError):
                async with (
                    conceived(new_sandbox_id(), driver, new_identity(), journal, tmp_path) as birth,
                    driver.boot(alone(backend), birth),
                ):
                    pass
            (row,) = await journal.leftovers()
            assert "left" in row.facts
            await anyio.to_thread.run_sync(dying.start)
            # Docker removes by itself, when it begins, what was to be removed at its end; Podman does not.
            assert len(ours(dying)) == 1 or backend is Backend.DOCKER
            drivers: dict[DriverKey, Driver] = {(backend, None): dying.driver(store)}
            async with anyio.create_task_group() as group:
                group.start_soon(reap_again_forever, journal, drivers)
                with anyio.fail_after(60):
                    while await journal.leftovers():  # noqa: ASYNC110  # nobody tells: a row just goes
                        await anyio.sleep(0.05)
                group.cancel_scope.cancel()
        assert {each["Id"] for each in containers(dying)} == {foreign}


async def test_a_container_that_a_probe_left_is_removed_by_a_later_one_and_nobody_elses(
    engine: ContainerEngine, driver: DockerDriver, monkeypatch: pytest.MonkeyPatch, _keeps_nothing: None
) -> None:
    """Not before the probe that made it must be over."""
    agent = engine.ask("GET", "/images/json", params={"filters": json.dumps({"label": ["agentkernel.agent"]})})
    body = {"Image": agent[0]["Id"], "Entrypoint": ["/.agentkernel/agent"], "Cmd": ["--stdio"]}
    trial = body | {"Labels": {"agentkernel.trial": ""}}
    engine.ask("POST", "/containers/create", params={"name": "a-trial"}, json=trial)
    engine.ask("POST", "/containers/create", params={"name": "somebody-elses"}, json=body)
    try:
        assert (await driver.probe()).usable
        assert {name for each in containers(engine) for name in each["Names"]} == {"/a-trial", "/somebody-elses"}
        monkeypatch.setattr("agentkernel.drivers.docker.driver.TRIAL_OVER_S", -60.0)
        assert (await driver.probe()).usable
        assert {name for each in containers(engine) for name in each["Names"]} == {"/somebody-elses"}
    finally:
        for name in ("a-trial", "somebody-elses"):
            engine.ask("DELETE", f"/containers/{name}", params={"force": "1"})


# --- confinement that an engine does not give ---


@pytest.mark.parametrize("ours_there", [False, True], ids=["the engine's own filter", "our filter"])
async def test_a_podman_that_cannot_read_our_filter_is_used_only_when_it_has_it_anyway(
    store: Store, tmp_path: Path, ours_there: bool
) -> None:
    """Reached over TCP, as one in a virtual machine: it may not have our files, so it is not told their paths."""
    kept = tmp_path / "files"

    def configure(place: Path) -> None:
        if ours_there:
            (place / "ours.json").write_text(json.dumps(profile(platform.machine())))
            with (place / "containers.conf").open("a") as configuration:
                configuration.write(f'seccomp_profile = "{place}/ours.json"\n')

    with container_engine(Backend.PODMAN, configure) as remote, over_tcp(remote.socket) as address:
        verdict = await driver_at(address, Backend.PODMAN, store, kept).probe()
        assert verdict.usable == ours_there, verdict.reason
        if not ours_there:
            assert "the filter of system calls is not ours" in verdict.reason
            assert "keyctl" in verdict.reason
            assert "seccomp_profile" in verdict.remedy
            (left,) = kept.glob("seccomp-*.json")
            assert str(left) in verdict.remedy
            assert json.loads(left.read_text()) == profile(platform.machine())
            assert (await remote.driver(store).probe()).usable, "the same engine by its socket, with our file"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"SecurityOpt": ["no-new-privileges", "seccomp=unconfined"]}, "no system calls are filtered"),
        ({"SecurityOpt": ["no-new-privileges"]}, "the filter of system calls is not ours"),
        ({"CapDrop": []}, "capabilities"),
        ({"MaskedPaths": [], "SecurityOpt": None}, "paths of the host are not hidden"),
    ],
    ids=["unconfined", "another filter", "capabilities", "nothing hidden"],
)
async def test_an_engine_that_does_not_heed_what_it_is_told_is_refused(
    engine: ContainerEngine,
    store: Store,
    tmp_path: Path,
    change: dict[str, object],
    said: str,
    _keeps_nothing: None,
) -> None:
    """What is asked of it is changed on its way; unchanged, on the same way, it is usable."""
    for told, expected in ((change, False), ({}, True)):
        with rewriting(engine.socket, tmp_path / f"w{expected}.sock", told) as path:
            verdict = await driver_at(f"unix://{path}", engine.backend, store, engine.place / "files").probe()
        assert verdict.usable == expected, verdict.reason
        assert (said in verdict.reason) != expected


async def test_files_in_memory_are_bounded_in_number_and_programs_leave_no_cores(
    engine: ContainerEngine, driver: DockerDriver, tmp_path: Path, _keeps_nothing: None
) -> None:
    """Empty files, which take no room that a size would count. Those that fit are there, and room is found again.
    Podman 4.3 takes no such number: there the files' memory in the kernel is all that bounds them.
    """
    async with booted(driver, alone(engine.backend), tmp_path) as machine:
        limits = (await machine.guest.read_file("/proc/self/limits")).decode()
        assert re.search(r"Max core file size +0 +0 ", limits), limits
        if engine.backend is Backend.PODMAN:
            return
        mounts = (await machine.guest.read_file("/proc/self/mounts")).decode()
        (options,) = [line.split()[3] for line in mounts.splitlines() if line.split()[1] == "/scratch"]
        assert "nr_inodes=512" in options.split(",")
        await machine.guest.put_archive("/scratch", one(packed({f"file-{n}": b"" for n in range(400)})))
        with pytest.raises(OSError, match="No space"):
            await machine.guest.put_archive("/scratch", one(packed({f"more-{n}": b"" for n in range(400)})))
        await machine.guest.remove("/scratch/file-0")
        await machine.guest.write_file("/scratch/file-0", b"x")


async def test_the_sandboxs_own_name_is_found(
    engine: ContainerEngine, driver: DockerDriver, tmp_path: Path, _keeps_nothing: None
) -> None:
    """By Docker; a Podman is given a hosts file that all its sandboxes share."""
    async with booted(driver, alone(engine.backend), tmp_path) as machine:
        hosts = (await machine.guest.read_file("/etc/hosts")).decode()
        assert "localhost" in hosts
        assert (machine.birth.identity.hostname in hosts.split()) == (engine.backend is Backend.DOCKER)


# --- images ---


async def test_an_image_without_a_shell_runs(engine: ContainerEngine, driver: DockerDriver, tmp_path: Path) -> None:
    """And one without a user 1000, or any file but its own."""
    with imported(engine, {"data.txt": b"of the image"}, "tests/shell-less:1", ["ENV A=b", "WORKDIR /x"]) as name:
        facts = await driver.image(name, tell)
        assert (facts.env.get("A"), facts.cwd) == ("b", "/x")
        spec = replace(alone(engine.backend), image=facts.digest, image_name=name)
        async with booted(driver, spec, tmp_path) as machine:
            assert await works(machine)
            assert await machine.guest.read_file("/data.txt") == b"of the image"
            ran = await run_request(machine.guest, ExecRequest((b"/bin/sh",), cwd="/"))
            assert ran.refusal.what == "program: /bin/sh"


async def test_a_volume_that_an_image_wants_is_in_memory_and_bounded(
    engine: ContainerEngine, driver: DockerDriver, tmp_path: Path, _keeps_nothing: None
) -> None:
    with imported(engine, {"f": b""}, "tests/volume:1", ["VOLUME /data"]) as name:
        spec = replace(alone(engine.backend), image=(await driver.image(name, tell)).digest, image_name=name)
        async with booted(driver, spec, tmp_path) as machine:
            await machine.guest.write_file("/data/small", b"x")
            with pytest.raises(OSError, match="No space"):
                await machine.guest.write_file("/data/large", bytes(4 << 20))


async def test_an_image_of_another_architecture_is_refused_naming_both(
    engine: ContainerEngine, driver: DockerDriver
) -> None:
    with loaded(engine, "localhost/tests/foreign:1", "s390x") as name:
        with pytest.raises(Refused, match="s390x") as refusal:
            await driver.image(name, tell)
        assert "amd64" in str(refusal.value) or "arm64" in str(refusal.value)


async def test_an_image_that_nobody_has_is_not_found_or_its_registry_is_not_reached(
    engine: ContainerEngine, driver: DockerDriver, _keeps_nothing: None
) -> None:
    with pytest.raises((NotFound, Busy)):
        await driver.image("localhost:1/tests/nothing:1", tell)
    with pytest.raises(Refused):
        await driver.image("no name", tell)


# --- what the engine keeps ---


async def test_clearing_removes_what_is_ours_but_for_what_is_wanted_or_used_and_nothing_of_others(
    engine: ContainerEngine, store: Store, driver: DockerDriver, tmp_path: Path
) -> None:
    """Older agents, and runtimes of a digest that nobody wants any more; in the end all, and then it works anew."""
    wanted, unwanted = Digest("a" * 64), Digest("b" * 64)
    label = {each: f"LABEL agentkernel.image={each}.1" for each in (wanted, unwanted)}
    old_agent = "LABEL agentkernel.agent=0"
    engine.ask("POST", "/volumes/create", json={"Name": "old-agent", "Labels": {"agentkernel.agent": "0"}})
    engine.ask("POST", "/volumes/create", json={"Name": "foreign", "Labels": {"somebody": "else"}})
    before = engine.holds()
    with (
        imported(engine, {"f": b""}, "tests/foreign:1", []) as foreign,
        imported(engine, {"f": b"1"}, "tests/wanted:1", [label[wanted]]),
        imported(engine, {"f": b"2"}, "tests/unwanted:1", [label[unwanted]]),
        imported(engine, {"f": b"3"}, "tests/old:1", [old_agent]),
    ):
        try:
            gone = await driver.clear([wanted, store.resolve("base")])
            named = {each.rpartition(":")[0] for each in gone if "/tests/" in each}  # Podman names the latest tag first
            assert named == {"image localhost/tests/unwanted", "image localhost/tests/old"}
            assert engine.holds()["volumes"] == before["volumes"] - {"old-agent"}
            async with booted(driver, alone(engine.backend), tmp_path) as machine:
                assert await works(machine)
                assert not [each for each in await driver.clear(None) if each.startswith("volume")], "it is in use"
            assert await driver.clear(None)
            assert engine.holds()["volumes"] == {"foreign"}
            assert len(engine.holds()["images"]) == 1
            assert engine.ask("GET", f"/images/{foreign}/json")
            assert (await driver.probe()).usable
            async with booted(driver, alone(engine.backend), tmp_path) as machine:
                assert await works(machine)
        finally:
            engine.ask("DELETE", "/volumes/foreign")


async def test_nothing_that_passes_over_the_link_is_found_in_the_engines_folder(
    engine: ContainerEngine, driver: DockerDriver, tmp_path: Path
) -> None:
    secret = os.urandom(16).hex().encode()
    control = os.urandom(16).hex().encode()
    (engine.place / "data" / "control").write_bytes(control)
    async with booted(driver, alone(engine.backend), tmp_path) as machine:
        await machine.guest.write_file("/workspace/secret", secret)
        assert await machine.guest.read_file("/workspace/secret") == secret
        ran = await run_request(machine.guest, replace(AGENT, argv=(*AGENT.argv, secret), env=(b"S=" + secret,)))
        assert isinstance(ran.events[-1], Exited)
        assert search(engine.place, control) == [engine.place / "data" / "control"]
        assert search(engine.place, secret) == []
    assert search(engine.place, secret) == []
    (engine.place / "data" / "control").unlink()


# --- helpers ---


async def tell(_line: str) -> None:
    """Progress that nobody looks at."""


async def one(content: bytes) -> AsyncIterator[bytes]:
    """A stream of one chunk."""
    yield content


def containers(engine: ContainerEngine) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = engine.ask("GET", "/containers/json", params={"all": "1"})
    return found


def ours(engine: ContainerEngine, state: str = "") -> set[str]:
    """Containers with our label, all or those in that state."""
    labelled = [each for each in containers(engine) if "agentkernel.sandbox" in (each["Labels"] or {})]
    return {str(each["Id"]) for each in labelled if state in ("", each["State"])}


def wait_until(condition: Callable[[], bool]) -> None:
    """Of another process's doing; fails after a minute."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


async def gone(engine: ContainerEngine, name: str) -> bool:
    return f"/{name}" not in {each for found in containers(engine) for each in found["Names"]}


def search(place: Path, words: bytes) -> list[Path]:
    """Files of the engine that hold those words. What a container has in memory is no file of it."""
    found = []
    for path in place.rglob("*"):
        with suppress(OSError):
            if path.is_file() and not path.is_symlink() and words in path.read_bytes():
                found.append(path)
    return found


class Child:
    """A process of ours with one container."""

    def __init__(self, process: subprocess.Popen[bytes], name: str) -> None:
        self.process, self.name = process, name
        assert process.stdout is not None
        self.output = process.stdout


def start_child(engine: ContainerEngine, place: Path) -> Child:
    script = Path(__file__).with_name("container_child.py")
    process = subprocess.Popen(
        [sys.executable, str(script), engine.backend, engine.address, str(place / "child")],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    return Child(process, json.loads(process.stdout.readline())["container"])


@contextmanager
def imported(engine: ContainerEngine, files: dict[str, bytes], name: str, changes: list[str]) -> Iterator[str]:
    """An image with those files, gone after the block."""
    content = packed(files)
    repository, _, tag = f"localhost/{name}".rpartition(":")
    query = {"fromSrc": "-", "repo": repository, "tag": tag, "changes": changes}
    answer = engine.ask("POST", "/images/create", params=query, content=content)
    identity = answer["status"] if isinstance(answer, dict) else json.loads(answer.splitlines()[-1])["status"]
    engine.ask("POST", f"/images/{identity}/tag", params={"repo": repository, "tag": tag})
    try:
        yield f"{repository}:{tag}"
    finally:
        engine.ask("DELETE", f"/images/{identity}", params={"force": "1"})


@contextmanager
def loaded(engine: ContainerEngine, name: str, architecture: str) -> Iterator[str]:
    """An empty image for that processor, gone after the block."""
    layer = packed({"f": b""})
    root = {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]}
    config = json.dumps({"architecture": architecture, "os": "linux", "config": {}, "rootfs": root}).encode()
    named = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = json.dumps([{"Config": named, "RepoTags": [name], "Layers": ["layer.tar"]}]).encode()
    archive = packed({named: config, "layer.tar": layer, "manifest.json": manifest})
    engine.ask("POST", "/images/load", content=archive)
    try:
        yield name
    finally:
        engine.ask("DELETE", f"/images/{name}", params={"force": "1"})


def packed(files: dict[str, bytes]) -> bytes:
    """A tar archive of them."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


@contextmanager
def answering(path: Path, words: bytes) -> Iterator[None]:
    """Somebody who says the same to everyone."""

    def serve(client: socket.socket) -> None:
        with client:
            client.recv(65536)
            client.sendall(words)

    with serving(path, serve):
        yield


@contextmanager
def delayed(real: Path, path: Path, delay_s: float) -> Iterator[Path]:
    """The real engine's socket, each of whose answers begins that much later."""

    def serve(client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server:
            server.connect(str(real))
            back = threading.Thread(target=pump, args=(server, client, delay_s))
            back.start()
            pump(client, server, 0)
            back.join()

    with serving(path, serve):
        yield path


@contextmanager
def dies_at_start(engine: ContainerEngine, path: Path) -> Iterator[Path]:
    """The engine's socket, until somebody asks it to start a container: then it dies."""

    def serve(client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server:
            first = client.recv(65536)
            if first.split(b" ", 2)[1].endswith(b"/start"):
                engine.die()
                return
            if server.connect_ex(str(engine.socket)):
                return
            server.sendall(first)
            back = threading.Thread(target=pump, args=(server, client, 0))
            back.start()
            pump(client, server, 0)
            back.join()

    with serving(path, serve):
        yield path


@contextmanager
def rewriting(real: Path, path: Path, change: dict[str, object]) -> Iterator[Path]:
    """The engine's socket; of each container that is asked for, the host's part is changed so. None leaves out."""

    def serve(client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server:
            server.connect(str(real))
            request = client.recv(65536)
            if b"/containers/create" in request.split(b"\r\n", 1)[0]:
                head, _, body = request.partition(b"\r\n\r\n")
                length = int(re.findall(rb"(?i)content-length: (\d+)", head)[0])
                while len(body) < length:
                    body += client.recv(65536)
                asked = json.loads(body)
                asked["HostConfig"] = changed(asked["HostConfig"], change)
                body = json.dumps(asked).encode()
                head = re.sub(rb"(?i)content-length: \d+", b"Content-Length: %d" % len(body), head)
                request = head + b"\r\n\r\n" + body
            server.sendall(request)
            back = threading.Thread(target=pump, args=(server, client, 0))
            back.start()
            pump(client, server, 0)
            back.join()

    with serving(path, serve):
        yield path


def changed(asked: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Security options replace all but hidden paths, which one engine takes as an option; None removes those."""
    options: list[str] = asked["SecurityOpt"]
    hides = [option for option in options if option.startswith("mask=")]
    others = [option for option in options if not option.startswith("mask=")]
    if "SecurityOpt" in change:
        options = others if change["SecurityOpt"] is None else [*change["SecurityOpt"], *hides]
    return asked | change | {"SecurityOpt": options}


@contextmanager
def over_tcp(real: Path) -> Iterator[str]:
    """The engine's socket on a port of the loopback; its address."""

    def serve(client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server:
            server.connect(str(real))
            back = threading.Thread(target=pump, args=(server, client, 0))
            back.start()
            pump(client, server, 0)
            back.join()

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        with accepting(listener, serve):
            yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"


def pump(source: socket.socket, sink: socket.socket, delay_s: float) -> None:
    """Everything from one to the other, the first of it late; then the end."""
    with suppress(OSError):
        while chunk := source.recv(65536):
            if delay_s:
                time.sleep(delay_s)
                delay_s = 0
            sink.sendall(chunk)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@contextmanager
def serving(path: Path, serve: Callable[[socket.socket], None]) -> Iterator[None]:
    """A Unix socket, a thread for each of its clients."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        with accepting(server, serve):
            yield


@contextmanager
def accepting(server: socket.socket, serve: Callable[[socket.socket], None]) -> Iterator[None]:
    """A thread for each client of a bound socket."""
    threads: list[threading.Thread] = []
    server.listen()

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = server.accept()
                threads.append(threading.Thread(target=serve, args=(client,)))
                threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield
    finally:
        server.shutdown(socket.SHUT_RDWR)
        acceptor.join()
        for thread in threads:
            thread.join()
