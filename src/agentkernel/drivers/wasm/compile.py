"""Compiles a component to native code: `compile SOURCE TARGET`. Run as a process of its own: it takes 500 MiB."""

from __future__ import annotations

import sys
from pathlib import Path

from wasmtime import Module
from wasmtime.component import Component

from agentkernel.drivers.wasm.engine import new_engine

COMPONENT_LAYER = b"\0asm\x0d\0\x01\0"
"""What a component begins with; a core module has another version. Source: the component model's binary format."""


def is_component(start: bytes) -> bool:
    """Whether these first eight bytes are a component's."""
    return start[:8] == COMPONENT_LAYER


def compile_ahead(source: Path, target: Path) -> None:
    """Compile a component or a module. Raises WasmtimeError for what is neither."""
    content = source.read_bytes()
    made = Component(new_engine(), content) if is_component(content) else Module(new_engine(), content)
    target.write_bytes(made.serialize())


if __name__ == "__main__":
    compile_ahead(Path(sys.argv[1]), Path(sys.argv[2]))
