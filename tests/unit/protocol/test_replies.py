"""Replies to lines, held against a strict decoder of the original shapes."""

from __future__ import annotations

import pytest
from tests.support import original_shapes

from agentkernel.model.errors import DOORS, Broken, Busy, Denied, NotFound, Refused, Unsupported
from agentkernel.protocol import replies
from agentkernel.protocol.codec import decode_reply, encode_reply, error_reply

FULL = [
    replies.Acquired(
        id="ab",
        cid=7,
        vsock_path="/run/x",
        backend="firecracker",
        vmm="qemu",
        isolation="vm",
        warm=True,
        expires_in_s=3600,
    ),
    replies.Acquired(id="ab", backend="docker", request_id="r"),
    replies.Released(),
    replies.Released(request_id="r"),
    replies.Executed(exit_code=0, stdout="ü\n", stderr=""),
    replies.Executed(
        exit_code=137,
        stdout="�",
        stderr="",
        backend="firecracker",
        vmm="qemu",
        isolation="vm",
        warm=False,
        signal=9,
        timed_out=True,
        truncated={"stdout": 3},
        stdout_bytes=b"\xff",
        stderr_bytes=b"",
        request_id="r",
    ),
    replies.StatusReply(warm=3, in_use=0, min_warm=3, max_warm=5, backends=["firecracker"]),
    replies.StatusReply(
        warm=3,
        in_use=0,
        min_warm=3,
        max_warm=5,
        backends=["firecracker"],
        agent_stats={"native": 3},
        drivers={"firecracker": replies.DriverStatus(usable=True, isolation="vm")},
    ),
    replies.Prewarmed(compatibility_mode="claude", count=2),
    replies.ShuttingDown(),
    replies.ErrorReply(message="no"),
    error_reply(Busy("full", hint="later"), "r"),
]


@pytest.mark.parametrize("reply", FULL, ids=lambda reply: type(reply).__name__)
def test_a_client_of_the_original_program_understands_every_reply(reply: replies.Reply) -> None:
    original_shapes.decode(encode_reply(reply))


@pytest.mark.parametrize("reply", FULL, ids=lambda reply: type(reply).__name__)
def test_our_own_client_reads_back_what_was_sent(reply: replies.Reply) -> None:
    assert decode_reply(encode_reply(reply)) == reply


def test_the_published_examples_are_the_beginning_of_our_lines() -> None:
    executed = encode_reply(replies.Executed(exit_code=0, stdout="Python 3.11.2\n", stderr="", vmm="qemu"))
    assert executed.startswith(b'{"type":"executed","exit_code":0,"stdout":"Python 3.11.2\\n","stderr":""')
    status = encode_reply(
        replies.StatusReply(
            warm=3, in_use=0, min_warm=3, max_warm=5, backends=["firecracker"], agent_stats={"native": 3}, booting=0
        )
    )
    assert status.startswith(
        b'{"type":"status","warm":3,"in_use":0,"min_warm":3,"max_warm":5,"backends":["firecracker"],"agent_stats":{"native":3}'
    )


def test_events_of_a_stream_carry_their_id_and_bytes() -> None:
    assert encode_reply(replies.Stdout(request_id="r", data=b"\xff")) == (
        b'{"type":"stdout","request_id":"r","data_base64":"/w=="}\n'
    )
    assert (
        encode_reply(replies.Exit(request_id="r", exit_code=0)) == b'{"type":"exit","request_id":"r","exit_code":0}\n'
    )
    assert encode_reply(replies.Accepted()) == b'{"type":"accepted"}\n'


@pytest.mark.parametrize(
    ("cause", "code"),
    [
        (Refused("x"), "invalid"),
        (Unsupported("x"), "unsupported"),
        (Denied("x"), "denied"),
        (NotFound("x"), "not_found"),
        (Busy("x"), "busy"),
        (Broken("x"), "broken"),
        (TimeoutError(), "timeout"),
        (ValueError("x"), "internal"),
    ],
)
def test_every_cause_has_its_code_and_says_whether_to_retry(cause: Exception, code: str) -> None:
    reply = error_reply(cause)
    assert (reply.code, reply.retryable) == (code, DOORS[code].retryable)
    assert reply.message
    assert b"hint" not in encode_reply(reply)
    original_shapes.decode(encode_reply(reply))


def test_an_error_is_one_short_line_of_valid_text_whatever_its_cause_says() -> None:
    reply = error_reply(Refused("a\nb\udcff" + "x" * 100_000, hint="do\nthis"))
    assert reply.message.startswith("a b?x")
    assert len(reply.message) <= 4096
    assert reply.hint == "do this"
    original_shapes.decode(encode_reply(reply))


@pytest.mark.parametrize("line", [b"", b"{}", b'{"type":"new"}', b"\xff", b'{"type":"error","message":"\xff"}'])
def test_what_is_no_reply_means_a_broken_daemon(line: bytes) -> None:
    with pytest.raises(Broken, match="no reply"):
        decode_reply(line)
