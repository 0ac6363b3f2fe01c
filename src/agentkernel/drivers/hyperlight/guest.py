"""The guest of a hyperlight worker."""

from __future__ import annotations

from agentkernel.drivers.worker.guest import WorkerGuest
from agentkernel.drivers.worker.programs import LANGUAGES


class HyperlightGuest(WorkerGuest):
    """It runs languages; modules are wasm's."""

    name = "hyperlight"
    patterns = LANGUAGES
