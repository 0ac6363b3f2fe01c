"""`agentkernel doctor`: what each driver's probe says, and what it declares of itself, without a daemon."""

from __future__ import annotations

import os
import shutil
import tempfile
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio

from agentkernel.drivers.catalogue import ABOUT
from agentkernel.drivers.contract import Driver
from agentkernel.home.drivers import drivers_of
from agentkernel.home.places import places
from agentkernel.home.settings import load_config
from agentkernel.images.store import Store
from agentkernel.model.kinds import Backend, Vmm
from agentkernel.model.readiness import Readiness

DEADLINE_S = 60.0
"""How long a probe may take: enough for a boot of an emulated machine, not for fetching what it is made from."""


def _word(backend: Backend, vmm: Vmm | None) -> str:
    """By what a user knows a driver."""
    return str(vmm or backend)


TOLD = {_word(*which): about for which, about in ABOUT.items()}


@contextmanager
def configured_drivers(store: Store) -> Iterator[dict[str, Driver]]:
    """Every driver by the word that a user knows it by; what their trials need is gone with the block.

    Raises:
        Refused: the configuration is not well formed.
    """
    config = load_config(places(os.environ).config, os.environ).config
    trials = Path(tempfile.mkdtemp(prefix="agentkernel-doctor-"))
    try:
        drivers = drivers_of(config, store, environ=os.environ, data=store.data, trials=trials)
        yield {_word(*which): driver for which, driver in drivers.items()}
    finally:
        shutil.rmtree(trials, ignore_errors=True)


async def examine(store: Store, *, deadline_s: float = DEADLINE_S) -> dict[str, Readiness]:
    """Driver to verdict, as the user's configuration has them. Boots a small machine where no verdict is kept yet."""
    with configured_drivers(store) as drivers:
        return await verdicts(drivers, deadline_s=deadline_s)


async def verdicts(drivers: Mapping[str, Driver], *, deadline_s: float) -> dict[str, Readiness]:
    """All drivers tried at the same time, in their order. One that fails or does not answer has that for a verdict."""
    found: dict[str, Readiness] = {}

    async def probe(name: str, driver: Driver) -> None:
        with anyio.move_on_after(deadline_s) as patience:
            try:
                found[name] = await driver.probe()
            except Exception as err:  # a fault of one driver's is its own verdict, not the end of the table
                found[name] = Readiness(usable=False, reason=f"the probe failed: {type(err).__name__}: {err}")
        if patience.cancelled_caught:
            found[name] = Readiness(
                usable=False,
                reason=f"no answer within {deadline_s:g} s",
                remedy="`agentkernel setup` fetches what a first trial needs; `doctor --timeout SECONDS` waits longer",
            )

    async with anyio.create_task_group() as group:
        for name, driver in drivers.items():
            group.start_soon(probe, name, driver)
    return {name: found[name] for name in drivers}


def fields(name: str, verdict: Readiness) -> dict[str, Any]:
    """A driver's verdict, and what it was tested against, as JSON would have it; empty texts stay."""
    about = TOLD[name]
    return {
        "usable": verdict.usable,
        "isolation": verdict.isolation and str(verdict.isolation),
        "vmm": verdict.vmm and str(verdict.vmm),
        "version": verdict.version,
        "reason": verdict.reason,
        "remedy": verdict.remedy,
        "needs": about.needs,
        "tested": about.tested,
    }


HEADINGS = ("driver", "usable", "tier", "version")
WIDTH = 100


def table(found: Mapping[str, Readiness], *, width: int = WIDTH) -> list[str]:
    """A row of aligned columns for each driver, and the texts below it, wrapped; no line is longer than `width`."""
    rows = [HEADINGS] + [
        (name, "yes" if verdict.usable else "no", str(verdict.isolation or "-"), verdict.version or "-")
        for name, verdict in found.items()
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    heading, *lines = [
        "  ".join(cell.ljust(wide) for cell, wide in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    below = [
        (
            ("why" if verdict.usable else "why not", verdict.reason),
            ("remedy", verdict.remedy),
            ("tested with", TOLD[name].tested),
        )
        for name, verdict in found.items()
    ]
    return [heading] + [
        text for line, texts in zip(lines, below, strict=True) for text in (line, *_wrapped(texts, width))
    ]


def _wrapped(texts: Sequence[tuple[str, str]], width: int) -> Iterator[str]:
    """Each text that there is below its row, its label before its first line."""
    margin = max(len(label) for label, _ in texts) + 6
    for label, text in texts:
        first = f"    {label}".ljust(margin)
        yield from textwrap.wrap(text, width, initial_indent=first, subsequent_indent=" " * margin)
