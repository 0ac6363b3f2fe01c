"""Rules of the house that no linter knows."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
TEXTS = {".py", ".c", ".h", ".md", ".toml", ".sh", ".txt", ".json", ".cfg", ".ini", ""}


def committed() -> list[Path]:
    """Every text file that is, or is about to be, part of the repository; a checkout without git is taken as it is."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listing.returncode == 0:
        names = [ROOT / name for name in listing.stdout.decode().split("\0") if name]
    else:
        folders = ("src", "tests", "docs", "guest/src", "host/src", "tools")
        names = [path for folder in folders for path in (ROOT / folder).rglob("*")] + list(ROOT.glob("*.md"))
    return sorted(path for path in names if path.is_file() and path.suffix in TEXTS)


def lines_with(pattern: str, *, but: tuple[str, ...] = ()) -> list[str]:
    """Where a pattern stands: `path:line: text`."""
    wanted = re.compile(pattern)
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in committed()
        if str(path.relative_to(ROOT)) not in but
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if wanted.search(line)
    ]


THIS = "tests/repo/test_sources.py"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_the_product_never_asserts(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)] == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_nothing_is_left_to_do_in_a_comment() -> None:
    assert lines_with(r"\b(TODO|FIXME|XXX|HACK)\b", but=(THIS, "CONTRIBUTING.md")) == []


def test_no_path_of_one_machine_is_committed() -> None:
    assert lines_with(r"(?<![\w.-])/(?:work|home/(?!sandbox)\w+|Users/\w+)/", but=(THIS,)) == []


def test_no_registry_or_mirror_is_committed() -> None:
    """Which archive and which index are used is the host's own configuration."""
    hosts = r"https?://[\w.-]*(?:debian\.org|ubuntu\.com|pypi\.org|pythonhosted\.org|docker\.io|ghcr\.io|quay\.io)"
    assert lines_with(hosts, but=(THIS,)) == []


def test_no_line_of_prose_hides_a_merge_conflict() -> None:
    assert lines_with(r"^(<{7} |>{7} |={7}$)", but=(THIS,)) == []


def test_test_names_are_sentences() -> None:
    named = re.compile(r"^\s*(?:async )?def (test_\w+)", re.MULTILINE)
    short = [
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        if not path.is_relative_to(ROOT / "tests/property")
        for name in named.findall(path.read_text())
        if name.count("_") < 2
    ]
    assert short == []
