"""The protocol behind `vsock_path`."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkernel.protocol import guest_json
from agentkernel.protocol.guest_json import Connected, GuestReply, GuestStream, Hangup


def frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "little") + body


def request(**fields: Any) -> bytes:
    return frame(json.dumps(fields).encode())


def connected() -> GuestStream:
    stream = GuestStream()
    assert stream.feed(b"CONNECT 52000\n") == [Connected()]
    return stream


def test_the_handshake_is_answered_and_frames_may_follow_at_once() -> None:
    found = GuestStream().feed(b"CONNECT 52000\n" + request(id="1", type="ping"))
    assert found == [Connected(), guest_json.Ping(id="1")]
    assert guest_json.handshake_reply(1073741824) == b"OK 1073741824\n"


@pytest.mark.parametrize("line", [b"CONNECT 22\n", b"CONNECT 520000\n", b"GET / HTTP/1.1\n", b"\n", b"x" * 40])
def test_any_other_port_or_greeting_is_closed(line: bytes) -> None:
    stream = GuestStream()
    (found,) = stream.feed(line)
    assert isinstance(found, Hangup)
    assert stream.feed(b"CONNECT 52000\n") == []


def test_half_a_handshake_waits() -> None:
    stream = GuestStream()
    assert stream.feed(b"CONNECT 52") == []
    assert stream.feed(b"000\n") == [Connected()]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"type": "run", "command": ["ls"]}, guest_json.Run(id="1", command=["ls"])),
        (
            {"type": "run", "command": ["ls"], "cwd": None, "env": None, "path": None},
            guest_json.Run(id="1", command=["ls"]),
        ),
        (
            {"type": "run", "command": ["ls"], "cwd": "/", "env": {"A": "b"}},
            guest_json.Run(id="1", command=["ls"], cwd="/", env={"A": "b"}),
        ),
        ({"type": "shutdown"}, guest_json.Shutdown(id="1")),
        (
            {"type": "write_file", "path": "/a", "content_base64": "aGk="},
            guest_json.WriteFile(id="1", path="/a", content=b"hi"),
        ),
        ({"type": "read_file", "path": "/a"}, guest_json.ReadFile(id="1", path="/a")),
        ({"type": "remove_file", "path": "/a"}, guest_json.RemoveFile(id="1", path="/a")),
        ({"type": "mkdir", "path": "/a", "recursive": True}, guest_json.Mkdir(id="1", path="/a", recursive=True)),
        ({"type": "shell", "rows": 24, "cols": 80}, guest_json.Shell(id="1", rows=24, cols=80)),
        (
            {"type": "shell_input", "session_id": "s", "input_base64": "aGk="},
            guest_json.ShellInput(id="1", session_id="s", input=b"hi"),
        ),
        ({"type": "shell_resize", "session_id": "s"}, guest_json.ShellResize(id="1", session_id="s")),
        ({"type": "shell_close", "session_id": "s"}, guest_json.ShellClose(id="1", session_id="s")),
    ],
)
def test_every_request_is_understood(fields: dict[str, Any], expected: guest_json.GuestRequest) -> None:
    assert connected().feed(request(id="1", **fields)) == [expected]


@pytest.mark.parametrize(
    ("body", "reply_id", "says"),
    [
        (b'{"id":"7","type":"dance"}', "7", "unknown type `dance`"),
        (b'{"id":"7"}', "7", "type"),
        (b'{"id":"7","type":"run"}', "7", "command"),
        (b'{"id":"7","type":"run","command":[]}', "7", "command"),
        (b'{"id":"7","type":"run","command":["\\u0000"]}', "7", "NUL"),
        (b'{"id":"7","type":"read_file","path":"\\u0000"}', "7", "NUL"),
        (b'{"id":7,"type":"ping"}', "", "id"),
        (b"nope", "", "not a JSON object"),
        (b"\xff", "", "not a JSON object"),
        (b"[]", "", "not a JSON object"),
    ],
)
def test_an_ill_formed_request_is_answered_and_the_stream_goes_on(body: bytes, reply_id: str, says: str) -> None:
    found, after = connected().feed(frame(body) + request(id="2", type="ping"))
    assert isinstance(found, GuestReply)
    assert found.id == reply_id
    assert says in str(found.error)
    assert after == guest_json.Ping(id="2")


def test_a_frame_over_the_cap_ends_the_conversation_before_its_body_comes() -> None:
    stream = connected()
    (found,) = stream.feed((10 * 1024 * 1024 + 1).to_bytes(4, "little"))
    assert isinstance(found, Hangup)
    assert stream.feed(b"more") == []


def test_shells_are_answered_unsupported_with_their_id() -> None:
    reply = guest_json.unsupported(guest_json.Shell(id="9"), "no terminals here")
    assert (reply.id, reply.error) == ("9", "Unsupported: shell: no terminals here")


def test_a_reply_is_one_frame_without_nulls() -> None:
    sent = guest_json.encode_guest_reply(GuestReply(id="1", exit_code=0, stdout="x"))
    assert sent == frame(b'{"id":"1","exit_code":0,"stdout":"x"}')


def test_a_reply_over_the_cap_becomes_an_error() -> None:
    sent = guest_json.encode_guest_reply(GuestReply(id="1", content=bytes(10 * 1024 * 1024)))
    assert b"Too large" in sent
    assert len(sent) < 200


@given(st.lists(st.integers(1, 9), max_size=60))
def test_any_chunking_gives_the_same_events(sizes: list[int]) -> None:
    sent = b"CONNECT 52000\n" + request(id="1", type="ping") + frame(b"{") + request(id="2", type="shutdown")
    stream, found, start = GuestStream(), [], 0
    for size in [*sizes, len(sent)]:
        found += stream.feed(sent[start : start + size])
        start += size
    assert found == GuestStream().feed(sent)
