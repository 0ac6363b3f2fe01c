"""What `run` makes of its flags and environment."""

from __future__ import annotations

import pytest

from agentkernel.cli import hot
from agentkernel.policy.layers import load


@pytest.fixture(autouse=True)
def no_backend_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AGENTKERNEL_BACKEND", raising=False)


def test_an_image_takes_the_place_of_the_runtime() -> None:
    message = hot.message_of(hot.parse(["--image", "debian:12", "-b", "docker", "--", "python3", "-V"]), "exec")
    assert (message["image"], message["backend"]) == ("debian:12", "docker")
    assert "runtime" not in message
    assert hot.message_of(hot.parse(["python3", "-V"]), "exec")["runtime"] == "python"


def test_only_an_image_runs_without_a_command() -> None:
    assert hot.message_of(hot.parse(["--image", "debian:12"]), "exec")["command"] == []
    with pytest.raises(hot.Failure, match="no command given"):
        hot.parse(["--runtime", "base"])


def test_a_runtime_and_an_image_exclude_each_other() -> None:
    with pytest.raises(hot.Failure, match="exclude each other"):
        hot.parse(["--image", "debian:12", "--runtime", "base", "ls"])


def test_the_backend_is_the_flags_else_the_variables_else_a_microvm(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hot.message_of(hot.parse(["ls"]), "exec")["backend"] == "firecracker"
    monkeypatch.setenv("AGENTKERNEL_BACKEND", "podman")
    assert hot.message_of(hot.parse(["ls"]), "exec")["backend"] == "podman"
    assert hot.message_of(hot.parse(["-b", "auto", "ls"]), "exec")["backend"] == "auto"


def test_the_daemon_does_not_take_the_variable_for_a_key_of_its_own() -> None:
    assert load(environ={"AGENTKERNEL_BACKEND": "docker"}).warnings == ()
    assert load(environ={"AGENTKERNEL_BACKENDS": "docker"}).warnings
