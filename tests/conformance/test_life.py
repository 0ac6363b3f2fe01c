"""Greeting, refresh, quiet, and the end of a sandbox."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import cast

import anyio
import pytest

from agentkernel.drivers.contract import Guest
from agentkernel.drivers.link import LinkGuest
from agentkernel.model.errors import AgentkernelError, Broken, Refused
from agentkernel.model.execution import Started
from agentkernel.model.ids import Digest, SandboxId, new_sandbox_id
from agentkernel.model.readiness import Identity
from tests.conformance.candidates import Subject
from tests.support.machines import Cradle, Machine, booted, cradle, request, run, settles, shell

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

GONE_S = 5.0


async def generation(guest: Guest) -> int:
    """How often the sandbox was told who it is."""
    return int(await guest.read_file("/run/agentkernel/generation"))


@pytest.mark.behaviour("life.facts")
async def test_a_greeted_guest_tells_facts_that_are_true(guest: Guest) -> None:
    facts = guest.facts.facts
    assert facts["kernel"] == (await run(guest, "uname", "-r")).text
    assert facts["arch"] == (await run(guest, "uname", "-m")).text
    assert facts["boot_id"] == (await run(guest, "cat", "/proc/sys/kernel/random/boot_id")).text
    assert {"exec", "files", "tar-in", "stdin", "signal"} <= guest.facts.features


@pytest.mark.behaviour("life.refresh")
async def test_a_refresh_is_seen_by_programs_and_the_clock_is_right(guest: Guest) -> None:
    before = await generation(guest)
    await guest.refresh()
    assert await generation(guest) == before + 1
    assert (await shell(guest, "cat /run/agentkernel/generation")).text == str(before + 1)
    assert abs(float((await shell(guest, "date +%s.%N")).text) - time.time()) < 2


@pytest.mark.behaviour("life.refresh-clock")
async def test_a_clock_that_is_the_sandboxs_own_is_set_and_any_other_cannot_be(subject: Subject, guest: Guest) -> None:
    """What the guest says of its clock is true of root's `date` too."""
    own = "clock" in guest.facts.features
    assert (await shell(guest, "date -s @1000000000", user="root")).code == (0 if own else 1)
    if own:
        assert abs(float((await shell(guest, "date +%s")).text) - 1_000_000_000) < 60
    await guest.refresh()
    assert abs(float((await shell(guest, "date +%s.%N")).text) - time.time()) < 2


@pytest.mark.behaviour("life.identify-again")
async def test_a_guest_may_be_given_another_identity(sibling: Machine) -> None:
    """Where its name is its own to change; elsewhere a second greeting is taken and the name stays."""
    guest, before = sibling.guest, await generation(sibling.guest)
    other = Identity("sandbox-0badcafe", bytes(range(16)))
    await guest.identify(other)
    assert await generation(guest) == before + 1
    changes = "hostname" in guest.facts.features
    its = other if changes else sibling.birth.identity
    ran = await shell(guest, "uname -n; cat /etc/hostname /etc/machine-id")
    assert ran.text.split() == [its.hostname, its.hostname, its.machine_id.hex()]
    assert (await shell(guest, "grep -c 127.0.1.1 /etc/hosts")).text == "1" or not changes
    await guest.identify(sibling.birth.identity)


@pytest.mark.behaviour("life.quiesce")
async def test_a_quiet_guest_says_nothing_until_it_may_and_then_goes_on(sibling: Machine) -> None:
    guest = cast(LinkGuest, sibling.guest)
    script = "i=0; while [ $i -lt 40 ]; do i=$((i+1)); echo $i; sleep 0.05; done"
    process = await guest.exec(request("sh", "-c", script))
    await anext(aiter(process))
    await guest.quiesce()
    with pytest.raises(Refused):
        await guest.quiesce()
    with anyio.move_on_after(1) as scope:
        await guest.ping()
    assert scope.cancelled_caught
    guest.resume()
    with anyio.fail_after(30):
        await guest.ping()
        said = b"".join([event.data async for event in process if hasattr(event, "data")])
    assert said.split() == [b"%d" % number for number in range(1, 41)]
    with pytest.raises(Refused):
        guest.resume()


