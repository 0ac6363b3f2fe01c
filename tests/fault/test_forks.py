"""QEMU is killed while it saves and while it loads: a clear error, and nobody else notices."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Awaitable
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from agentkernel.engine.command import run_command
from agentkernel.engine.engine import Engine
from agentkernel.engine.leases import Lease
from agentkernel.model.errors import AgentkernelError, Broken
from agentkernel.pool.events import Key
from tests.support.machines import request, settles
from tests.support.processes import processes_of

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

PROMPT_S = 10.0


async def healthy(lease: Lease) -> None:
    """Its caller notices nothing."""
    with anyio.fail_after(PROMPT_S):
        assert (await run_command(lease.sandbox.guest, request("/bin/true"))).exit_code == 0


async def nothing_left(engine: Engine, place: Path, *, but: int) -> bool:
    """Whether so many sandboxes, and no saved one, are there soon."""

    async def settled() -> bool:
        return len(list((place / "sandboxes").iterdir())) == but and not list((place / "snapshots").glob("*"))

    return await settles(settled)


async def saving(act: Awaitable[object], caught: list[AgentkernelError]) -> None:
    """Keep what it raises."""
    try:
        await act
    except AgentkernelError as err:
        caught.append(err)


@pytest.mark.parametrize("what", ["fork", "snapshot"])
async def test_a_machine_killed_while_it_is_saved_breaks_that_call_and_leaves_nothing(
    engine: Engine, key: Key, place: Path, what: str
) -> None:
    neighbour, victim = await engine.acquire(key), await engine.acquire(key)
    pid = processes_of(victim.sandbox.id)["program"]
    caught: list[AgentkernelError] = []
    with anyio.fail_after(PROMPT_S):
        async with anyio.create_task_group() as group:
            act = engine.fork(victim.id, 2) if what == "fork" else engine.snapshot(victim.id)
            group.start_soon(saving, act, caught)
            while not list((place / "snapshots").glob(".*/state")):
                await anyio.lowlevel.checkpoint()
            os.kill(pid, signal.SIGKILL)
    assert [type(err) for err in caught] == [Broken]
    engine.release(victim.id)
    await healthy(neighbour)
    assert await nothing_left(engine, place, but=1)
    engine.release(neighbour.id)
    assert await nothing_left(engine, place, but=0)


async def test_machines_killed_while_they_load_fail_the_fork_and_not_its_parent(
    engine: Engine, key: Key, place: Path
) -> None:
    parent = await engine.acquire(key)
    caught: list[AgentkernelError] = []
    over = anyio.Event()

    async def fork() -> None:
        await saving(engine.fork(parent.id, 2), caught)
        over.set()

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(fork)
            while not over.is_set():
                for folder in (place / "sandboxes").iterdir():
                    if folder.name != parent.sandbox.id:
                        with contextlib.suppress(AssertionError, LookupError, OSError):
                            os.kill(processes_of(folder.name)["program"], signal.SIGKILL)
                await anyio.sleep(0.005)
    assert [type(err) for err in caught] == [Broken]
    # Killed before QEMU is executed it is the supervisor that says so, after that it is what became of the boot.
    assert any(words in str(caught[0]) for words in ("did not come up", "cannot confine")), caught[0]
    await healthy(parent)
    assert await nothing_left(engine, place, but=1)
    (child,) = await engine.fork(parent.id, 1)
    await healthy(child)
    engine.release(child.id)
    engine.release(parent.id)
    assert await nothing_left(engine, place, but=0)
