"""Whose threads may take a processor from the sentry, looked at from outside."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.support.gvisor import gvisor_driver, gvisor_ready, gvisor_spec
from tests.support.machines import Machine, booted, shell, store_at

from agentkernel.drivers.confine.reap import children_of
from agentkernel.images.store import Store

pytestmark = [pytest.mark.anyio, pytest.mark.vm]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Everything that a sandbox is made from."""
    made = store_at(tmp_path_factory.mktemp("state"))
    with gvisor_ready(made):
        yield made


@pytest.fixture
async def machine(store: Store, tmp_path: Path) -> AsyncIterator[Machine]:
    """A sandbox that has just come up."""
    driver = gvisor_driver(store)
    verdict = await driver.probe()
    if not verdict.usable:
        pytest.skip(verdict.reason)
    async with booted(driver, gvisor_spec(store), tmp_path) as up:
        yield up


def tracees(machine: Machine) -> set[int]:
    """What the sentry runs programs in: its children, and theirs."""
    first = children_of(children_of([machine.pid]))
    return {*first, *children_of(first)}


async def test_no_process_of_a_program_takes_a_processor_from_the_sentry(machine: Machine) -> None:
    before = tracees(machine)
    more = (
        "for each in 1 2 3 4 5; do sleep 1000 >/dev/null 2>&1 & done"  # than the sentry has at hand from earlier ones
    )
    assert (await shell(machine.guest, more)).code == 0
    now = tracees(machine)
    assert before and now - before
    assert {os.sched_getscheduler(pid) for pid in now} == {os.SCHED_BATCH}
    runsc, sentry_and_gofer = machine.pid, children_of([machine.pid])
    threads = [int(tid.name) for pid in (runsc, *sentry_and_gofer) for tid in Path(f"/proc/{pid}/task").iterdir()]
    assert {os.sched_getscheduler(tid) for tid in threads} == {os.SCHED_OTHER}
