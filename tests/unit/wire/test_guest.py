"""The guest's side."""

import errno

import pytest

from agentkernel.wire import Attached, Detached, GuestLink, HostLink, Received, attach, control, files, program
from agentkernel.wire.events import Event
from agentkernel.wire.fields import Payload
from agentkernel.wire.frames import MOST_CHANNELS, MOST_PARTS_BYTES, WINDOW_BYTES, encode_frame

EPOCH = bytes(range(1, 17))
NEXT_EPOCH = bytes(range(33, 49))
TAG = EPOCH[:4]
HELLO = control.Hello(1, bytes(32), 0, "h", bytes(16), 0)
EXEC = program.Exec(1, 0, 0, (b"a",), (), "/", "", ())
ATTACH = attach.encode_attach(EPOCH)


def frame(channel: int, message: Payload) -> bytes:
    return encode_frame(TAG, channel, message.kind, message.encode())


def greeted() -> GuestLink:
    link = GuestLink()
    assert link.feed(ATTACH + frame(0, HELLO)) == [Attached(EPOCH), Received(0, HELLO)]
    assert link.replies() == attach.encode_echo(EPOCH)
    return link


def lost(link: GuestLink, data: bytes) -> None:
    events = link.feed(data)
    assert isinstance(events[-1], Detached)
    assert link.feed(ATTACH) == [Attached(EPOCH)]


def test_a_guest_hunts_for_a_true_record_in_anything() -> None:
    link = GuestLink()
    assert link.feed(b"noise AKLINK-ATT1\n" + bytes(40) + ATTACH[:31]) == []
    assert link.feed(ATTACH[31:]) == [Attached(EPOCH)]
    assert GuestLink().feed(b"AK" + b"AKLIAKLI" + ATTACH) == [Attached(EPOCH)]


def test_nothing_is_said_before_a_host_has_attached() -> None:
    assert GuestLink().send(0, control.Pong(1, 1, 1, 1)) == b""


@pytest.mark.parametrize(
    "data",
    [
        b"XXXX",
        b"AKLI" + bytes(28),
        TAG + b"\xff\xff\xff\xff" + bytes(8),
        TAG + bytes(8) + b"\x05\x01\x00\x00",
        encode_frame(TAG, 0, 200),
        encode_frame(TAG, 1, control.Ping.kind, bytes(8)),
        encode_frame(TAG, 0, program.Kill.kind),
        encode_frame(TAG, 0, control.Ping.kind, bytes(7)),
        frame(1, program.Exec(0, 0, 0, (), (), "/", "", ())),
    ],
)
def test_a_framing_error_loses_the_epoch_and_not_the_guest(data: bytes) -> None:
    lost(greeted(), data)


def test_hello_comes_first() -> None:
    link = GuestLink()
    link.feed(ATTACH)
    lost(link, frame(0, control.Ping(1)))


def test_a_new_epoch_closes_all_channels() -> None:
    link = greeted()
    link.feed(frame(1, EXEC))
    assert link.is_open(1)
    assert link.room(1) == WINDOW_BYTES
    assert link.feed(attach.encode_attach(NEXT_EPOCH)) == [Attached(NEXT_EPOCH)]
    assert link.replies() == attach.encode_echo(NEXT_EPOCH)
    assert not link.is_open(1)
    assert link.room(1) == 0
    assert link.send(1, program.Started(1)) == b""
    assert link.replies() == b""


@pytest.mark.parametrize("written", [0, 1, 4, 8, 15, 16, 17, 65_551])
def test_a_guest_that_was_left_inside_a_frame_is_attached_to_after_enough_zeros(written: int) -> None:
    link = greeted()
    link.feed(frame(1, program.Part(bytes(65_536)))[:written])
    host = HostLink(NEXT_EPOCH)
    assert link.feed(host.send_attach(used=True))[-1] == Attached(NEXT_EPOCH)
    assert host.feed(link.replies()) == [Attached(NEXT_EPOCH)]


def test_between_quiesce_and_resume_there_is_nothing_else() -> None:
    link = greeted()
    assert link.feed(frame(0, control.Quiesce())) == [Received(0, control.Quiesce())]
    assert link.feed(frame(0, control.Resume())) == [Received(0, control.Resume())]
    assert link.feed(frame(0, control.Ping(1))) == [Received(0, control.Ping(1))]
    link.feed(frame(0, control.Quiesce()))
    lost(link, frame(0, control.Ping(1)))
    link = greeted()
    link.feed(frame(0, control.Quiesce()))
    assert link.feed(attach.encode_attach(NEXT_EPOCH)) == [Attached(NEXT_EPOCH)]


def test_a_request_is_put_together_from_its_parts() -> None:
    link = greeted()
    spelled = EXEC.encode()
    data = frame(1, program.Part(spelled[:5])) + frame(1, program.Part(spelled[5:9]))
    assert link.feed(data) == []
    assert link.feed(encode_frame(TAG, 1, EXEC.kind, spelled[9:])) == [Received(1, EXEC)]


@pytest.mark.parametrize("channels", [1, 2])
def test_parts_are_bounded_alone_and_together(channels: int) -> None:
    link = greeted()
    data = b"".join(
        frame(number, program.Part(bytes(65_536)))
        for number in range(1, channels + 1)
        for _ in range(MOST_PARTS_BYTES // 65_536)
    )
    assert link.feed(data) == []
    lost(link, frame(channels + (channels > 1), program.Part(b"x")))


def test_frames_for_channels_that_are_closed_or_never_were_are_ignored() -> None:
    link = greeted()
    assert link.feed(frame(9, program.Kill())) == []
    link.feed(frame(2, EXEC))
    assert link.send(2, program.Failed(2, "program: a")) == frame(2, program.Failed(2, "program: a"))
    assert link.feed(frame(2, program.Kill()) + frame(2, EXEC) + frame(1, EXEC)) == []


def test_one_channel_too_many_is_refused() -> None:
    link = greeted()
    requests = b"".join(frame(number, files.Stat("/")) for number in range(1, MOST_CHANNELS + 2))
    events: list[Event] = link.feed(requests)
    assert len(events) == MOST_CHANNELS
    assert link.replies() == frame(MOST_CHANNELS + 1, program.Failed(errno.EMFILE, "channels"))


def test_a_host_that_overruns_a_window_loses_the_channel() -> None:
    link = greeted()
    link.feed(frame(1, EXEC))
    for _ in range(4):
        assert link.feed(frame(1, program.Stdin(bytes(65_536))))
    assert link.send(1, program.GuestCredit(1)) == frame(1, program.GuestCredit(1))
    assert link.feed(frame(1, program.Stdin(b"x"))) == [Received(1, program.Stdin(b"x"))]
    assert link.feed(frame(1, program.Stdin(b"x"))) == []
    assert link.replies() == frame(1, program.Failed(errno.EOVERFLOW, "window"))
    assert not link.is_open(1)


def test_output_needs_window_and_credit_gives_it() -> None:
    link = greeted()
    link.feed(frame(1, EXEC))
    for _ in range(4):
        assert link.send(1, program.Stdout(bytes(65_536)))
    with pytest.raises(ValueError, match="window"):
        link.send(1, program.Stderr(b"x"))
    assert link.feed(frame(1, program.HostCredit(5))) == [Received(1, program.HostCredit(5))]
    assert link.room(1) == 5
