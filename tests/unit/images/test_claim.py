"""What in a data folder counts as ours, where it carries no tag yet."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentkernel.images.shelf import KINDS, TAG, Shelf


@pytest.mark.parametrize("name", [*KINDS, "apt", "generations", "locks", "readiness"])
def test_a_folder_of_an_older_version_is_ours_and_gets_its_tag(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    Shelf(tmp_path).prepare()
    assert (tmp_path / TAG).is_file()
