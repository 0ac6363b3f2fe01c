"""Which throwaway commands run where: all in what boots, the first alone in what is cloned, none where one waits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.engines import KEY, engine_over, eventually

from agentkernel.drivers.contract import Birth, Guest, Prepare
from agentkernel.drivers.fake import FakeDriver
from agentkernel.engine import engine as engine_module
from agentkernel.engine import sandbox as sandbox_module
from agentkernel.engine.command import run_command
from agentkernel.model.kinds import Feature, Vmm
from agentkernel.model.readiness import Capabilities
from agentkernel.model.spec import BootSpec
from agentkernel.pool.events import Limits

pytestmark = pytest.mark.anyio

COMMANDS = (("first", "one"), ("second", "one"))
WARMED = replace(KEY, spec=replace(KEY.spec, warm_up=COMMANDS))


@dataclass
class Templated(FakeDriver):
    """A template is a boot that ends; a clone is a boot. `ran` lists program names by where they ran."""

    ran: dict[str, list[str]] = field(default_factory=lambda: {"boot": [], "template": [], "clone": []})
    at: dict[int, str] = field(default_factory=dict)

    @asynccontextmanager
    async def boot(self, spec: BootSpec, birth: Birth) -> AsyncIterator[Guest]:
        async with self._placed("boot", spec, birth) as guest:
            yield guest

    async def template(self, spec: BootSpec, birth: Birth, prepare: Prepare) -> Path:
        async with self._placed("template", spec, birth) as guest:
            await prepare(guest)
        return birth.directory

    @asynccontextmanager
    async def clone(self, template: Path, spec: BootSpec, birth: Birth) -> AsyncIterator[Guest]:
        async with self._placed("clone", spec, birth) as guest:
            yield guest

    @asynccontextmanager
    async def _placed(self, where: str, spec: BootSpec, birth: Birth) -> AsyncIterator[Guest]:
        async with super().boot(spec, birth) as guest:
            self.at[id(guest)] = where
            yield guest


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Templated:
    templated = Templated(vmm=Vmm.QEMU)

    async def recording(guest: Guest, request: Any, **settings: Any) -> Any:
        templated.ran[templated.at[id(guest)]].append(request.argv[0].decode())
        return await run_command(guest, request, **settings)

    for module in (engine_module, sandbox_module):
        monkeypatch.setattr(module, "run_command", recording)
    return templated


async def test_a_cold_boot_runs_all_of_them(driver: Templated, tmp_path: Path) -> None:
    async with engine_over(driver, tmp_path, warm=Limits(1, 1), key=WARMED) as engine:
        await eventually(lambda: engine.counts().warm == 1)
    assert driver.ran["boot"] == ["/bin/true", "first", "second"]


async def test_a_template_runs_all_of_them_and_its_clone_the_first(driver: Templated, tmp_path: Path) -> None:
    driver.capabilities = Capabilities(frozenset({*driver.capabilities.features, Feature.TEMPLATE}))
    async with engine_over(driver, tmp_path, warm=Limits(1, 1), key=WARMED) as engine:
        await eventually(lambda: engine.counts().warm == 1)
    assert driver.ran["template"] == ["/bin/true", "first", "second"]
    assert driver.ran["clone"] == ["/bin/true", "first"]


async def test_nothing_but_the_throwaway_runs_while_somebody_waits(driver: Templated, tmp_path: Path) -> None:
    async with engine_over(driver, tmp_path, warm=Limits(0, 0), key=WARMED) as engine:
        engine.give_back(await engine.lend(WARMED))
    assert driver.ran["boot"] == ["/bin/true"]
