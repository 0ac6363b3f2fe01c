"""One sandbox is bombed, and the one beside it answers all the while; then nothing of the bomb is left.

How long the neighbour's answers take is measured by benchmarks/neighbour.py; here they only have to come.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial

import anyio
import pytest

from agentkernel.drivers.contract import Guest
from agentkernel.engine.command import run_command
from agentkernel.model.errors import Broken
from agentkernel.model.kinds import Feature
from tests.conformance.candidates import Subject
from tests.support.machines import Machine, processes_with, request, settles, shell

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

LASTS_S = 3.0
ANSWERS_S = 20.0
"""Between a neighbour that is slowed down, which it may be, and one that hangs."""
MARK = "2323"
FOLDER = "/scratch/bomb"
BOMBS = {
    "forks": ("perl", "-e", "while (1) { fork }", MARK),
    "output": ("sh", "-c", f"cat /dev/zero; : {MARK}"),
    "processor": ("sh", "-c", f"for n in 1 2 3 4; do (while :; do :; done; : {MARK}) & done; wait"),
    "stubborn": ("sh", "-c", f"trap '' TERM HUP INT QUIT; while :; do sleep 0.{MARK}; done"),
    "daemons": (
        "sh",
        "-c",
        f"for n in 1 2 3 4 5 6 7 8; do (setsid sleep {MARK} >/dev/null 2>&1 &); done; sleep {MARK}",
    ),
    "zombies": ("perl", "-e", "for (1..24) { fork or exit } sleep 1000", MARK),
    "orphans": ("perl", "-e", "while (1) { my $pid = fork; if (defined $pid && !$pid) { fork; exit } wait }", MARK),
    "inodes": (
        "sh",
        "-c",
        f"mkdir {FOLDER}; i=0; while :; do i=$((i+1)); {{ true > {FOLDER}/$i; }} 2>/dev/null; done; : {MARK}",
    ),
}
FORKING = {"forks", "orphans"}
"""Where the limit of processes does not hold inside (`Feature.PIDS_INSIDE`), these may end their sandbox."""


def small(subject: Subject) -> AbstractAsyncContextManager[Machine]:
    """A sandbox with little of everything."""
    return subject.sandbox(disk_mib=24, memory_mib=192, pids=48)


@pytest.fixture(scope="module")
async def bombed(subject: Subject) -> AsyncIterator[Machine]:
    """One that survives what its tests do."""
    async with small(subject) as made:
        yield made


async def beside(neighbour: Guest, bomb: Callable[[], Awaitable[None]]) -> int:
    """How many questions the neighbour answered while a bomb went off."""
    answered = 0
    over = anyio.Event()

    async def explode() -> None:
        try:
            await bomb()
        finally:
            over.set()

    async with anyio.create_task_group() as group:
        group.start_soon(explode)
        while not over.is_set() or not answered:
            with anyio.fail_after(ANSWERS_S):
                await neighbour.ping()
                assert (await shell(neighbour, "echo here")).stdout == b"here\n"
                answered += 1
    return answered


async def zombies(guest: Guest) -> int:
    """How many dead processes wait in the sandbox for their parents."""
    return int((await shell(guest, "cat /proc/[0-9]*/status 2>/dev/null | grep -c '^State:.Z'; :")).text)


async def is_clean(guest: Guest) -> bool:
    """Whether programs run, and nothing of the bomb does. Raises Broken for a sandbox that has ended."""
    try:
        return await processes_with(guest, MARK) == 0 and await zombies(guest) == 0
    except (AssertionError, ValueError):
        return False


async def check_bomb(bombed: Machine, neighbour: Machine, argv: tuple[str, ...]) -> None:
    """It ends at its deadline, the neighbour answers meanwhile, and nothing of it is left."""

    async def bomb() -> None:
        outcome = await run_command(bombed.guest, request(*argv), timeout_s=LASTS_S)
        assert outcome.timed_out

    assert await beside(neighbour.guest, bomb)
    assert await settles(partial(is_clean, bombed.guest))
    with suppress(FileNotFoundError):
        await bombed.guest.remove(FOLDER, recursive=True)


@pytest.mark.behaviour("bombs.contained")
@pytest.mark.behaviour("bombs.neighbour")
@pytest.mark.parametrize("name", sorted(BOMBS.keys() - FORKING))
async def test_a_bomb_ends_at_its_deadline_and_the_neighbour_answers_all_the_while(
    bombed: Machine, sibling: Machine, name: str
) -> None:
    await check_bomb(bombed, sibling, BOMBS[name])


@pytest.mark.behaviour("bombs.contained")
@pytest.mark.behaviour("bombs.neighbour")
@pytest.mark.parametrize("name", sorted(FORKING))
async def test_a_bomb_of_processes_ends_at_its_deadline_or_with_its_sandbox_and_the_neighbour_answers(
    subject: Subject, sibling: Machine, name: str
) -> None:
    async with small(subject) as machine:

        async def bomb() -> None:
            try:
                outcome = await run_command(machine.guest, request(*BOMBS[name]), timeout_s=LASTS_S)
                assert outcome.timed_out
                assert await settles(partial(is_clean, machine.guest))
            except Broken:
                assert Feature.PIDS_INSIDE not in subject.driver.capabilities

        assert await beside(sibling.guest, bomb)


@pytest.mark.behaviour("bombs.memory-neighbour")
async def test_the_neighbour_answers_while_another_runs_out_of_memory(subject: Subject, sibling: Machine) -> None:
    """Whether the bombed sandbox outlives it is another behaviour's matter."""
    async with subject.sandbox(memory_mib=192) as machine:

        async def bomb() -> None:
            try:
                outcome = await run_command(machine.guest, request("tail", "/dev/zero"), timeout_s=60)
                assert outcome.exit_code != 0
            except Broken:
                assert Feature.OOM_INSIDE not in subject.driver.capabilities

        assert await beside(sibling.guest, bomb)
