"""How programs end: by themselves, by signals, by force, with all that they started."""

from __future__ import annotations

import signal

import anyio
import pytest

from agentkernel.drivers.contract import Guest
from agentkernel.engine.command import run_command
from agentkernel.model.errors import Busy, Refused
from agentkernel.model.execution import Exited, Started, Stdout
from tests.conformance.candidates import Subject
from tests.support.machines import processes_with, request, run, settles, shell

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

PROMPT_S = 10.0
CODES = (0, 1, 2, 63, 64, 100, 124, 125, 126, 127, 128, 129, 130, 137, 200, 254, 255)
SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGSEGV, signal.SIGPIPE, signal.SIGTERM, signal.SIGKILL)

STUBBORN = """
trap "" TERM HUP INT QUIT
(trap "" TERM; sleep 4242.1) &
setsid sh -c 'trap "" TERM HUP; (setsid sleep 4242.2 &) ; (sleep 4242.3 & exec sleep 4242.4)' &
(setsid setsid sh -c '(setsid sleep 4242.5 </dev/null >/dev/null 2>&1 &) & exit') &
sleep 0.3
echo ready
while :; do sleep 4242.6; done
"""
"""Ignores what can be ignored, and has children in every state that a daemon can think of."""


@pytest.mark.behaviour("end.exit-codes")
async def test_exit_codes_are_told_as_they_are(guest: Guest) -> None:
    for code in CODES:
        end = (await run(guest, "/bin/sh", "-c", f"exit {code}")).end
        assert (end.code, end.signal) == (code, None)


@pytest.mark.behaviour("end.signals")
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
async def test_death_by_a_signal_is_told_as_such(guest: Guest, number: signal.Signals) -> None:
    end = (await shell(guest, f"kill -{int(number)} $$")).end
    assert (end.code, end.signal) == (128 + number, number)


@pytest.mark.behaviour("end.usage")
async def test_the_end_tells_what_was_used(guest: Guest) -> None:
    end = (await shell(guest, "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done")).end
    assert end.user_us > 1000
    assert end.peak_kib > 100


@pytest.mark.behaviour("end.signal-to-group")
async def test_a_signal_reaches_the_whole_group(guest: Guest) -> None:
    process = await guest.exec(request("sh", "-c", "sleep 3131.1 & sleep 3131.2 & echo ready; wait"))
    events = aiter(process)
    assert isinstance(await anext(events), Started)
    assert await anext(events) == Stdout(b"ready\n")
    await process.signal(signal.SIGTERM)
    with anyio.fail_after(PROMPT_S):
        end = await anext(events)
    assert isinstance(end, Exited)
    assert end.signal == signal.SIGTERM
    assert await settles(lambda: _none(guest, "3131"))


@pytest.mark.behaviour("end.signal-handled")
async def test_a_program_may_handle_a_signal(guest: Guest) -> None:
    process = await guest.exec(request("sh", "-c", 'trap "echo caught; exit 5" USR1; echo ready; while :; do :; done'))
    said = b""
    with anyio.fail_after(PROMPT_S):
        async for event in process:
            if isinstance(event, Stdout):
                said += event.data
                if said == b"ready\n":
                    await process.signal(signal.SIGUSR1)
            if isinstance(event, Exited):
                assert event.code == 5
    assert said == b"ready\ncaught\n"


@pytest.mark.behaviour("end.signal-none")
async def test_what_is_no_signal_is_refused(guest: Guest) -> None:
    process = await guest.exec(request("sleep", "100"))
    for number in (0, -1, 65, 1 << 31):
        with pytest.raises(Refused):
            await process.signal(number)
    await process.kill()
    assert [event async for event in process]


@pytest.mark.behaviour("end.kill-tree")
async def test_a_killed_command_takes_everything_it_started_along(guest: Guest) -> None:
    process = await guest.exec(request("sh", "-c", STUBBORN))
    events = aiter(process)
    assert isinstance(await anext(events), Started)
    assert await anext(events) == Stdout(b"ready\n")
    assert await processes_with(guest, "4242") >= 6
    await process.signal(signal.SIGTERM)
    await guest.ping()
    await process.kill()
    with anyio.fail_after(PROMPT_S):
        rest = [event async for event in process]
    assert isinstance(rest[-1], Exited)
    assert rest[-1].signal == signal.SIGKILL
    assert await settles(lambda: _none(guest, "4242"))


@pytest.mark.behaviour("end.deadline")
async def test_at_the_deadline_the_whole_tree_is_killed_and_the_sandbox_goes_on(guest: Guest) -> None:
    outcome = await run_command(guest, request("sh", "-c", STUBBORN), timeout_s=1.5)
    assert (outcome.exit_code, outcome.timed_out) == (124, True)
    assert await settles(lambda: _none(guest, "4242"))
    assert (await run_command(guest, request("true"), timeout_s=30)).exit_code == 0


@pytest.mark.behaviour("end.cancelled")
async def test_a_cancelled_command_is_killed(guest: Guest) -> None:
    with anyio.move_on_after(1.5) as scope:
        await run_command(guest, request("sh", "-c", STUBBORN))
    assert scope.cancelled_caught
    assert await settles(lambda: _none(guest, "4242"))


@pytest.mark.behaviour("end.background")
async def test_a_background_child_does_not_delay_the_end_and_lives_on(guest: Guest) -> None:
    with anyio.fail_after(PROMPT_S):
        ran = await shell(guest, "sleep 5151 & echo done")
    assert (ran.stdout, ran.code) == (b"done\n", 0)
    assert await processes_with(guest, "5151") == 1
    await shell(guest, "pkill -f 5151")
    assert await settles(lambda: _none(guest, "5151"))


@pytest.mark.behaviour("end.channels")
async def test_sixty_four_programs_run_at_once_and_one_more_is_told_to_wait(subject: Subject, guest: Guest) -> None:
    running = [await guest.exec(request("/bin/cat", stdin=True)) for _ in range(64)]
    with pytest.raises(Busy):
        await guest.exec(request("/bin/true"))
    with anyio.fail_after(60):
        for number, process in enumerate(running):
            await process.send_stdin(b"%d" % number)
            await process.close_stdin()
        for number, process in enumerate(running):
            events = [event async for event in process]
            assert events[1] == Stdout(b"%d" % number)
            assert isinstance(events[-1], Exited)
    assert (await run(guest, "/bin/true")).code == 0


async def _none(guest: Guest, mark: str) -> bool:
    return await processes_with(guest, mark) == 0
