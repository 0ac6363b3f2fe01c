"""The program behind a sandbox is killed or stops answering: its own caller is told, nobody else notices."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import pytest

from agentkernel.drivers.qemu import QemuDriver
from agentkernel.engine import command, sandbox
from agentkernel.engine.command import run_command
from agentkernel.engine.engine import Engine
from agentkernel.engine.sandbox import Sandbox
from agentkernel.images.store import Store
from agentkernel.model.errors import AgentkernelError, Broken
from agentkernel.model.execution import Started, Stdout
from agentkernel.pool.events import Key
from tests.support.machines import alive, booted, qemu_spec, request, run, settles
from tests.support.processes import processes_of

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

PROMPT_S = 5.0
NOTICED_S = 10.0


@pytest.fixture(scope="module")
async def neighbour(engine: Engine, key: Key) -> AsyncIterator[Sandbox]:
    """Lent to somebody else all the while."""
    lent = await engine.lend(key)
    yield lent
    engine.give_back(lent)


async def healthy(neighbour: Sandbox) -> None:
    """The neighbour's caller notices nothing."""
    with anyio.fail_after(PROMPT_S):
        assert (await run_command(neighbour.guest, request("/bin/true"))).exit_code == 0


async def until_it_runs(victim: Sandbox, caught: list[AgentkernelError], started: anyio.Event) -> None:
    """Run something that never ends in it, and keep what is raised."""

    def seen(event: object) -> None:
        if isinstance(event, Started):
            started.set()

    try:
        await run_command(victim.guest, request("sleep", "100000"), sink=seen)
    except AgentkernelError as err:
        caught.append(err)


async def ends(engine: Engine, lent: Sandbox, pids: dict[str, int], place: Path) -> bool:
    """Whether nothing is left of it soon after it was given back."""
    engine.give_back(lent)

    async def gone() -> bool:
        return not any(map(alive, pids.values())) and not (place / "sandboxes" / lent.id).exists()

    return await settles(gone)


async def test_a_killed_machine_breaks_its_own_command_and_nobody_elses(
    engine: Engine, key: Key, neighbour: Sandbox, place: Path
) -> None:
    await healthy(neighbour)
    victim = await engine.lend(key)
    pids, caught, started = processes_of(victim.id), [], anyio.Event()
    ticks: list[bytes] = []

    def tick(event: object) -> None:
        if isinstance(event, Stdout):
            ticks.append(event.data)

    script = "for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.2; done"
    async with anyio.create_task_group() as group:
        group.start_soon(until_it_runs, victim, caught, started)
        group.start_soon(lambda: run_command(neighbour.guest, request("sh", "-c", script), sink=tick))
        await started.wait()
        os.kill(pids["program"], signal.SIGKILL)
    assert [type(err) for err in caught] == [Broken]
    assert b"".join(ticks).split() == b"1 2 3 4 5 6 7 8".split()
    with pytest.raises(Broken):
        await run_command(victim.guest, request("/bin/true"))
    assert await ends(engine, victim, pids, place)
    replacement = await engine.lend(key)
    assert (await run_command(replacement.guest, request("/bin/true"))).exit_code == 0
    await healthy(neighbour)
    assert await ends(engine, replacement, processes_of(replacement.id), place)


async def test_a_killed_supervisor_takes_its_machine_along(
    engine: Engine, key: Key, neighbour: Sandbox, place: Path
) -> None:
    await healthy(neighbour)
    victim = await engine.lend(key)
    pids, caught, started = processes_of(victim.id), [], anyio.Event()
    with anyio.fail_after(NOTICED_S):
        async with anyio.create_task_group() as group:
            group.start_soon(until_it_runs, victim, caught, started)
            await started.wait()
            os.kill(pids["supervisor"], signal.SIGKILL)
    assert [type(err) for err in caught] == [Broken]
    assert await ends(engine, victim, pids, place)
    await healthy(neighbour)


async def test_a_machine_that_stops_is_noticed_and_breaks_its_own_command(
    engine: Engine, key: Key, neighbour: Sandbox, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "HEARTBEAT_S", 0.3)
    monkeypatch.setattr(sandbox, "HEARTBEAT_GRACE_S", 1.5)
    victim = await engine.lend(key)
    pids, caught, started = processes_of(victim.id), [], anyio.Event()
    with anyio.fail_after(NOTICED_S):
        async with anyio.create_task_group() as group:
            group.start_soon(until_it_runs, victim, caught, started)
            await started.wait()
            os.kill(pids["program"], signal.SIGSTOP)
            await healthy(neighbour)
    assert [type(err) for err in caught] == [Broken]
    assert await ends(engine, victim, pids, place)
    await healthy(neighbour)


async def test_a_guest_that_does_not_answer_a_start_or_a_kill_is_given_up(
    driver: QemuDriver, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with booted(driver, qemu_spec(store), tmp_path) as machine:
        stopped: Callable[[object], None] = lambda event: isinstance(event, Started) and machine.kill(signal.SIGSTOP)  # noqa: E731
        monkeypatch.setattr(command, "START_GRACE_S", 10.0)
        monkeypatch.setattr(command, "KILL_GRACE_S", 0.5)
        with anyio.fail_after(NOTICED_S), pytest.raises(Broken, match="did not end a killed command"):
            await run_command(machine.guest, request("sleep", "1000"), timeout_s=0.2, sink=stopped)
        monkeypatch.setattr(command, "START_GRACE_S", 0.5)
        with anyio.fail_after(NOTICED_S), pytest.raises(Broken, match="did not start the program"):
            await run_command(machine.guest, request("/bin/true"))
        machine.kill(signal.SIGCONT)
        assert (await run(machine.guest, "/bin/true")).code == 0
        machine.kill(signal.SIGSTOP)
    assert not alive(machine.pid)
