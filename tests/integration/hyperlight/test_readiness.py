"""Readiness is a snippet that ran. Both ends are looked for: the nested host has the one, most others the other."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.conformance.candidates import hyperlight_driver, hyperlight_spec
from tests.support.machines import booted, run, store_at

from agentkernel.drivers.hyperlight import driver as module
from agentkernel.drivers.hyperlight.driver import HyperlightDriver
from agentkernel.drivers.vmm.trials import Trials
from agentkernel.model.errors import Unsupported
from agentkernel.model.kinds import Backend, Isolation
from agentkernel.policy.admission import Offer, Wish, admit
from agentkernel.policy.config import Config

pytestmark = [pytest.mark.anyio, pytest.mark.vm]


async def test_it_is_usable_where_a_snippet_ran_and_refused_with_the_reason_elsewhere(tmp_path: Path) -> None:
    store = store_at(tmp_path / "state")
    made = HyperlightDriver(store, Trials(tmp_path / "verdicts", tmp_path / "trials"))
    verdict = await made.probe()
    offers = {(Backend.HYPERLIGHT, None): Offer(verdict, made.capabilities, made.runtimes, made.programs)}
    wish = Wish("base", backend=Backend.HYPERLIGHT, command=["python3", "-c", "print(1)"])
    assert await made.probe() == verdict
    if verdict.usable:
        assert admit(wish, offers, Config()).isolation is Isolation.VM
        async with booted(made, hyperlight_spec(store), tmp_path / "sandbox") as machine:
            assert (await run(machine.guest, "python3", "-c", "print(1)")).text == "1"
        return
    assert "there is no /dev/kvm" in verdict.reason or "tried and failed" in verdict.reason
    assert "KVM" in verdict.remedy
    with pytest.raises(Unsupported) as refusal:
        admit(wish, offers, Config())
    assert verdict.reason in refusal.value.message
    assert verdict.remedy in refusal.value.hint
    assert "backend wasm" in refusal.value.hint
    assert "weaker" in refusal.value.hint


async def test_without_its_package_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = hyperlight_driver(store_at(tmp_path / "state"))
    assert "is not installed" not in (await made.probe()).reason
    monkeypatch.setattr(module, "BACKEND", "hyperlight_sandbox_that_nobody_has")
    verdict = await made.probe()
    assert (verdict.usable, verdict.remedy) == (False, "pip install 'agentkernel[hyperlight]'")
    assert "hyperlight_sandbox_that_nobody_has is not installed" in verdict.reason
