"""What a machine's process answers its program: files of the tree, its streams, and no more."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentkernel.drivers.hyperlight.worker import words
from agentkernel.drivers.hyperlight.worker.answers import MOST_HANDLES, Answers
from agentkernel.drivers.worker.tree import Tree


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[tuple[Answers, socket.socket]]:
    """Answers over a tree, and the worker's end of their socket."""
    ours, theirs = socket.socketpair()
    tree = Tree(tmp_path / "root")
    with ours, theirs:
        answers = Answers(theirs, tree)
        yield answers, ours
        answers.begin({})
        tree.close()


def ask(answers: Answers, *request: Any) -> Any:
    """One call, as the guest makes it."""
    return json.loads(answers.answer(json.dumps(request)))


def test_files_are_written_and_read_by_handle(ends: tuple[Answers, socket.socket]) -> None:
    answers, _ = ends
    handle = ask(answers, "open", "/workspace/f", "w+")["value"]
    assert ask(answers, "write", handle, base64.b64encode(b"\0\xffx").decode()) == {"value": 3}
    assert ask(answers, "seek", handle, 1, 0) == {"value": 1}
    assert base64.b64decode(ask(answers, "read", handle, 10)["value"]) == b"\xffx"
    assert ask(answers, "stat", "/workspace/f", True)["value"][1] == 3
    assert ask(answers, "list", "/workspace") == {"value": ["f"]}
    assert ask(answers, "close", handle) == {"value": None}
    assert ask(answers, "read", handle, 1)["errno"] == "EINVAL"


def test_a_path_leads_no_further_than_the_tree(ends: tuple[Answers, socket.socket], tmp_path: Path) -> None:
    answers, _ = ends
    (tmp_path / "secret").write_text("secret")
    (answers.tree.path / "workspace/out").symlink_to(tmp_path)
    for path in ("/../secret", "/workspace/out/secret", "/workspace/../../secret", str(tmp_path / "secret")):
        assert ask(answers, "open", path, "r")["errno"] == "ENOENT", path
        assert ask(answers, "read_text", path)["errno"] == "ENOENT", path
    (answers.tree.path / "workspace/mine").write_text("mine")
    assert ask(answers, "read_text", "/workspace/mine") == {"value": "mine"}


@pytest.mark.parametrize(
    "request_text",
    [
        "",
        "{}",
        "[]",
        "null",
        '["nothing"]',
        '["open"]',
        '["open", 1, 2]',
        '["read", "x", []]',
        '["__class__"]',
        '["out"]',
    ],
)
def test_what_is_no_request_is_told_so(ends: tuple[Answers, socket.socket], request_text: str) -> None:
    assert json.loads(ends[0].answer(request_text))["errno"] == "EINVAL"


def test_open_files_are_bounded_and_gone_with_their_program(ends: tuple[Answers, socket.socket]) -> None:
    answers, _ = ends
    ask(answers, "write_text", "/tmp/f", "x")
    for _ in range(MOST_HANDLES):
        assert "value" in ask(answers, "open", "/tmp/f", "r")
    assert ask(answers, "open", "/tmp/f", "r")["errno"] == "EMFILE"
    answers.begin({"argv": []})
    assert ask(answers, "open", "/tmp/f", "r") == {"value": 3}
    assert ask(answers, "program") == {"value": {"argv": []}}


def test_output_and_input_pass_through_the_worker(ends: tuple[Answers, socket.socket]) -> None:
    answers, worker = ends
    ask(answers, "out", 1, base64.b64encode(b"\xff").decode())
    ask(answers, "text", 2, "\u00e9")
    assert words.receive(worker) == (words.STDOUT, b"\xff")
    assert words.receive(worker) == (words.STDERR, "\u00e9".encode())
    words.send(worker, words.INPUT, b"line\n")
    assert base64.b64decode(ask(answers, "input", 100)["value"]) == b"line\n"
    assert words.receive(worker) == (words.INPUT, b"100")


def test_frames_that_are_none_end_the_conversation() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"o\xff\xff\xff\xff")
        with pytest.raises(EOFError):
            words.receive(theirs)
        words.send(ours, words.ENDED, b"7")
        assert words.receive(theirs) == (words.ENDED, b"7")
        ours.close()
        with pytest.raises(EOFError):
            words.receive(theirs)
