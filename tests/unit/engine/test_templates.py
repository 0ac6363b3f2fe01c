"""Templates as the engine keeps them: made once for all who wait, suspected once, given up, never in anybody's way."""

from __future__ import annotations

import errno
import logging
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from tests.support.engines import KEY, engine_over, eventually

from agentkernel.drivers.contract import Birth, Driver, Prepare
from agentkernel.drivers.fake import FakeDriver, Faults
from agentkernel.drivers.fake.driver import DECLARED
from agentkernel.engine import templates
from agentkernel.engine.command import run_command
from agentkernel.engine.engine import Engine
from agentkernel.engine.templates import Templates
from agentkernel.engine.timings import Stage, Timings
from agentkernel.journal import Journal
from agentkernel.model.errors import Broken
from agentkernel.model.execution import ExecRequest
from agentkernel.model.kinds import Backend, Feature, Vmm
from agentkernel.model.readiness import Capabilities
from agentkernel.model.spec import BootSpec
from agentkernel.pool.events import HostLimits, Key, Limits

pytestmark = pytest.mark.anyio

SPEC = KEY.spec
FOLDER = Path("/nowhere/base")
CLONING = Capabilities(DECLARED | {Feature.TEMPLATE})
ECHO = ExecRequest(argv=(b"echo", b"hello"))


def cloning(**faults: object) -> FakeDriver:
    return FakeDriver(vmm=Vmm.QEMU, capabilities=CLONING, faults=Faults(**faults))  # type: ignore[arg-type]


def cloning_engine(
    driver: FakeDriver, place: Path, *, abreast: int = 2, templates: bool = True
) -> AbstractAsyncContextManager[Engine]:
    """An engine that refills nothing behind a test's back."""
    limits = HostLimits(max_sandboxes=16, max_booting=abreast, recent_use_s=0)
    return engine_over(driver, place, limits=limits, templates=templates)


async def use(engine: Engine, key: Key = KEY) -> None:
    """Lend, run something, give back."""
    with anyio.fail_after(5):
        sandbox = await engine.lend(key)
    assert (await run_command(sandbox.guest, ECHO)).exit_code == 0
    engine.give_back(sandbox)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


# --- through the engine -----------------------------------------------------------------------------------------------


async def test_one_template_serves_all_who_ask_and_nobody_boots(tmp_path: Path) -> None:
    driver = cloning()
    async with cloning_engine(driver, tmp_path, abreast=8) as engine:
        async with anyio.create_task_group() as group:
            for _ in range(12):
                group.start_soon(use, engine)
        assert (driver.made, driver.cloned, driver.booted) == (1, 12, 0)
        timed = engine.timings.summary()
    assert {"template", "clone"} <= set(timed)
    assert "boot" not in timed


async def test_a_driver_without_templates_boots(tmp_path: Path) -> None:
    driver = FakeDriver(vmm=Vmm.QEMU)
    async with cloning_engine(driver, tmp_path) as engine:
        await use(engine)
        assert "boot" in engine.timings.summary()
    assert (driver.made, driver.booted) == (0, 1)


async def test_switched_off_no_template_is_made_and_everything_boots(tmp_path: Path) -> None:
    driver = cloning()
    async with cloning_engine(driver, tmp_path, templates=False) as engine:
        await use(engine)
        assert set(engine.timings.summary()) & {"template", "clone", "boot"} == {"boot"}
    assert (driver.made, driver.cloned, driver.booted) == (0, 0, 1)


async def test_a_template_runs_the_recipes_warm_up_though_one_command_is_refused(tmp_path: Path) -> None:
    driver = cloning()
    commands = (("echo", "warm"), ("x" * (1 << 20),))
    async with Journal.open(tmp_path / "journal.db") as journal:
        engine = Engine(
            drivers={(Backend.MICROVM, Vmm.QEMU): driver},
            journal=journal,
            directory=tmp_path / "sandboxes",
            limits=HostLimits(recent_use_s=0),
        )
        async with engine.running():
            await engine.readiness(*engine.drivers)
            key = replace(KEY, spec=replace(KEY.spec, warm_up=commands))
            engine.configure(key, Limits(0, 2))
            await use(engine, key)
    assert (driver.made, driver.cloned, driver.booted) == (1, 1, 0)


