"""A language that cannot be had takes no other one with it."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from tests.integration.wasm.conftest import wasm_spec
from tests.support.machines import booted, run

from agentkernel.drivers.wasm.driver import WasmDriver
from agentkernel.images.components import Component
from agentkernel.images.progress import Progress
from agentkernel.images.store import Store
from agentkernel.model.errors import Busy

pytestmark = [pytest.mark.anyio, pytest.mark.vm]


class Partly(Store):
    """Where some languages cannot be fetched."""

    without: frozenset[str] = frozenset()
    asked = 0

    async def component(self, language: str, progress: Progress | None = None) -> Component:
        """What there is."""
        if language in self.without:
            self.asked += 1
            raise Busy(f"the registry of {language} does not answer")
        return await super().component(language, progress)


async def test_python_runs_where_javascript_cannot_be_had_and_nobody_asks_for_it_each_time(tmp_path: Path) -> None:
    store = Partly()
    store.without = frozenset({"javascript"})
    driver = WasmDriver(store, tmp_path / "trials")
    for _ in range(2):
        async with booted(driver, wasm_spec(), tmp_path) as machine:
            assert (await run(machine.guest, "python3", "-c", "print(6 * 7)")).text == "42"
            assert (await run(machine.guest, "js", "-e", "1")).refusal.errno == errno.ENOENT
    assert store.asked == 1
    async with booted(WasmDriver(Store(), tmp_path / "trials"), wasm_spec(), tmp_path) as machine:
        assert (await run(machine.guest, "js", "-e", "console.log(6 * 7)")).text == "42", "the control"


async def test_where_no_language_can_be_had_the_reason_is_told(tmp_path: Path) -> None:
    store = Partly()
    store.without = frozenset({"python", "javascript"})
    with pytest.raises(Busy, match="the registry of python does not answer"):
        async with booted(WasmDriver(store, tmp_path / "trials"), wasm_spec(), tmp_path):
            pass
