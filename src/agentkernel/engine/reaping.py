"""End whatever an earlier daemon left, by the journal's rows and by what stands in the sandboxes' folder; and later,
again, what nobody could end at the time.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import anyio
import anyio.to_thread

from agentkernel.drivers.contract import Driver
from agentkernel.journal import Journal
from agentkernel.journal.journal import Leftover
from agentkernel.model.errors import AgentkernelError
from agentkernel.model.ids import SandboxId
from agentkernel.model.kinds import Backend, Vmm

log = logging.getLogger(__name__)

DriverKey = tuple[Backend, Vmm | None]

REAP_S = 10.0
"""How long a driver may take for one leftover. A daemon does not wait longer for an engine that may be gone for good:
somebody waits for the daemon.
"""
AGAIN_S = 30.0
"""How often it is tried again while the daemon runs."""
LEFT = "left"
"""The fact of a row whose sandbox has ended, as far as this daemon could end it."""


async def reap_leftovers(journal: Journal, drivers: Mapping[DriverKey, Driver], directory: Path) -> int:
    """End each sandbox that the journal names, then remove every folder that no row explains.

    A row whose driver is not there any more, or whose driver fails or does not answer, is kept for a later try.

    Returns:
        How many were reaped.
    """
    leftovers = await journal.leftovers()
    async with anyio.create_task_group() as group:
        for leftover in leftovers:
            group.start_soon(_reap, journal, drivers, leftover)
    kept = {row.id for row in await journal.leftovers()}
    await anyio.to_thread.run_sync(_remove_strays, directory, kept)
    return len(leftovers) - len(kept)


async def reap_again_forever(journal: Journal, drivers: Mapping[DriverKey, Driver]) -> None:
    """Try those again that are left, every `AGAIN_S`."""
    while True:
        await anyio.sleep(AGAIN_S)
        with suppress(AgentkernelError):
            for leftover in await journal.leftovers():
                if LEFT in leftover.facts:
                    await _reap(journal, drivers, leftover)


async def _reap(journal: Journal, drivers: Mapping[DriverKey, Driver], leftover: Leftover) -> None:
    driver = drivers.get((leftover.backend, leftover.vmm))
    if driver is None:
        log.warning("leftover kept: its driver is not configured", extra={"sandbox": leftover.id})
        return
    try:
        with anyio.fail_after(REAP_S):
            await driver.reap(leftover.id, leftover.facts)
        await anyio.to_thread.run_sync(lambda: shutil.rmtree(leftover.directory, ignore_errors=True))
        await journal.forget(leftover.id)
    except Exception as err:
        known = LEFT in leftover.facts
        log.log(
            logging.DEBUG if known else logging.ERROR, "leftover kept", exc_info=err, extra={"sandbox": leftover.id}
        )
        if not known:
            with suppress(AgentkernelError):
                await journal.record(leftover.id, {LEFT: str(err) or type(err).__name__})
    else:
        log.info("reaped a leftover", extra={"sandbox": leftover.id})


def _remove_strays(directory: Path, kept: set[SandboxId]) -> None:
    for stray in directory.iterdir():
        if stray.name not in kept:
            shutil.rmtree(stray, ignore_errors=True)
