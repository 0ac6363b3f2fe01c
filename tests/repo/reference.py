"""tools/reference.py as a module, though tools is no package."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

PROGRAM = Path(__file__).parents[2] / "tools/reference.py"


def reference() -> ModuleType:
    """The module, loaded from its file."""
    spec = importlib.util.spec_from_file_location("reference", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
