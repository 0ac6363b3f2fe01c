"""Every driver says what it is, what it needs, and what it was tested against, once."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from agentkernel.drivers.catalogue import ABOUT, Settings, catalogue
from agentkernel.images.store import Store
from agentkernel.model.kinds import Isolation
from agentkernel.model.readiness import About


def test_every_driver_has_declared_itself_and_nobody_else_has(tmp_path: Path) -> None:
    store = Store({"AGENTKERNEL_HOME": str(tmp_path), "AGENTKERNEL_DATA": str(tmp_path / "data")})
    assert list(catalogue(store, Settings({}, tmp_path, tmp_path))) == list(ABOUT)


@pytest.mark.parametrize("about", ABOUT.values(), ids=lambda about: about.makes)
def test_each_text_is_there_and_one_line_without_a_full_stop(about: About) -> None:
    texts = [value for field in fields(about) if isinstance(value := getattr(about, field.name), str)]
    assert len(texts) == 4
    assert [text for text in texts if not text or "\n" in text or text.endswith(".") or "|" in text] == []


@pytest.mark.parametrize("about", ABOUT.values(), ids=lambda about: about.makes)
def test_tiers_stand_strongest_first(about: About) -> None:
    assert about.tiers
    assert sorted(about.tiers, key=list(Isolation).index) == list(about.tiers)
