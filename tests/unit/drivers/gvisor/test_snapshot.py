"""What is said to a sentry that is told to save itself, and what is believed of its answer."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentkernel.drivers.gvisor import snapshot
from agentkernel.model.errors import Broken, NotFound, Refused


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the sentry's socket is looked for."""
    made = tmp_path / "state"
    made.mkdir()
    monkeypatch.setattr(snapshot, "STATE", str(made))
    return made


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Path]:
    """A socket somewhere else that takes connections."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))
        made.listen()
        yield path


def test_a_link_in_place_of_the_sentrys_socket_is_not_followed(state: Path, listener: Path) -> None:
    at = state / "runsc-sandbox.sock"
    at.hardlink_to(listener)
    with snapshot._connected(os.getpid()):
        """The control: a socket at that place is spoken to."""
    at.unlink()
    at.symlink_to(listener)
    with pytest.raises(ConnectionError), snapshot._connected(os.getpid()):
        """Never reached."""
    at.unlink()
    at.hardlink_to(listener)
    state.rename(state.with_name("moved"))
    state.symlink_to(state.with_name("moved"))
    with pytest.raises(OSError), snapshot._connected(os.getpid()):
        """Never reached."""


@pytest.mark.parametrize("said", [b"", b"{", b"[]", b"\xff", b'"success"', b"{" * (snapshot.ANSWER_BYTES + 1)])
def test_an_answer_that_is_none_is_broken(said: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        theirs.send(said)
        theirs.close()
        with pytest.raises(Broken, match="gave no answer"):
            snapshot._answer(ours)


def test_an_answer_in_pieces_is_taken_whole() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        for piece in (b'{"succ', b'ess": true, ', b'"err": ""}'):
            theirs.send(piece)
        assert snapshot._answer(ours) == {"success": True, "err": ""}


def test_a_snapshot_fits_what_it_was_made_for_and_nothing_else(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        snapshot.check_fits(tmp_path, {"runsc": ["d", "1"]})
    (tmp_path / snapshot.MADE_FOR).write_text('{"runsc": ["d", "1"]}')
    snapshot.check_fits(tmp_path, {"runsc": ["d", "1"]})
    with pytest.raises(Refused, match="runsc changed"):
        snapshot.check_fits(tmp_path, {"runsc": ["d", "2"]})
    with pytest.raises(Refused, match="agent changed"):
        snapshot.check_fits(tmp_path, {"runsc": ["d", "1"], "agent": "a"})
