"""The fake driver keeps the contract that the pool's and the engine's tests rely on."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from agentkernel.drivers.fake import FakeDriver, Faults
from agentkernel.model.errors import Broken
from agentkernel.model.execution import ExecRequest, Exited, Stdout
from agentkernel.model.ids import Digest, SandboxId, new_sandbox_id
from agentkernel.model.kinds import Backend, Isolation
from agentkernel.model.spec import BootSpec

pytestmark = pytest.mark.anyio
SPEC = BootSpec(Backend.MICROVM, "python", Digest("0" * 64))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Named:
    def __init__(self) -> None:
        self.id: SandboxId = new_sandbox_id()
        self.directory = Path()
        self.facts: dict[str, str | int] = {}

    async def record(self, **facts: str | int) -> None:
        self.facts.update(facts)


async def test_it_is_usable_and_says_how_little_it_isolates() -> None:
    driver = FakeDriver()
    readiness = await driver.probe()
    assert readiness.usable
    assert readiness.isolation is Isolation.CONTAINER
    driver.faults.unusable = "no reason"
    assert (await driver.probe()).reason == "no reason"


async def test_a_sandbox_is_recorded_before_it_is_and_gone_after_its_block() -> None:
    driver, birth = FakeDriver(), Named()
    async with driver.boot(SPEC, birth):
        assert birth.facts == {"fake": birth.id}
        assert list(driver.alive) == [birth.id]
    assert not driver.alive


async def test_boots_fail_when_they_are_told_to() -> None:
    driver = FakeDriver(faults=Faults(boot_error="no kernel", boots_left=1))
    async with driver.boot(SPEC, Named()):
        """The first one is fine."""
    with pytest.raises(Broken, match="no kernel"):
        async with driver.boot(SPEC, Named()):
            """Never reached."""
    driver.faults.boot_hangs = True
    with anyio.move_on_after(0.01) as scope:
        async with driver.boot(SPEC, Named()):
            """Never reached."""
    assert scope.cancelled_caught
    assert not driver.alive


async def test_a_sandbox_dies_when_it_is_killed_or_reaped_and_nobody_else_does() -> None:
    driver, one, other = FakeDriver(), Named(), Named()
    async with driver.boot(SPEC, one) as guest, driver.boot(SPEC, other) as second:
        driver.kill(one.id)
        assert await guest.wait_broken()
        with pytest.raises(Broken):
            await guest.ping()
        await second.ping()
        await driver.reap(other.id, {"fake": other.id})
        assert await second.wait_broken()
    await driver.reap(one.id, {})
    assert driver.reaped == [(other.id, {"fake": other.id}), (one.id, {})]


async def test_a_sandbox_may_die_in_the_middle_of_a_program() -> None:
    async with FakeDriver().boot(SPEC, Named()) as guest:
        seen = []
        with pytest.raises(Broken):
            async for event in await guest.exec(ExecRequest((b"die",))):
                seen.append(event)
        assert seen[-1] == Stdout(b"last words\n")


@pytest.mark.parametrize(
    ("argv", "end"),
    [
        ((b"true",), Exited(0)),
        ((b"false",), Exited(1)),
        ((b"/bin/exit", b"7"), Exited(7)),
        ((b"sleep", b"0"), Exited(0)),
        ((b"env",), Exited(0)),
        ((b"pwd",), Exited(0)),
    ],
)
async def test_the_vocabulary(argv: tuple[bytes, ...], end: Exited) -> None:
    async with FakeDriver().boot(SPEC, Named()) as guest:
        request = ExecRequest(argv, env=(b"A=b",))
        assert [event async for event in await guest.exec(request)][-1] == end


async def test_a_program_that_hangs_can_be_killed_and_a_deaf_guest_answers_nothing() -> None:
    async with FakeDriver().boot(SPEC, Named()) as guest:
        hanging = await guest.exec(ExecRequest((b"hang",)))
        await guest.ping()
        await hanging.kill()
        assert [event async for event in hanging][-1] == Exited(137, 9)
        await guest.exec(ExecRequest((b"deaf",)))
        with anyio.move_on_after(0.05) as scope:
            await guest.ping()
        assert scope.cancelled_caught
