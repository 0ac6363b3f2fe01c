"""How a request is told to a machine's guest, and how a machine's end is told."""

from __future__ import annotations

import json

import pytest

from agentkernel.drivers.hyperlight.worker.telling import Refusal, told_of
from agentkernel.drivers.hyperlight.worker.vm import cause, prelude
from agentkernel.drivers.worker.programs import Kind
from agentkernel.wire import program


def request(*argv: bytes, env: tuple[bytes, ...] = ()) -> program.Exec:
    return program.Exec(0, 0, 0, argv, env, "/workspace", "", ())


def test_python_is_told_bytes_that_are_no_text() -> None:
    told = told_of(
        Kind.PYTHON, request(b"python3", b"-c", b"x", b"\xff\xc3\xa9", env=(b"A=\xfe", b"PYTHONUNBUFFERED=1"))
    )
    assert (told["kind"], told["text"], told["unbuffered"]) == ("code", "x", True)
    assert told["argv"][1].encode("latin-1") == b"\xff\xc3\xa9"
    assert told["env"][0].encode("latin-1") == b"A=\xfe"
    assert json.loads(json.dumps(told)) == told


def test_javascript_is_told_its_source_or_where_it_is() -> None:
    told = told_of(Kind.JAVASCRIPT, request(b"js", b"-e", b"1", b"a", env=(b"A=b=c",)))
    assert (told["source"], told["env"], told["argv"]) == ("1", {"A": "b=c"}, ["js", "-e", "1", "a"])
    assert told_of(Kind.JAVASCRIPT, request(b"js", b"f.js"))["path"] == "f.js"
    assert {"source", "path"}.isdisjoint(told_of(Kind.JAVASCRIPT, request(b"js", b"-")))


@pytest.mark.parametrize("words", [(Kind.PYTHON, b"python3", b"-Y"), (Kind.JAVASCRIPT, b"js", b"--what")])
def test_a_command_line_that_is_none_is_refused(words: tuple[Kind, bytes, bytes]) -> None:
    kind, *argv = words
    with pytest.raises(Refusal):
        told_of(kind, request(*argv))


def test_a_cause_is_said_once() -> None:
    assert cause("failed: no vm: failed: no vm: exit: failed") == "failed: no vm: exit"


def test_every_language_has_a_prelude_with_its_parts() -> None:
    assert "_agentkernel()" in prelude(Kind.PYTHON)
    assert "sha256" in prelude(Kind.PYTHON)
    assert "setTimeout" in prelude(Kind.JAVASCRIPT)
    assert "(PRELUDE)" not in prelude(Kind.JAVASCRIPT)
