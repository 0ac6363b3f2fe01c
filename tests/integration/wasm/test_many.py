"""Many instances, one after another and at once, in one sandbox and in several."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from tests.integration.wasm.conftest import wasm_spec
from tests.support.machines import Machine, booted, run

from agentkernel.drivers.wasm.driver import WasmDriver

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

GROWTH_MIB = 32


def resident_mib(machine: Machine) -> float:
    """Private memory of the worker."""
    rollup = Path(f"/proc/{machine.pid}/smaps_rollup").read_text()
    fields = dict(line.split(":", 1) for line in rollup.splitlines()[1:])
    return sum(int(fields[name].split()[0]) for name in ("Private_Dirty", "Private_Clean")) / 1024


def descriptors(machine: Machine) -> int:
    """How many the worker has open."""
    return len(list(Path(f"/proc/{machine.pid}/fd").iterdir()))


async def test_a_thousand_instances_one_after_another_leave_memory_as_it_was(machine: Machine) -> None:
    for _ in range(100):
        assert (await run(machine.guest, "python3", "-c", "print(1)")).text == "1"
    before, open_before = resident_mib(machine), descriptors(machine)
    for number in range(1000):
        assert (await run(machine.guest, "python3", "-c", f"print({number})")).text == str(number)
    assert resident_mib(machine) - before < GROWTH_MIB
    assert descriptors(machine) <= open_before + 8


async def test_a_hundred_instances_at_once_each_say_their_own(driver: WasmDriver, tmp_path: Path) -> None:
    program = "import sys, json; print(json.dumps([sys.argv[1], len(sys.stdin.read())]))"
    said: dict[int, str] = {}

    async def one(machine: Machine, number: int) -> None:
        ran = await run(machine.guest, "python3", "-c", program, str(number), stdin=b"x" * number)
        said[number] = ran.text

    async with booted(driver, wasm_spec(), tmp_path) as first, booted(driver, wasm_spec(), tmp_path) as second:
        for _ in range(2):
            said.clear()
            async with anyio.create_task_group() as group:
                for number in range(100):
                    group.start_soon(one, first if number % 2 else second, number)
            assert said == {number: f'["{number}", {number}]' for number in range(100)}
            after = resident_mib(first)
        assert after < 50 * 16 + 200, "what fifty instances took is given back"
