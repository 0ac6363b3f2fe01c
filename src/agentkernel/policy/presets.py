"""What is kept warm by default, how big a sandbox is, and which recipe a command suggests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentkernel.model.kinds import Mode

VCPUS = 1
MEMORY_MIB = 512
DISK_MIB = 1024
PIDS = 512


@dataclass(frozen=True, slots=True)
class WarmRange:
    """How many unused sandboxes of one key: refilled below `min_warm`, never above `max_warm`."""

    min_warm: int
    max_warm: int


@dataclass(frozen=True, slots=True)
class Preset:
    """What a compatibility mode keeps ready."""

    runtime: str
    warm: WarmRange


PRESETS: dict[Mode, Preset] = {
    Mode.NATIVE: Preset("base", WarmRange(2, 5)),
    Mode.CLAUDE: Preset("python", WarmRange(2, 4)),
    Mode.CODEX: Preset("python", WarmRange(1, 3)),
    Mode.GEMINI: Preset("python", WarmRange(1, 3)),
}

OUTSIDE_PRESETS = WarmRange(0, 1)
"""For every other key: nothing ahead of time, one while it is in use."""

RUNTIME_OF_PROGRAM: dict[str, str] = {
    "python": "python",
    "python3": "python",
    "pip": "python",
    "pip3": "python",
    "node": "node",
    "npm": "node",
    "npx": "node",
    "corepack": "node",
    "cargo": "rust",
    "rustc": "rust",
    "go": "go",
    "gofmt": "go",
    "ruby": "ruby",
    "gem": "ruby",
    "bundle": "ruby",
    "java": "java",
    "javac": "java",
    "gcc": "c",
    "g++": "c",
    "cc": "c",
    "c++": "c",
    "make": "c",
    "cmake": "c",
}
"""Programs that `base` lacks. `cli.hot.RUNTIMES` is the same table, and a test compares them."""
BASE_RUNTIME = "base"


def warm_range(
    mode: Mode, runtime: str, *, min_warm: int | None = None, max_warm: int | None = None, is_default_size: bool = True
) -> WarmRange:
    """The range for one key. `min_warm` and `max_warm` are the configuration's and replace the preset's numbers, not
    those outside presets.

    A minimum above the maximum raises the maximum, so that either may be set alone.
    """
    preset = PRESETS[mode]
    if runtime != preset.runtime or not is_default_size:
        return OUTSIDE_PRESETS
    low = preset.warm.min_warm if min_warm is None else min_warm
    high = preset.warm.max_warm if max_warm is None else max_warm
    if max_warm is not None and min_warm is None:
        low = min(low, high)
    return WarmRange(low, max(low, high))


def runtime_of(command: Sequence[str]) -> str:
    """The recipe that a command suggests when nobody named one: by the program's name, without its directory."""
    program = command[0].rpartition("/")[2] if command else ""
    return RUNTIME_OF_PROGRAM.get(program, BASE_RUNTIME)
