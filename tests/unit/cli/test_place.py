"""`--dir`: the lease behind it ends with the command, however that ends."""

from __future__ import annotations

import base64
import io
import tarfile
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from agentkernel.cli import project
from agentkernel.cli.hot import Failure, Options
from agentkernel.cli.session import Place, checked

LEASE = "0123456789abcdef0123456789abcdef"


class ScriptedSession:
    """The daemon's side of a session, by a table: one reply per request, and whatever a test puts before it."""

    def __init__(self, **replies: dict[str, object]) -> None:
        self.sent: list[dict[str, Any]] = []
        self.waiting: deque[dict[str, object]] = deque()
        self._replies = {
            "acquire": {"type": "acquired", "id": LEASE},
            "archive_put": {"type": "archived", "entries": 1},
            "release": {"type": "released"},
            **replies,
        }

    def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)
        if message["cmd"] in self._replies:
            self.waiting.append(self._replies[message["cmd"]])

    def receive(self) -> dict[str, object]:
        if not self.waiting:
            raise Failure("the daemon ended the connection")
        return self.waiting.popleft()

    def ask(self, message: dict[str, Any]) -> dict[str, object]:
        self.send(message)
        return checked(self.receive())

    @property
    def commands(self) -> list[str]:
        return [message["cmd"] for message in self.sent]


def place(session: ScriptedSession, directory: Path | str) -> tuple[Place, dict[str, object]]:
    options = Options()
    options.directory = str(directory)
    message: dict[str, object] = {"cmd": "exec", "runtime": "python", "backend": "firecracker", "vmm": "qemu"}
    return Place(session, options, message), message  # type: ignore[arg-type]


def test_without_a_folder_nothing_is_leased() -> None:
    session = ScriptedSession()
    with place(session, "")[0]:
        pass
    assert session.commands == []


def test_a_folder_is_put_into_a_lease_like_the_one_asked_for_and_released_after(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("content")
    session = ScriptedSession()
    held, message = place(session, tmp_path)
    with held:
        assert message["sandbox"] == LEASE
    acquire, put, release = session.sent
    assert acquire == {"cmd": "acquire", "runtime": "python", "backend": "firecracker", "vmm": "qemu"}
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(put["content_base64"]))) as archive:
        assert archive.getnames() == ["a.txt"]
    assert release == {"cmd": "release", "id": LEASE}
    assert not session.waiting, "the answer was waited for: what is sent right before hanging up may never be read"


@pytest.mark.parametrize("error", [Failure("refused"), BrokenPipeError(), KeyboardInterrupt()], ids=repr)
def test_the_lease_ends_when_the_command_fails(tmp_path: Path, error: BaseException) -> None:
    session = ScriptedSession()
    with pytest.raises(type(error)), place(session, tmp_path)[0]:
        raise error
    assert session.commands[-1] == "release"


def test_what_a_cut_off_command_still_says_is_passed_over(tmp_path: Path) -> None:
    session = ScriptedSession()
    with place(session, tmp_path)[0]:
        session.waiting.extend({"type": "stdout", "data_base64": ""} for _ in range(3))
    assert not session.waiting


def test_the_lease_ends_when_the_folder_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "large").write_bytes(bytes(2048))
    monkeypatch.setattr(project, "MAX_PROJECT_BYTES", 1024)
    session = ScriptedSession()
    with pytest.raises(Failure, match="more than"), place(session, tmp_path)[0]:
        pytest.fail("it must not come so far")
    assert session.commands == ["acquire", "release"]


def test_the_lease_ends_when_the_sandbox_does_not_take_the_folder(tmp_path: Path) -> None:
    session = ScriptedSession(archive_put={"type": "error", "message": "the disk is full"})
    with pytest.raises(Failure, match="the disk is full"), place(session, tmp_path)[0]:
        pytest.fail("it must not come so far")
    assert session.commands == ["acquire", "archive_put", "release"]


def test_a_daemon_that_is_gone_does_not_hide_why(tmp_path: Path) -> None:
    session = ScriptedSession(release={"type": "error", "message": "never"})
    with pytest.raises(Failure, match="first"), place(session, tmp_path)[0]:
        raise Failure("first")


def test_what_is_no_folder_is_said_before_anything_is_leased(tmp_path: Path) -> None:
    session = ScriptedSession()
    with pytest.raises(Failure, match="not a folder"), place(session, tmp_path / "missing")[0]:
        pytest.fail("it must not come so far")
    assert session.commands == []