@pytest.mark.behaviour("life.pause")
async def test_a_paused_sandbox_does_nothing_until_it_goes_on(subject: Subject) -> None:
    async with subject.sandbox() as machine:
        guest = machine.guest
        process = await guest.exec(request("sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done"))
        said = aiter(process)
        await anext(said)
        await anext(said)
        await guest.pause()
        await guest.pause()
        with anyio.move_on_after(0.5):
            while True:
                await anext(said)  # what it said before
        used_s = processor_s(subject.candidate.processes(machine.birth))
        with anyio.move_on_after(2) as scope:
            await anext(said)
        assert scope.cancelled_caught
        assert processor_s(subject.candidate.processes(machine.birth)) - used_s < 0.1
        await guest.unpause()
        await guest.unpause()
        with anyio.fail_after(30):
            await anext(said)
            await guest.refresh()
            assert abs(float((await shell(guest, "date +%s.%N")).text) - time.time()) < 1
        await process.kill()


@pytest.mark.behaviour("life.pause-killed")
async def test_the_end_of_a_paused_sandbox_is_noticed(subject: Subject) -> None:
    async with subject.sandbox() as machine:
        await machine.guest.pause()
        subject.candidate.end_behind(machine.birth)
        with anyio.fail_after(GONE_S):
            assert await machine.guest.wait_broken()
        for call in (machine.guest.unpause, machine.guest.pause):
            with pytest.raises(Broken):
                await call()


@pytest.mark.behaviour("life.save")
@pytest.mark.behaviour("life.restore")
async def test_a_saved_sandbox_goes_on_and_so_does_each_that_is_restored(subject: Subject, tmp_path: Path) -> None:
    who = "uname -n; cat /etc/machine-id /proc/sys/kernel/random/boot_id /proc/sys/kernel/random/uuid"
    async with subject.sandbox() as machine:
        guest = machine.guest
        script = "i=0; while [ $i -lt 40 ]; do i=$((i+1)); echo $i; echo $i > /workspace/i; sleep 0.1; done; sleep 60"
        process = await guest.exec(request("sh", "-c", script))
        said = aiter(process)
        assert isinstance(await anext(said), Started)
        heard = [await anext(said)]
        await guest.write_file("/scratch/big", bytes(range(256)) * 4096)
        await guest.save(tmp_path)
        seen = [(await shell(guest, who)).text.split()]
        for _ in range(2):
            birth = cradle(subject.place)
            async with subject.driver.restore(tmp_path, machine.spec, birth) as child:
                seen.append((await shell(child, who)).text.split())
                assert seen[-1][0] == birth.identity.hostname
                assert abs(float((await shell(child, "date +%s.%N")).text) - time.time()) < 2
                assert await child.read_file("/scratch/big") == bytes(range(256)) * 4096
                first = int((await shell(child, "cat /workspace/i; rm /scratch/big")).text)
                await anyio.sleep(0.5)
                assert first < int((await shell(child, "cat /workspace/i")).text) <= 40
        while b"".join(event.data for event in heard).count(b"\n") < 40:
            heard.append(await anext(said))
        assert b"".join(event.data for event in heard).split() == [b"%d" % number for number in range(1, 41)]
        assert await guest.read_file("/scratch/big") == bytes(range(256)) * 4096
        await process.kill()
    assert all(len(set(each)) == 3 for each in zip(*seen, strict=True))


@pytest.mark.behaviour("life.boot-refused")
async def test_an_image_that_is_not_there_is_refused_and_leaves_nothing(subject: Subject) -> None:
    spec = replace(subject.candidate.spec(subject.store), image=Digest("f" * 64))
    with pytest.raises(Refused):
        async with booted(subject.driver, spec, subject.place):
            """Never reached."""


