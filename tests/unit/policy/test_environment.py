"""What a program finds."""

from __future__ import annotations

import pytest

from agentkernel.model.errors import Refused
from agentkernel.model.execution import ExecRequest
from agentkernel.policy.environment import STRING_CAP_BYTES, environment, exec_request


def test_a_program_finds_the_table() -> None:
    assert exec_request(["ls", "-l"]) == ExecRequest(
        argv=(b"ls", b"-l"),
        env=(
            b"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            b"LANG=C.UTF-8",
            b"HOME=/home/sandbox",
            b"USER=sandbox",
            b"LOGNAME=sandbox",
        ),
        cwd="/workspace",
    )


def test_the_caller_overrides_the_image_which_overrides_the_table() -> None:
    found = environment({"A": "caller", "E": ""}, {"A": "image", "PATH": "/image"})
    assert (found["A"], found["PATH"], found["LANG"], found["E"]) == ("caller", "/image", "C.UTF-8", "")


def test_root_has_its_own_home_and_others_are_left_to_the_guest() -> None:
    assert environment(user="root")["HOME"] == "/root"
    assert "HOME" not in environment(user="1001")


def test_the_callers_directory_and_user_are_taken() -> None:
    found = exec_request(["ls"], cwd="/tmp", user="1000:100", stdin=True)
    assert (found.cwd, found.user, found.stdin) == ("/tmp", "1000:100", True)


@pytest.mark.parametrize("user", ["-x", "a b", "1000:", "1:2:3", "A" * 40, "a\n", "٣"])
def test_an_ill_formed_user_is_refused(user: str) -> None:
    with pytest.raises(Refused, match="Invalid request: user"):
        exec_request(["ls"], user=user)


@pytest.mark.parametrize("cwd", ["tmp", "../x", "/a\0b", "/" + "x" * 4096])
def test_an_ill_formed_directory_is_refused(cwd: str) -> None:
    with pytest.raises(Refused, match="Invalid request: cwd"):
        exec_request(["ls"], cwd=cwd)


@pytest.mark.parametrize("name", ["", "A=B", "A\0"])
def test_an_ill_formed_name_is_refused(name: str) -> None:
    with pytest.raises(Refused, match="Invalid request: env"):
        exec_request(["ls"], env={name: "x"})


@pytest.mark.parametrize("command", [[], [""]])
def test_a_command_without_a_program_is_refused(command: list[str]) -> None:
    with pytest.raises(Refused, match="Invalid request: command is empty"):
        exec_request(command)


@pytest.mark.parametrize(
    ("text", "says"), [("a\0", "NUL"), ("\ud800", "surrogate"), ("x" * (STRING_CAP_BYTES + 1), "at most 131071")]
)
def test_texts_that_no_program_can_have_are_refused(text: str, says: str) -> None:
    with pytest.raises(Refused, match=says):
        exec_request(["echo", text])


def test_the_longest_text_is_taken_and_too_many_are_refused() -> None:
    longest = "x" * STRING_CAP_BYTES
    assert exec_request(["echo", longest]).argv[1] == longest.encode()
    with pytest.raises(Refused, match="command and env hold"):
        exec_request(["echo", *[longest] * 8])
