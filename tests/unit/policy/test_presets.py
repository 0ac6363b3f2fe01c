"""What is kept warm, and which recipe a command suggests."""

from __future__ import annotations

import pytest

from agentkernel.model.kinds import Mode
from agentkernel.policy.presets import OUTSIDE_PRESETS, PRESETS, WarmRange, runtime_of, warm_range


def test_the_published_presets_hold() -> None:
    assert {mode: (preset.runtime, preset.warm.min_warm, preset.warm.max_warm) for mode, preset in PRESETS.items()} == {
        Mode.NATIVE: ("base", 2, 5),
        Mode.CLAUDE: ("python", 2, 4),
        Mode.CODEX: ("python", 1, 3),
        Mode.GEMINI: ("python", 1, 3),
    }


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(None, None, (2, 5)), (7, None, (7, 7)), (None, 1, (1, 1)), (0, 0, (0, 0)), (3, 1, (3, 3)), (1, 9, (1, 9))],
)
def test_the_configuration_replaces_a_presets_numbers(
    low: int | None, high: int | None, expected: tuple[int, int]
) -> None:
    assert warm_range(Mode.NATIVE, "base", min_warm=low, max_warm=high) == WarmRange(*expected)


def test_other_keys_keep_one_while_in_use() -> None:
    assert warm_range(Mode.NATIVE, "node", min_warm=5) == OUTSIDE_PRESETS
    assert warm_range(Mode.NATIVE, "base", is_default_size=False) == OUTSIDE_PRESETS


@pytest.mark.parametrize(
    ("command", "runtime"),
    [
        (["python3", "-V"], "python"),
        (["/usr/bin/pip", "list"], "python"),
        (["npx", "x"], "node"),
        (["cargo", "test"], "rust"),
        (["go", "test"], "go"),
        (["ls"], "base"),
        ([], "base"),
    ],
)
def test_a_command_suggests_its_recipe(command: list[str], runtime: str) -> None:
    assert runtime_of(command) == runtime
