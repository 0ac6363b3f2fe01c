"""`agentkernel doctor`: what each driver's probe says, without a daemon."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import anyio

from agentkernel.drivers.qemu import QemuDriver
from agentkernel.drivers.qemu.accelerator import Verdicts
from agentkernel.images.store import Store
from agentkernel.model.readiness import Readiness


def verdicts() -> dict[str, dict[str, Any]]:
    """Driver name to the fields of its `Readiness`. Boots a small machine where no verdict is kept yet."""
    store = Store(os.environ)
    trials = Path(tempfile.mkdtemp(prefix="agentkernel-doctor-"))
    try:
        driver = QemuDriver(store, Verdicts(store.data / "readiness", trials))
        return {"qemu": _fields(anyio.run(driver.probe))}
    finally:
        shutil.rmtree(trials, ignore_errors=True)


def _fields(verdict: Readiness) -> dict[str, Any]:
    return {
        "usable": verdict.usable,
        "isolation": verdict.isolation and str(verdict.isolation),
        "vmm": verdict.vmm and str(verdict.vmm),
        "version": verdict.version,
        "reason": verdict.reason,
        "remedy": verdict.remedy,
    }
