"""Bombs: each ends inside, and the sandbox goes on. One small sandbox for all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import nullcontext, suppress

import anyio
import pytest

from agentkernel.drivers.contract import Guest
from agentkernel.engine.command import run_command
from agentkernel.model.errors import AgentkernelError, Broken
from agentkernel.model.kinds import Feature
from tests.conformance.candidates import Subject
from tests.support.machines import Machine, processes_with, request, run, settles, shell

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

DISK_MIB, MEMORY_MIB, PIDS = 24, 192, 48
SURVIVES_S = 60.0
FORK_BOMB = ("perl", "-e", "while (1) { fork }", "1919")
FULL = ("perl", "-e", "while (1) { my $pid = fork; if (defined $pid && !$pid) { sleep 1000; exit } }", "1717")


@pytest.fixture(scope="module")
async def small(subject: Subject) -> AsyncIterator[Machine]:
    """A sandbox with little of everything."""
    async with subject.sandbox(disk_mib=DISK_MIB, memory_mib=MEMORY_MIB, pids=PIDS) as made:
        yield made


async def works(guest: Guest) -> bool:
    """Whether a program runs."""
    try:
        return (await shell(guest, "echo works")).stdout == b"works\n"
    except (AgentkernelError, AssertionError):
        return False


@pytest.mark.behaviour("limits.disk")
async def test_a_disk_bomb_ends_at_the_size_of_the_disk(subject: Subject, small: Machine) -> None:
    """Both directories are on the one disk, and most of it is there to be used."""
    assert Feature.DISK_LIMIT in subject.driver.capabilities
    bombs = ("/scratch/bomb", "/workspace/bomb")
    for bomb in bombs:
        ran = await shell(small.guest, f"LC_ALL=C dd if=/dev/zero of={bomb} bs=64k; sync {bomb}")
        assert b"No space left on device" in ran.stderr
    sizes = [(await small.guest.stat(bomb)).size for bomb in bombs]
    assert DISK_MIB << 20 >= sum(sizes) >= (DISK_MIB << 20) * 3 // 4
    with pytest.raises(OSError, match="No space"):
        await small.guest.write_file("/workspace/file", bytes(1 << 20))
    assert await works(small.guest)
    for bomb in bombs:
        await small.guest.remove(bomb)
    await small.guest.write_file("/workspace/file", bytes(1 << 20))


@pytest.mark.behaviour("limits.processes")
async def test_a_fork_bomb_stays_within_its_limit_and_dies_at_its_deadline(small: Machine) -> None:
    outcome = await run_command(small.guest, request(*FORK_BOMB), timeout_s=3)
    assert outcome.timed_out
    await small.guest.ping()
    assert await settles(lambda: works(small.guest))
    assert await processes_with(small.guest, "1919") == 0


@pytest.mark.behaviour("limits.full-of-processes")
async def test_where_no_process_can_be_made_a_start_fails_and_the_sandbox_does_not(small: Machine) -> None:
    hog = await small.guest.exec(request(*FULL))

    async def is_full() -> bool:
        return len((await run(small.guest, "/bin/true")).events) == 1

    assert await settles(is_full)
    assert (await run(small.guest, "/bin/true")).refusal.what.startswith("fork")
    await small.guest.ping()
    there = [entry.name for entry in await small.guest.list_directory("/proc") if entry.name.isdecimal()]
    command_lines = [await small.guest.read_file(f"/proc/{pid}/cmdline") for pid in there]
    assert PIDS // 2 < sum(b"1717" in line for line in command_lines) <= PIDS
    await hog.kill()
    with anyio.fail_after(20):
        assert [event async for event in hog]
    assert await settles(lambda: works(small.guest))
    assert await processes_with(small.guest, "1717") == 0


@pytest.mark.behaviour("limits.memory")
async def test_a_memory_bomb_ends_inside(subject: Subject, sibling: Machine) -> None:
    """It is killed and the sandbox goes on, or the sandbox ends with it: as declared. No other one notices."""
    survives = Feature.OOM_INSIDE in subject.driver.capabilities
    async with subject.sandbox(memory_mib=MEMORY_MIB) as machine:
        guest = machine.guest
        with anyio.fail_after(SURVIVES_S), nullcontext() if survives else pytest.raises(Broken):
            outcome = await run_command(guest, request("tail", "/dev/zero"), timeout_s=50)
            assert not outcome.timed_out
            assert outcome.exit_code != 0
        assert await works(guest) == survives
        assert await works(sibling.guest)


@pytest.mark.behaviour("limits.memory-files")
async def test_memory_full_of_files_ends_inside(subject: Subject, sibling: Machine) -> None:
    """Three file systems in memory, 1000 MiB for each: whoever fills all of them has more than there is. What then runs
    may crawl until its deadline, which still ends it. Where the sandbox goes on, the memory is free again with them.
    """
    survives = Feature.OOM_INSIDE in subject.driver.capabilities
    places = ("/tmp", "/dev/shm", "/home/sandbox")
    script = "".join(f"head -c 1000M /dev/zero > {at}/bomb; " for at in places)
    async with subject.sandbox(memory_mib=MEMORY_MIB) as machine:
        guest = machine.guest
        try:
            with anyio.fail_after(SURVIVES_S):
                await run_command(guest, request("sh", "-c", script), timeout_s=8)
                await guest.ping()
                for at in places:
                    with suppress(FileNotFoundError):
                        await guest.remove(f"{at}/bomb")
            assert await settles(lambda: works(guest))
        except Broken:
            assert not survives
        assert await works(sibling.guest)


@pytest.mark.behaviour("limits.descriptors")
async def test_a_program_has_a_thousand_descriptors_and_no_more(small: Machine) -> None:
    script = "$n = 0; while (open($f[$n], '<', '/dev/null')) { $n++ } print $n + 3"
    assert (await run(small.guest, "perl", "-e", script)).text == "1024"


@pytest.mark.behaviour("limits.console")
async def test_a_flood_on_the_console_delays_nobody(subject: Subject, small: Machine) -> None:
    """Where there is no console, what it would have got goes nowhere."""
    flood = await small.guest.exec(request("sh", "-c", "exec cat /dev/zero > /dev/console", user="root"))
    await anext(aiter(flood))
    with anyio.fail_after(20):
        for _ in range(20):
            await small.guest.ping()
        assert await works(small.guest)
    await flood.kill()
    assert [event async for event in flood]


@pytest.mark.behaviour("limits.crash")
async def test_root_cannot_crash_more_than_its_own_sandbox(subject: Subject, small: Machine) -> None:
    """The last thing that happens to this sandbox, where its kernel has such a switch. A shared kernel's is never
    pulled but only shown to be out of reach.
    """
    reach = await shell(small.guest, ": >> /proc/sysrq-trigger", user="root")
    if not subject.candidate.own_kernel:
        assert reach.code != 0
    elif reach.code == 0:
        with anyio.fail_after(20), pytest.raises(Broken):
            await shell(small.guest, "echo c > /proc/sysrq-trigger; sleep 1000", user="root")
        with anyio.fail_after(1):
            assert await small.guest.wait_broken()
        return
    assert await works(small.guest)
