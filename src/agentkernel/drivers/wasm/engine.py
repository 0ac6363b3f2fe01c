"""The one way to make an engine: code that was compiled ahead fits an engine that is configured alike, only."""

from __future__ import annotations

import wasmtime

from agentkernel.drivers.wasm.configuration import CONFIGURATION


def new_engine() -> wasmtime.Engine:
    """An engine of that configuration."""
    configuration = wasmtime.Config()
    for name, value in CONFIGURATION.items():
        setattr(configuration, name, value)
    return wasmtime.Engine(configuration)
