"""Which runsc is good enough."""

from __future__ import annotations

import pytest

from agentkernel.images.gvisor import checked
from agentkernel.model.errors import Unsupported


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("runsc version 0.0~20240729.0\nspec: 1.0.2-dev\n", "0.0~20240729.0"),
        ("runsc version release-20250101.0\nspec: 1.1.0-rc.1\n", "release-20250101.0"),
    ],
)
def test_a_release_of_today_is_taken(said: str, version: str) -> None:
    assert checked(said) == version


@pytest.mark.parametrize(
    "said", ["runsc version 0.0~20221219.0\nspec: 1.0.2-dev\n", "runsc version VERSION_MISSING\n", ""]
)
def test_one_that_is_too_old_or_does_not_say_is_refused_with_a_remedy(said: str) -> None:
    with pytest.raises(Unsupported, match="too old") as refused:
        checked(said)
    assert "backports" in refused.value.hint
