"""Input and output: bytes, order, windows."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import anyio
import pytest

from agentkernel.drivers.contract import Guest
from agentkernel.engine.command import run_command
from agentkernel.model.errors import Refused
from agentkernel.model.execution import Exited, Started, Stderr, Stdout
from tests.conformance.candidates import Subject
from tests.support.machines import request, run, settles, shell

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

EVERY_BYTE = bytes(range(256))
PROMPT_S = 5.0
"""Far less than anything that waits for somebody; far more than an emulated machine needs."""


def resident_kib(field: str = "VmRSS") -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1])


@pytest.mark.behaviour("streams.separate")
async def test_standard_output_and_error_are_kept_apart(guest: Guest) -> None:
    ran = await shell(guest, "echo out; echo err >&2; echo more; exit 3")
    assert (ran.stdout, ran.stderr, ran.code) == (b"out\nmore\n", b"err\n", 3)


@pytest.mark.behaviour("streams.binary")
async def test_output_is_bytes(guest: Guest) -> None:
    await guest.write_file("/workspace/bytes", EVERY_BYTE * 1000)
    ran = await shell(guest, "cat bytes; cat bytes >&2; rm bytes")
    assert (ran.stdout, ran.stderr) == (EVERY_BYTE * 1000, EVERY_BYTE * 1000)


@pytest.mark.behaviour("streams.in-order")
async def test_output_comes_before_the_end_and_the_start_before_output(guest: Guest) -> None:
    ran = await shell(guest, "echo a; echo b >&2")
    assert isinstance(ran.events[0], Started)
    assert ran.events[0].pid > 1
    assert {type(event) for event in ran.events[1:-1]} == {Stdout, Stderr}
    assert isinstance(ran.events[-1], Exited)


@pytest.mark.behaviour("streams.last-words")
async def test_what_was_written_just_before_the_end_is_not_lost(guest: Guest) -> None:
    ran = await shell(guest, "head -c 60000 /dev/zero; kill -KILL $$")
    assert len(ran.stdout) == 60000
    assert ran.end.signal == 9


@pytest.mark.behaviour("streams.stdin-closed")
async def test_without_input_a_program_reads_the_end_at_once(guest: Guest) -> None:
    ran = await run(guest, "cat")
    assert (ran.stdout, ran.code) == (b"", 0)
    process = await guest.exec(request("true"))
    with pytest.raises(Refused):
        await process.send_stdin(b"x")
    assert isinstance([event async for event in process][-1], Exited)


@pytest.mark.behaviour("streams.stdin")
async def test_input_arrives_whole_and_its_end_is_seen(subject: Subject, guest: Guest) -> None:
    ran = await run(guest, "cat", stdin=EVERY_BYTE)
    assert ran.stdout == EVERY_BYTE
    assert (await run(guest, "cat", stdin=b"")).stdout == b""


@pytest.mark.behaviour("streams.stdin-open")
async def test_open_input_is_waited_for(subject: Subject, guest: Guest) -> None:
    process = await guest.exec(request("sh", "-c", 'while read -r line; do echo "got $line"; done', stdin=True))
    events = aiter(process)
    assert isinstance(await anext(events), Started)
    for word in (b"one", b"two"):
        await process.send_stdin(word + b"\n")
        assert await anext(events) == Stdout(b"got " + word + b"\n")
    await process.close_stdin()
    await process.close_stdin()
    assert isinstance(await anext(events), Exited)


@pytest.mark.behaviour("streams.stdin-large")
async def test_input_many_windows_long_comes_back_whole(subject: Subject, guest: Guest) -> None:
    content = os.urandom(4 * 1024 * 1024)
    ran = await run(guest, "cat", stdin=content)
    assert hashlib.sha256(ran.stdout).digest() == hashlib.sha256(content).digest()


@pytest.mark.behaviour("streams.stdin-unread")
async def test_input_that_nobody_reads_holds_up_nobody_and_is_dropped_at_the_end(
    subject: Subject, guest: Guest
) -> None:
    ran = await run(guest, "sleep", "1", stdin=bytes(1024 * 1024))
    assert ran.code == 0
    ran = await run(guest, "head", "-c", "3", stdin=b"abcdef" * 100_000)
    assert (ran.stdout, ran.code) == (b"abc", 0)


@pytest.mark.behaviour("streams.window")
async def test_output_that_nobody_takes_delays_nobody_else(guest: Guest) -> None:
    flood = await guest.exec(request("yes", "flood of " + "x" * 1000))
    assert isinstance(await anext(aiter(flood)), Started)
    await anyio.sleep(1)
    before = resident_kib()
    with anyio.fail_after(PROMPT_S):
        await guest.ping()
        assert (await shell(guest, "echo hi")).stdout == b"hi\n"
        assert await guest.read_file("/etc/hostname")
    assert resident_kib() - before < 4096
    await flood.kill()
    with anyio.fail_after(PROMPT_S):
        end = [event async for event in flood][-1]
    assert isinstance(end, Exited)
    assert end.signal == 9


@pytest.mark.behaviour("streams.given-up")
async def test_commands_given_up_with_output_unread_leave_room_for_others(guest: Guest) -> None:
    """More of them than there are channels, so that one that is never freed would show."""
    for _ in range(70):
        seen = anyio.Event()

        async def stuck(event: object, seen: anyio.Event = seen) -> None:
            if isinstance(event, Stdout):
                seen.set()
                await anyio.sleep_forever()

        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                group.start_soon(lambda sink=stuck: run_command(guest, request("busybox", "yes"), sink=sink))
                await seen.wait()
                group.cancel_scope.cancel()
    assert (await shell(guest, "echo hi")).stdout == b"hi\n"

    async def none_left() -> bool:
        return (await shell(guest, "pidof -q busybox; echo $?")).text == "1"

    assert await settles(none_left)


@pytest.mark.behaviour("streams.large")
async def test_a_hundred_megabytes_of_output_pass_through_little_memory(guest: Guest) -> None:
    size = 100_000_000
    process = await guest.exec(request("head", "-c", str(size), "/dev/zero"))
    before, most, seen = resident_kib(), 0, 0
    with anyio.fail_after(120):
        async for event in process:
            if isinstance(event, Stdout):
                seen += len(event.data)
                most = max(most, resident_kib())
    assert seen == size
    assert most - before < 16_384
