"""How an interpreter in a confinement begins. It imports nothing: interpreters in there use it too."""

from __future__ import annotations

LIBRARIES = "/agentkernel/python"
"""Where packages are found."""


def start_of(entry: str) -> str:
    """What it is given to execute: a module of ours whose `main` gets the arguments."""
    return f"import sys; sys.path.append({LIBRARIES!r}); sys.argv[:1] = []; from {entry} import main; main(sys.argv)"
