"""The guest of a wasm worker."""

from __future__ import annotations

from agentkernel.drivers.worker.guest import WorkerGuest
from agentkernel.drivers.worker.programs import PATTERNS


class WasmGuest(WorkerGuest):
    """It runs languages and modules."""

    name = "wasm"
    patterns = PATTERNS
