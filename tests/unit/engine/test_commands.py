"""One command in one guest: deadlines, input, output, failures to start."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from tests.support.engines import KEY, engine_over

from agentkernel.drivers.fake import FakeDriver
from agentkernel.engine import command
from agentkernel.engine.command import run_command
from agentkernel.model.errors import Broken
from agentkernel.model.execution import ExecRequest, Started, Stderr, Stdout
from agentkernel.model.kinds import Vmm

pytestmark = pytest.mark.anyio


async def test_output_reaches_the_sink_in_order_and_the_exit_code_the_caller(tmp_path: Path) -> None:
    async with engine_over(FakeDriver(vmm=Vmm.QEMU), tmp_path) as engine:
        sandbox = await engine.lend(KEY)
        seen: list[object] = []
        outcome = await run_command(sandbox.guest, ExecRequest(argv=(b"echo", b"hi")), sink=seen.append)
        assert isinstance(seen[0], Started)
        assert b"".join(event.data for event in seen[1:] if isinstance(event, Stdout)) == b"hi\n"
        assert not any(isinstance(event, Stderr) for event in seen)
        assert (outcome.exit_code, outcome.timed_out, outcome.problem) == (0, False, "")
        assert (await run_command(sandbox.guest, ExecRequest(argv=(b"exit", b"7")))).exit_code == 7
        engine.give_back(sandbox)


async def test_input_larger_than_a_window_comes_back_whole(tmp_path: Path) -> None:
    async with engine_over(FakeDriver(vmm=Vmm.QEMU), tmp_path) as engine:
        sandbox = await engine.lend(KEY)
        content, seen = bytes(range(256)) * 4096, bytearray()

        def keep(event: object) -> None:
            if isinstance(event, Stdout):
                seen.extend(event.data)

        request = ExecRequest(argv=(b"cat",), stdin=True)
        assert (await run_command(sandbox.guest, request, stdin=content, sink=keep)).exit_code == 0
        assert bytes(seen) == content
        engine.give_back(sandbox)


async def test_at_its_deadline_a_command_is_killed_and_the_sandbox_goes_on(tmp_path: Path) -> None:
    async with engine_over(FakeDriver(vmm=Vmm.QEMU), tmp_path) as engine:
        sandbox = await engine.lend(KEY)
        outcome = await run_command(sandbox.guest, ExecRequest(argv=(b"sleep", b"600")), timeout_s=0.02)
        assert (outcome.exit_code, outcome.timed_out) == (124, True)
        assert (await run_command(sandbox.guest, ExecRequest(argv=(b"echo",)))).exit_code == 0
        engine.give_back(sandbox)


async def test_a_command_within_its_deadline_is_not_touched_by_it(tmp_path: Path) -> None:
    async with engine_over(FakeDriver(vmm=Vmm.QEMU), tmp_path) as engine:
        sandbox = await engine.lend(KEY)
        outcome = await run_command(sandbox.guest, ExecRequest(argv=(b"echo",)), timeout_s=60)
        assert (outcome.exit_code, outcome.timed_out) == (0, False)
        engine.give_back(sandbox)


async def test_a_program_that_is_not_there_is_127_and_named(tmp_path: Path) -> None:
    async with engine_over(FakeDriver(vmm=Vmm.QEMU), tmp_path) as engine:
        sandbox = await engine.lend(KEY)
        outcome = await run_command(sandbox.guest, ExecRequest(argv=(b"no-such-program",)))
        assert outcome.exit_code == 127
        assert "no-such-program" in outcome.problem
        engine.give_back(sandbox)


async def test_a_guest_that_falls_silent_breaks_its_caller_within_the_grace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "START_GRACE_S", 0.05)
    driver = FakeDriver(vmm=Vmm.QEMU)
    async with engine_over(driver, tmp_path) as engine:
        silent, other = await engine.lend(KEY), await engine.lend(KEY)
        driver.alive[silent.id].deaf = True
        with pytest.raises(Broken, match="did not start"):
            await run_command(silent.guest, ExecRequest(argv=(b"echo",)))
        assert (await run_command(other.guest, ExecRequest(argv=(b"echo",)))).exit_code == 0
        engine.give_back(silent)
        engine.give_back(other)


async def test_a_cancelled_caller_kills_its_command(tmp_path: Path) -> None:
    async with engine_over(FakeDriver(vmm=Vmm.QEMU), tmp_path) as engine:
        sandbox = await engine.lend(KEY)
        with anyio.move_on_after(0.02):
            await run_command(sandbox.guest, ExecRequest(argv=(b"sleep", b"600")))
        with anyio.fail_after(5):
            assert (await run_command(sandbox.guest, ExecRequest(argv=(b"echo",)))).exit_code == 0
        engine.give_back(sandbox)
