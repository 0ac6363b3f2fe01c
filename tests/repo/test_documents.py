"""The documents against the repository: links lead somewhere, promises name tests that are there, pages are current."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from tests.repo.reference import reference

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for folder in (ROOT, ROOT / "docs", ROOT / "guest", ROOT / "host")
    for path in (folder.glob("*.md") if folder == ROOT else folder.rglob("*.md"))
)
PROMISING = ("SPECIFICATION.md", "SECURITY.md")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
TEST = re.compile(r"`(tests/[\w/.]+\.py)::(test_\w+)`")
PROMISE = re.compile(r"^- \*\*(P?\d+(?:\.\d+)?)\*\* (.*(?:\n  .*)*)", re.MULTILINE)
FILE = re.compile(r"`((?:src|tests|docs|guest|host|tools|benchmarks)/[\w./-]*\w\.(?:py|c|h|md|toml|sh))(?:::\w+)?`")
IN_CODE = re.compile(r"```.*?```", re.DOTALL)


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def anchors(text: str) -> set[str]:
    """Headings as the usual renderers spell them in links."""
    found = re.findall(r"^#+ (.+)$", IN_CODE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def promises(page: str) -> list[tuple[str, str]]:
    return PROMISE.findall((ROOT / page).read_text())


@pytest.mark.parametrize("page", names(PAGES))
def test_every_link_leads_to_something(page: str) -> None:
    text = IN_CODE.sub("", (ROOT / page).read_text())
    broken = []
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        place = (ROOT / page).parent / path if path else ROOT / page
        if not place.exists() or (anchor and anchor not in anchors(place.read_text())):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", names(PAGES))
def test_every_file_that_a_page_names_is_there(page: str) -> None:
    text = IN_CODE.sub("", (ROOT / page).read_text())
    here = (ROOT / page).parent
    assert [path for path in FILE.findall(text) if not (ROOT / path).exists() and not (here / path).exists()] == []


@pytest.mark.parametrize("page", PROMISING)
def test_every_test_that_holds_a_promise_exists(page: str) -> None:
    text = (ROOT / page).read_text()
    missing = [
        f"{path}::{name}"
        for path, name in TEST.findall(text)
        if not (ROOT / path).is_file() or not re.search(rf"def {name}\b", (ROOT / path).read_text())
    ]
    assert missing == []
    assert TEST.findall(text)


@pytest.mark.parametrize("page", PROMISING)
def test_every_promise_has_a_number_of_its_own(page: str) -> None:
    counted = Counter(number for number, _ in promises(page))
    assert counted
    assert [number for number, times in counted.items() if times > 1] == []


@pytest.mark.parametrize("page", PROMISING)
def test_promises_stand_in_the_order_of_their_numbers(page: str) -> None:
    numbers = [tuple(map(int, number.lstrip("P").split("."))) for number, _ in promises(page)]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize("page", PROMISING)
def test_every_promise_names_its_test_or_says_that_it_is_pending(page: str) -> None:
    assert [number for number, text in promises(page) if not TEST.search(text) and "[test pending]" not in text] == []


def test_every_list_item_that_looks_like_a_promise_is_read_as_one() -> None:
    for page in PROMISING:
        numbered = re.findall(r"^- \*\*P?\d", (ROOT / page).read_text(), re.MULTILINE)
        assert len(numbered) == len(promises(page))


def test_the_generated_pages_are_current() -> None:
    assert reference().stale() == []


def test_every_decision_is_numbered_in_order_and_says_what_it_must() -> None:
    records = sorted((ROOT / "docs/adr").glob("[0-9]*.md"))
    assert [int(path.name[:4]) for path in records] == list(range(1, len(records) + 1))
    for path in records:
        text = path.read_text()
        for heading in ("## Context", "## Decision", "## Cost", "## What would change our mind"):
            assert heading in text, f"{path.name} lacks {heading}"


def test_every_example_is_run_by_a_test() -> None:
    tested = (ROOT / "tests/docs/test_examples.py").read_text()
    assert [path.name for path in (ROOT / "docs/examples").glob("*.py") if f'"{path.name}"' not in tested] == []
