"""Every behaviour has a test, every test a behaviour."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentkernel.model.kinds import Feature
from agentkernel.model.readiness import Readiness
from tests.conformance.conftest import heed, manifest

FOLDER = Path(__file__).parent


def marked() -> Iterator[tuple[str, list[str]]]:
    """Each test of this folder, and the behaviours that its marks name."""
    for path in sorted(FOLDER.glob("test_*.py")):
        if path == Path(__file__):
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                marks = [call for call in node.decorator_list if isinstance(call, ast.Call)]
                named = [call for call in marks if ast.unparse(call.func) == "pytest.mark.behaviour"]
                yield f"{path.name}::{node.name}", [ast.literal_eval(call.args[0]) for call in named]


def test_every_test_names_a_behaviour_of_the_manifest() -> None:
    assert {test: ids for test, ids in marked() if not ids or not set(ids) <= set(manifest())} == {}


def test_every_behaviour_has_a_test() -> None:
    tested = {each for _, ids in marked() for each in ids}
    assert set(manifest()) - tested == set()


def test_every_behaviour_says_what_it_is_and_where_that_is_written() -> None:
    for name, facts in manifest().items():
        assert facts["text"].endswith("."), name
        assert facts["source"], name
        assert set(facts) <= {"text", "source", "requires", "bare"}, name
        assert facts.get("requires") is None or Feature(facts["requires"]), name


def test_a_test_whose_behaviour_requires_a_feature_asks_for_its_subject() -> None:
    """Only there the suite can turn it round and expect Unsupported."""
    functions = {
        f"{path.name}::{node.name}": [argument.arg for argument in node.args.args]
        for path in FOLDER.glob("test_*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    needing = [test for test, ids in marked() if any("requires" in manifest()[each] for each in ids)]
    assert [test for test in needing if "subject" not in functions[test]] == []


def test_a_driver_whose_probe_objects_is_skipped_with_its_reason_unless_it_is_required() -> None:
    objects = Readiness(usable=False, reason="no such engine", remedy="start it")
    with pytest.raises(pytest.skip.Exception, match="no such engine; start it"):
        heed("docker", objects, required=False)
    with pytest.raises(pytest.fail.Exception, match="no such engine; start it"):
        heed("docker", objects, required=True)
    heed("docker", Readiness(usable=True), required=True)