@pytest.mark.behaviour("life.boot-cancelled")
@pytest.mark.parametrize("after_s", [0.01, 0.2, 1.5])
async def test_a_boot_that_is_cancelled_leaves_nothing(subject: Subject, after_s: float) -> None:
    made = set(subject.place.iterdir())
    began = time.monotonic()
    with anyio.move_on_after(after_s) as scope:
        async with subject.sandbox():
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert time.monotonic() - began < after_s + GONE_S
    births = [Cradle(folder, SandboxId(folder.name)) for folder in set(subject.place.iterdir()) - made]
    assert {birth.id: left for birth in births if (left := subject.candidate.remains(birth))} == {}


@pytest.mark.behaviour("life.left")
async def test_leaving_the_block_leaves_nothing_and_every_later_call_is_broken(subject: Subject) -> None:
    async with subject.sandbox() as machine:
        guest = machine.guest
        process = await guest.exec(request("sh", "-c", "trap '' TERM; while :; do sleep 1; done"))
        assert await anext(aiter(process))
        assert subject.candidate.processes(machine.birth)
        assert subject.candidate.remains(machine.birth)
    assert subject.candidate.processes(machine.birth) == set()
    assert subject.candidate.remains(machine.birth) == set()
    for left in machine.birth.directory.iterdir():
        assert not left.is_socket() or not _answers(left), left
    for call in (guest.ping(), guest.exec(request("true")), guest.read_file("/etc/hostname"), guest.refresh()):
        with pytest.raises(Broken):
            await call
    with pytest.raises(Broken):
        await anext(aiter(process))
    await subject.driver.reap(machine.birth.id, machine.birth.facts)


@pytest.mark.behaviour("life.shut-down")
@pytest.mark.behaviour("life.wait-broken")
async def test_a_polite_end_syncs_and_is_noticed(subject: Subject) -> None:
    async with subject.sandbox() as machine:
        noticed: list[str] = []

        async def notice() -> None:
            noticed.append(await machine.guest.wait_broken())

        async with anyio.create_task_group() as group:
            group.start_soon(notice)
            await shell(machine.guest, "sleep 1000 & (trap '' TERM; exec sleep 1000) & echo x > /scratch/file")
            assert not noticed
            with anyio.fail_after(30):
                await machine.guest.shut_down()
        assert noticed

        async def ended() -> bool:
            return not subject.candidate.processes(machine.birth)

        assert await settles(ended)
        with pytest.raises(Broken):
            await machine.guest.ping()


@pytest.mark.behaviour("life.killed")
@pytest.mark.behaviour("life.reap")
async def test_a_killed_sandbox_breaks_every_call_at_once_and_reaping_it_is_fine(subject: Subject) -> None:
    async with subject.sandbox() as machine:
        guest = machine.guest
        process = await guest.exec(request("sleep", "1000"))
        assert await anext(aiter(process))
        caught: list[AgentkernelError] = []

        async def expect() -> None:
            try:
                await anext(aiter(process))
            except AgentkernelError as err:
                caught.append(err)

        with anyio.fail_after(GONE_S):
            async with anyio.create_task_group() as group:
                group.start_soon(expect)
                await anyio.lowlevel.checkpoint()
                subject.candidate.end_behind(machine.birth)
                assert await guest.wait_broken()
            for call in (guest.ping(), guest.exec(request("true")), guest.stat("/"), guest.refresh()):
                with pytest.raises(Broken):
                    await call
        assert [type(err) for err in caught] == [Broken]
        await subject.driver.reap(machine.birth.id, machine.birth.facts)
    await subject.driver.reap(new_sandbox_id(), {})


def processor_s(pids: set[str]) -> float:
    """Processor time that processes have used, all together; there is at least one."""
    assert pids
    stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(ticks) for stat in stats for ticks in stat[11:13]) / os.sysconf("SC_CLK_TCK")


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True
