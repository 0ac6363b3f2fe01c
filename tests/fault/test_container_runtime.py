"""An engine's runtime is what it is called, and holds what the engine says: gVisor's runsc, and one that is not."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from agentkernel.drivers.docker.driver import AGENT_ALONE
from agentkernel.images.store import Store
from agentkernel.model.execution import ExecRequest
from agentkernel.model.kinds import Backend, Isolation
from agentkernel.model.spec import BootSpec
from tests.support.container_engines import container_engine
from tests.support.machines import booted, run_request, settles, store_at

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

ALONE = BootSpec(Backend.DOCKER, "", AGENT_ALONE, memory_mib=64, disk_mib=4, pids=32)
RUNSC = ["--platform=systrap", "--network=none", "--ignore-cgroups"]
"""gVisor makes no control group here: the host has both versions of them."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """With runsc."""
    made = store_at(tmp_path_factory.mktemp("state"))
    anyio.run(made.tool, "runsc")
    return made


def runtime(path: Path, arguments: list[str]) -> Callable[[Path], None]:
    """Makes a program the engine's runtime `runsc`; in a mount namespace where there is nothing in /proc/sys/net, which
    runsc cannot read on every kernel.
    """

    def configure(place: Path) -> None:
        script = place / "runtime"
        inner = 'mount -t tmpfs none /proc/sys/net && exec "$0" "$@"'
        script.write_text(f"#!/bin/sh\nexec unshare --mount --propagation private sh -c '{inner}' {path} \"$@\"\n")
        script.chmod(0o755)
        named = {"runsc": {"path": str(script), "runtimeArgs": arguments}}
        configuration = place / "daemon.json"
        configuration.write_text(json.dumps(json.loads(configuration.read_text()) | {"runtimes": named}))

    return configure


async def test_gvisor_as_an_engines_runtime_is_a_kernel_of_its_own_and_its_lack_of_limits_is_found(
    store: Store, tmp_path: Path
) -> None:
    tool = await store.tool("runsc")
    with container_engine(Backend.DOCKER, runtime(tool.root / tool.path.lstrip("/"), RUNSC)) as engine:
        strict = await engine.driver(store, runtime="runsc").probe()
        assert (strict.usable, "does not limit memory, processes" in strict.reason) == (False, True), strict
        driver = engine.driver(store, runtime="runsc", allow_unlimited=True)
        verdict = await driver.probe()
        assert (verdict.usable, verdict.isolation) == (True, Isolation.KERNEL_PROXY), verdict.reason
        assert verdict.reason == "memory, processes not limited on this engine"
        async with booted(driver, ALONE, tmp_path) as machine:
            assert machine.guest.facts.facts["kernel"] != platform.release()
            inside = await machine.guest.read_file("/proc/version")
            assert inside.startswith(b"Linux version 4.4.0 ")
            ran = await run_request(machine.guest, ExecRequest((b"/.agentkernel/agent", b"--confinement"), cwd="/"))
            assert (ran.code, b"status CapEff 0000000000000000\n" in ran.stdout) == (0, True)
        assert await settles(lambda: nothing_runs(engine.ask("GET", "/containers/json", params={"all": "1"})))
        beside = engine.driver(store)
        assert (await beside.probe()).isolation is Isolation.CONTAINER


async def test_a_runtime_that_is_called_runsc_and_is_another_is_refused(store: Store) -> None:
    with container_engine(Backend.DOCKER, runtime(Path(str(shutil.which("runc"))), [])) as engine:
        verdict = await engine.driver(store, runtime="runsc").probe()
        assert (verdict.usable, "is not gVisor" in verdict.reason) == (False, True), verdict
        missing = await engine.driver(store, runtime="kata").probe()
        assert (missing.usable, "no runtime 'kata'" in missing.reason) == (False, True), missing
        assert (await engine.driver(store).probe()).isolation is Isolation.CONTAINER


async def nothing_runs(found: object) -> bool:
    """No container is left."""
    return found == []
