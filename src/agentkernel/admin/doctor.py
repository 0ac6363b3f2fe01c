"""`agentkernel doctor`: what each driver's probe says, without a daemon."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentkernel.drivers.catalogue import Settings, catalogue
from agentkernel.drivers.contract import Driver
from agentkernel.images.store import Store
from agentkernel.model.readiness import Readiness


@contextmanager
def _drivers(store: Store) -> Iterator[dict[str, Driver]]:
    """Every driver by the word that a user knows it by; what their trials need is gone with the block."""
    trials = Path(tempfile.mkdtemp(prefix="agentkernel-doctor-"))
    try:
        settings = Settings(environ=os.environ, verdicts=store.data / "readiness", trials=trials, data=store.data)
        yield {str(vmm or backend): driver for (backend, vmm), driver in catalogue(store, settings).items()}
    finally:
        shutil.rmtree(trials, ignore_errors=True)


async def examine(store: Store) -> dict[str, Readiness]:
    """Driver to verdict. Boots a small machine where no verdict is kept yet."""
    with _drivers(store) as drivers:
        return {name: await driver.probe() for name, driver in drivers.items()}


def fields(verdict: Readiness) -> dict[str, Any]:
    """A verdict as JSON would have it; empty texts stay."""
    return {
        "usable": verdict.usable,
        "isolation": verdict.isolation and str(verdict.isolation),
        "vmm": verdict.vmm and str(verdict.vmm),
        "version": verdict.version,
        "reason": verdict.reason,
        "remedy": verdict.remedy,
    }
