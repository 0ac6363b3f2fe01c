"""What a command asks of a sandbox without Linux: a language, a module, or something that needs another backend."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase

PYTHON_NAMES = frozenset({"python", "python3"})
JAVASCRIPT_NAMES = frozenset({"js"})
MODULE_SUFFIX = ".wasm"

LANGUAGES = (*sorted(PYTHON_NAMES), *sorted(JAVASCRIPT_NAMES))
PATTERNS = (*LANGUAGES, f"*{MODULE_SUFFIX}")
"""What can be run, for who decides before a sandbox is there."""


class Kind(StrEnum):
    """How a program is run."""

    PYTHON = "python"
    JAVASCRIPT = "javascript"
    MODULE = "module"


@dataclass(frozen=True, slots=True)
class Foreign:
    """A program that only a Linux sandbox has."""

    name: str

    def __str__(self) -> str:
        """What is here instead."""
        return f"{self.name} (a wasm sandbox runs python3, js and {MODULE_SUFFIX} files; use another backend)"


def program_of(argument: str) -> Kind | Foreign:
    """By the name alone, with or without its directory."""
    name = argument.rpartition("/")[2]
    if name in PYTHON_NAMES:
        return Kind.PYTHON
    if name in JAVASCRIPT_NAMES:
        return Kind.JAVASCRIPT
    if name.endswith(MODULE_SUFFIX) and name != MODULE_SUFFIX:
        return Kind.MODULE
    return Foreign(argument)


def runs(argument: str, patterns: tuple[str, ...]) -> bool:
    """Whether a sandbox that runs these names runs this one."""
    return any(fnmatchcase(argument.rpartition("/")[2], pattern) for pattern in patterns)
