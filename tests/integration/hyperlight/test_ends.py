"""However a program ends, it ends cleanly, and the sandbox goes on."""

from __future__ import annotations

import anyio
import pytest
from tests.support.machines import Machine, request, run

from agentkernel.drivers.confine import confinement_of
from agentkernel.drivers.contract import Guest
from agentkernel.engine.command import run_command
from agentkernel.model.execution import Exited, Stdout

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

FLOOD = "import sys\nwhile True: sys.stdout.write('x' * 8192)"


async def works(guest: Guest) -> None:
    assert (await run(guest, "python3", "-c", "print('on')")).text == "on"


async def test_an_endless_loop_ends_at_its_deadline(guest: Guest) -> None:
    outcome = await run_command(guest, request("python3", "-c", "while True: pass"), timeout_s=2)
    assert outcome.timed_out
    await works(guest)


async def test_a_killed_program_is_gone_at_once_and_another_goes_on(guest: Guest) -> None:
    patient = await guest.exec(request("python3", "-c", "print('up', flush=True); print(input())", stdin=True))
    events = aiter(patient)
    while not isinstance(event := await anext(events), Stdout):
        pass
    assert event.data == b"up\n"
    endless = await guest.exec(request("python3", "-c", "while True: pass"))
    await anext(aiter(endless))
    await endless.kill()
    with anyio.fail_after(5):
        end = [event async for event in endless][-1]
    assert isinstance(end, Exited) and end.signal == 9
    await patient.send_stdin(b"still\n")
    await patient.close_stdin()
    rest = [event async for event in events]
    assert b"".join(event.data for event in rest if isinstance(event, Stdout)) == b"still\n"
    assert isinstance(rest[-1], Exited) and rest[-1].code == 0


async def test_a_memory_bomb_ends_its_machine_with_the_cause(guest: Guest) -> None:
    ran = await run(guest, "python3", "-c", "b = []\nwhile True: b.append(bytearray(1 << 20))")
    assert ran.end.signal == 6
    assert b"Out of physical memory" in ran.stderr
    await works(guest)


async def test_deep_recursion_is_an_error_of_the_program(guest: Guest) -> None:
    ran = await run(guest, "python3", "-c", "def f(): f()\nf()")
    assert (ran.code, b"RecursionError" in ran.stderr) == (1, True)


async def test_a_flood_of_output_waits_for_its_reader_and_ends(guest: Guest) -> None:
    flood = await guest.exec(request("python3", "-c", FLOOD))
    events = aiter(flood)
    await anext(events)
    await anext(events)
    await works(guest)  # nobody reads the flood meanwhile
    await flood.kill()
    with anyio.fail_after(20):
        end = [event async for event in events][-1]
    assert isinstance(end, Exited) and end.signal == 9
    await works(guest)


async def test_the_worker_and_its_machines_are_confined(machine: Machine, guest: Guest) -> None:
    await works(guest)
    assert confinement_of(machine.pid).weaknesses(confinement_of("self")) == []