async def test_a_template_that_cannot_be_made_costs_one_warning_and_everybody_boots(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    driver = cloning(template_error="the disk is full")
    async with cloning_engine(driver, tmp_path) as engine:
        for _ in range(3):
            await use(engine)
    assert (driver.booted, driver.cloned) == (3, 0)
    assert warnings(caplog) == ["booting cold: no template"]
    assert caplog.records[-1].reason == "the disk is full"  # type: ignore[attr-defined]
    assert list((tmp_path / "sandboxes").iterdir()) == []


async def test_a_clone_that_fails_has_the_template_made_anew_and_its_caller_served(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    driver = cloning(clone_error=Broken("bad state"), clone_faults=1)
    async with cloning_engine(driver, tmp_path) as engine:
        await use(engine)
        await use(engine)
    assert (driver.discarded, driver.made, driver.cloned, driver.booted) == (1, 2, 2, 0)
    assert "template discarded: a clone did not come up" in warnings(caplog)


async def test_a_template_that_fails_again_is_given_up_and_its_caller_gets_a_cold_boot(tmp_path: Path) -> None:
    driver = cloning(clone_error=Broken("bad state"))
    async with cloning_engine(driver, tmp_path) as engine:
        await use(engine)
        await use(engine)
    assert (driver.discarded, driver.made, driver.cloned, driver.booted) == (2, 2, 0, 2)


async def test_many_clones_that_fail_at_once_are_nobodys_failed_boot(tmp_path: Path) -> None:
    """Three boots that fail in a row fail all who wait: a bad template must not count as that."""
    driver = cloning(clone_error=Broken("bad state"), clone_faults=1)
    async with cloning_engine(driver, tmp_path, abreast=6) as engine, anyio.create_task_group() as group:
        for _ in range(6):
            group.start_soon(use, engine)
    assert (driver.discarded, driver.made, driver.cloned, driver.booted) == (1, 2, 6, 0)


async def test_a_clone_that_came_up_and_died_is_not_its_templates_fault(tmp_path: Path) -> None:
    driver = cloning()
    async with cloning_engine(driver, tmp_path) as engine:
        sandbox = await engine.lend(KEY)
        driver.kill(sandbox.id)
        with pytest.raises(Broken):
            await run_command(sandbox.guest, ECHO)
        engine.give_back(sandbox)
        await use(engine)
    assert (driver.discarded, driver.made, driver.cloned) == (0, 1, 2)


async def test_a_template_that_vanished_is_made_anew(tmp_path: Path) -> None:
    driver = cloning()
    async with cloning_engine(driver, tmp_path) as engine:
        await use(engine)
        driver.templates.clear()
        await use(engine)
    assert (driver.made, driver.cloned, driver.booted) == (2, 2, 0)


async def test_no_template_is_blamed_for_a_host_that_has_no_room(tmp_path: Path) -> None:
    full = Broken("the microVM's files could not be made")
    full.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    driver = cloning(clone_error=full, clone_faults=1)
    async with cloning_engine(driver, tmp_path) as engine:
        await use(engine)
    assert (driver.discarded, driver.made, driver.cloned) == (0, 1, 1)


async def test_a_caller_who_gives_up_does_not_end_the_making(tmp_path: Path) -> None:
    driver = cloning(template_hangs=True)
    async with cloning_engine(driver, tmp_path) as engine:
        with anyio.move_on_after(0.05) as gone:
            await engine.lend(KEY)
        assert gone.cancelled_caught
        assert [row.directory.name for row in await engine._journal.leftovers()] != []
    assert list((tmp_path / "sandboxes").iterdir()) == []


async def test_leaving_the_engine_ends_the_making_and_leaves_nothing(tmp_path: Path) -> None:
    driver = cloning(template_hangs=True)
    with anyio.fail_after(3):
        async with engine_over(driver, tmp_path, warm=Limits(2, 2)):
            await eventually(lambda: len(list((tmp_path / "sandboxes").iterdir())) == 3)
    assert list((tmp_path / "sandboxes").iterdir()) == []
    async with Journal.open(tmp_path / "journal.db") as journal:
        assert await journal.leftovers() == []


# --- alone ------------------------------------------------------------------------------------------------------------


class Maker:
    """Makes templates when it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.go = anyio.Event()
        self.failure: Exception | None = None

    async def __call__(self, spec: BootSpec, driver: Driver) -> Path:
        self.asked += 1
        await self.go.wait()
        if self.failure is not None:
            raise self.failure
        return Path(f"/nowhere/{spec.runtime}")


async def test_those_who_wait_at_once_share_one_making() -> None:
    maker, found = Maker(), []
    known = Templates(maker, Timings(), enabled=True)
    async with known.running(), anyio.create_task_group() as group:

        async def wait() -> None:
            found.append(await known.get(SPEC, cloning()))

        for _ in range(10):
            group.start_soon(wait)
        await eventually(lambda: maker.asked == 1)
        maker.go.set()
    assert found == [FOLDER] * 10
    assert maker.asked == 1


async def test_a_cancelled_waiter_leaves_the_making_to_the_others() -> None:
    maker = Maker()
    known = Templates(maker, Timings(), enabled=True)
    async with known.running():
        with anyio.move_on_after(0.01) as gone:
            await known.get(SPEC, cloning())
        assert gone.cancelled_caught
        maker.go.set()
        assert await known.get(SPEC, cloning()) == FOLDER
    assert maker.asked == 1


@pytest.mark.parametrize("failure", [Broken("no"), OSError(errno.ENOSPC, "full"), RuntimeError("a fault of ours")])
async def test_a_failure_of_any_kind_frees_all_who_wait_and_is_remembered_for_a_while(
    failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = Maker()
    maker.failure = failure
    maker.go.set()
    timings = Timings()
    known = Templates(maker, timings, enabled=True)
    async with known.running():
        with anyio.fail_after(1):
            assert await known.get(SPEC, cloning()) is None
            assert await known.get(SPEC, cloning()) is None
        assert maker.asked == 1
        monkeypatch.setattr(templates, "GIVEN_UP_S", 0.0)
        known._known[SPEC].give_up()
        maker.failure = None
        assert await known.get(SPEC, cloning()) == FOLDER
    assert maker.asked == 2
    assert timings.summary()[Stage.TEMPLATE]["n"] == 1


async def test_clones_that_fail_together_discard_it_once_and_a_late_one_does_not_hurt_the_next() -> None:
    maker, driver = Maker(), cloning()
    maker.go.set()
    known = Templates(maker, Timings(), enabled=True)
    async with known.running():
        first = await known.get(SPEC, driver)
        assert first is not None
        await known.suspect(SPEC, driver, first)
        await known.suspect(SPEC, driver, first)
        second = await known.get(SPEC, driver)
        await known.suspect(SPEC, driver, first)
        assert await known.get(SPEC, driver) is second
    assert (maker.asked, driver.discarded) == (2, 1)


async def test_a_clone_that_comes_up_clears_the_suspicion() -> None:
    maker, driver = Maker(), cloning()
    maker.go.set()
    known = Templates(maker, Timings(), enabled=True)
    async with known.running():
        for _ in range(5):
            folder = await known.get(SPEC, driver)
            assert folder is not None
            await known.suspect(SPEC, driver, folder)
            assert await known.get(SPEC, driver) is not None
            known.proved(SPEC)
    assert driver.discarded == 5


async def test_a_template_that_cannot_be_discarded_is_kept_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    class Stuck(FakeDriver):
        async def discard(self, template: Path) -> None:
            raise PermissionError(errno.EACCES, "not yours")

    maker, driver = Maker(), Stuck(vmm=Vmm.QEMU, capabilities=CLONING)
    maker.go.set()
    known = Templates(maker, Timings(), enabled=True)
    async with known.running():
        folder = await known.get(SPEC, driver)
        assert folder is not None
        await known.suspect(SPEC, driver, folder)
        assert await known.get(SPEC, driver) == FOLDER
    assert warnings(caplog)[-1] == "template kept"


async def test_a_driver_that_declares_none_says_so() -> None:
    """The contract's own answers."""

    async def prepare(_guest: object) -> None: ...

    driver = FakeDriver(vmm=Vmm.QEMU)
    birth: Birth = None  # type: ignore[assignment]
    wanted: Prepare = prepare
    for call in (Driver.template(driver, SPEC, birth, wanted), Driver.discard(driver, FOLDER)):
        with pytest.raises(Exception, match="has no templates"):
            await call
