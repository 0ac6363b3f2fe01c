"""What a host takes from a guest, and what it does not."""

import pytest

from agentkernel.model.execution import ExecRequest, FileEntry
from agentkernel.wire import Attached, HostLink, LinkError, Received, attach, control, files, program
from agentkernel.wire.fields import Payload
from agentkernel.wire.frames import WINDOW_BYTES, GuestKind, encode_frame

EPOCH = bytes(range(1, 17))
TAG = EPOCH[:4]
HELLO = control.Hello(1, bytes(32), 0, "h", bytes(16), 0)
WELCOME = control.Welcome(1, tuple(sorted(control.FEATURES)), (), ())
EXIT = program.Exit(0, 0, 0, 0, 0)


def frame(channel: int, message: Payload) -> bytes:
    return encode_frame(TAG, channel, message.kind, message.encode())


def attached() -> HostLink:
    link = HostLink(EPOCH)
    assert link.send_attach() == attach.encode_attach(EPOCH)
    assert link.feed(attach.encode_echo(EPOCH)) == [Attached(EPOCH)]
    return link


def greeted() -> HostLink:
    link = attached()
    assert link.send_control(HELLO) == frame(0, HELLO)
    assert link.feed(frame(0, WELCOME)) == [Received(0, WELCOME)]
    return link


def running(*, stdin: bool = True) -> HostLink:
    link = greeted()
    link.send_request(program.Exec.of(ExecRequest((b"a",), stdin=stdin)))
    link.feed(frame(1, program.Started(1)))
    return link


def refuses(link: HostLink, data: bytes, words: str) -> None:
    with pytest.raises(LinkError, match=words) as caught:
        link.feed(data)
    with pytest.raises(LinkError, match=words):
        link.feed(b"")
    with pytest.raises(LinkError, match=words):
        link.send_control(control.Ping(1))
    assert caught.value.reason


def test_everything_before_the_echo_of_this_epoch_is_thrown_away() -> None:
    link = HostLink(EPOCH)
    stale = attach.encode_echo(b"\xff" * 16) + b"AKLINK-ECH1\n" + EPOCH + b"\0\0\0\0" + bytes(100_000)
    assert link.feed(stale) == []
    assert link.feed(b"half a frame" + attach.encode_echo(EPOCH)[:20]) == []
    assert link.feed(attach.encode_echo(EPOCH)[20:]) == [Attached(EPOCH)]


def test_a_host_gives_up_after_four_mebibytes_without_an_echo() -> None:
    link = HostLink(EPOCH)
    for _ in range(64):
        assert link.feed(bytes(65_536)) == []
    with pytest.raises(LinkError, match="did not answer"):
        link.feed(bytes(64))


def test_frames_may_follow_the_echo_at_once() -> None:
    link = HostLink(EPOCH)
    link.send_control(HELLO)
    assert link.feed(attach.encode_echo(EPOCH) + frame(0, WELCOME)) == [Attached(EPOCH), Received(0, WELCOME)]


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b"AKLI" + bytes(12), "tag"),
        (TAG + b"\x01\x00\x01\x00" + bytes(8), "65537"),
        (TAG + bytes(8) + b"\x41\x00\x01\x00", "zero bytes"),
        (TAG + bytes(8) + b"\x41\x00\x00\x80", "zero bytes"),
    ],
)
def test_a_wrong_header_is_refused_before_its_payload_is_waited_for(header: bytes, words: str) -> None:
    refuses(greeted(), header, words)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (control.Refreshed(1), "answers nothing"),
        (WELCOME, "answers nothing"),
        (control.Pong(1, 0, 0, 0), "answers nothing"),
        (control.Ending(), "answers nothing"),
        (control.Quiesced(), "answers nothing"),
        (EXIT, "answers nothing"),
    ],
)
def test_control_frames_answer_what_was_asked(message: Payload, words: str) -> None:
    refuses(greeted(), frame(0, message), words)


def test_every_question_has_its_answer() -> None:
    link = greeted()
    questions: list[tuple[Payload, Payload]] = [
        (control.Refresh(1, bytes(32)), control.Refreshed(2)),
        (control.Ping(7), control.Pong(7, 0, 0, 0)),
        (control.Mount("s", "ext4", 1000, ()), control.Mounted(0, "")),
        (HELLO, WELCOME),
    ]
    for question, answer in questions:
        link.send_control(question)
        assert link.feed(frame(0, answer)) == [Received(0, answer)]
        refuses_twice = greeted()
        refuses(refuses_twice, frame(0, answer), "answers nothing")


def test_pings_are_answered_in_order() -> None:
    link = greeted()
    link.send_control(control.Ping(1))
    link.send_control(control.Ping(2))
    refuses(link, frame(0, control.Pong(2, 0, 0, 0)), "another ping")


def test_nothing_is_read_after_the_end() -> None:
    link = greeted()
    link.send_control(control.Shutdown())
    assert link.feed(frame(0, control.Ending()) + b"dying words") == [Received(0, control.Ending())]
    assert link.feed(b"more of them") == []


def test_hello_comes_first() -> None:
    link = attached()
    with pytest.raises(ValueError, match="HELLO"):
        link.send_control(control.Ping(1))
    with pytest.raises(ValueError, match="HELLO"):
        link.send_request(files.Stat("/"))


def test_a_quiesced_guest_is_silent() -> None:
    link = running()
    link.send_control(control.Quiesce())
    assert len(link.feed(frame(1, program.Stdout(b"under way")) + frame(0, control.Quiesced()))) == 2
    refuses(link, frame(1, program.Stdout(b"spoke")), "quiesced")


def test_a_resumed_guest_goes_on() -> None:
    link = running()
    for _ in range(2):
        link.send_control(control.Quiesce())
        with pytest.raises(ValueError, match="quiesced"):
            link.send_control(control.Quiesce())
        link.feed(frame(0, control.Quiesced()))
        with pytest.raises(ValueError, match="quiesced"):
            link.send_control(control.Quiesce())
        assert link.send_control(control.Resume()) == frame(0, control.Resume())
        assert link.feed(frame(1, program.Stdout(b"on")))


def test_a_resume_may_overtake_the_answer_to_quiesce() -> None:
    link = running()
    link.send_control(control.Quiesce())
    link.send_control(control.Resume())
    with pytest.raises(ValueError, match="not quiesced"):
        link.send_control(control.Resume())
    assert link.feed(frame(0, control.Quiesced()) + frame(1, program.Stdout(b"on")))
    with pytest.raises(ValueError, match="not quiesced"):
        link.send_control(control.Resume())


def test_unknown_channels_are_violations() -> None:
    refuses(greeted(), frame(1, EXIT), "channel 1 is not open")


@pytest.mark.parametrize("last", [EXIT, program.Exit(1, 9, 0, 0, 0)])
def test_a_program_ends_once(last: Payload) -> None:
    link = running()
    link.feed(frame(1, last))
    assert not link.is_open(1)
    refuses(link, frame(1, last), "not open")


@pytest.mark.parametrize("early", [program.Stdout(b"x"), program.Stderr(b"x"), EXIT, files.Done()])
def test_nothing_comes_before_started(early: Payload) -> None:
    link = greeted()
    link.send_request(program.Exec.of(ExecRequest((b"a",))))
    refuses(link, frame(1, early), "before")


@pytest.mark.parametrize("late", [program.Started(1), program.Failed(1, ""), files.Done(), files.GuestData(b"x")])
def test_a_program_that_runs_has_output_and_an_end(late: Payload) -> None:
    refuses(running(), frame(1, late), "does not belong to a running program")


def test_a_program_may_fail_to_start() -> None:
    link = greeted()
    link.send_request(program.Exec.of(ExecRequest((b"a",))))
    failed = program.Failed(2, "program: a")
    assert link.feed(frame(1, failed)) == [Received(1, failed)]
    assert link.open_channels == 0


@pytest.mark.parametrize("kind", [GuestKind.STDOUT, GuestKind.STDERR])
def test_empty_output_would_be_free_and_is_refused(kind: int) -> None:
    refuses(running(), encode_frame(TAG, 1, kind), "empty")


def test_a_guest_that_sends_past_its_window_is_broken() -> None:
    link = running()
    for _ in range(2):
        link.feed(frame(1, program.Stdout(bytes(65_536))))
        link.feed(frame(1, program.Stderr(bytes(65_536))))
    refuses(link, frame(1, program.Stdout(b"x")), "window")


def test_credit_is_given_at_half_a_window_and_opens_it_again() -> None:
    link = running()
    assert link.send_consumed(1, 0) == b""
    with pytest.raises(ValueError, match="more was consumed"):
        link.send_consumed(1, 1)
    for _ in range(4):
        link.feed(frame(1, program.Stdout(bytes(65_536))))
    assert link.send_consumed(1, 65_536) == b""
    assert link.send_consumed(1, 65_536) == frame(1, program.HostCredit(131_072))
    with pytest.raises(ValueError, match="more was consumed"):
        link.send_consumed(1, 131_073)
    link.feed(frame(1, program.Stdout(bytes(65_536))) * 2)
    refuses(link, frame(1, program.Stdout(b"x")), "window")


def test_input_needs_room_and_credit_gives_it() -> None:
    link = running()
    for _ in range(4):
        assert link.room(1) == 65_536
        assert link.send_input(1, bytes(65_536)) == frame(1, program.Stdin(bytes(65_536)))
    assert link.room(1) == 0
    with pytest.raises(ValueError, match="not as much"):
        link.send_input(1, b"x")
    link.feed(frame(1, program.GuestCredit(10)))
    assert link.room(1) == 10
    refuses(link, frame(1, program.GuestCredit(WINDOW_BYTES - 10 + 1)), "consumed nothing, or more")


def test_credit_for_nothing_is_refused() -> None:
    link = running()
    link.send_input(1, b"x")
    refuses(link, frame(1, program.GuestCredit(0)), "nothing")


def test_input_longer_than_a_frame_is_refused_and_costs_nothing() -> None:
    link = running()
    with pytest.raises(ValueError, match="a frame carries"):
        link.send_input(1, bytes(65_537))
    assert link.send_input(1, bytes(65_536))


def test_a_program_without_input_takes_none() -> None:
    link = running(stdin=False)
    with pytest.raises(ValueError, match="no input"):
        link.send_input(1, b"x")
    with pytest.raises(ValueError, match="does not belong"):
        link.send(1, program.StdinEnd())


def test_input_ends_once() -> None:
    link = running()
    assert link.send(1, program.StdinEnd()) == frame(1, program.StdinEnd())
    with pytest.raises(ValueError, match="does not belong"):
        link.send(1, program.StdinEnd())
    with pytest.raises(ValueError, match="no input"):
        link.send_input(1, b"x")


def test_what_is_sent_to_an_ended_channel_is_dropped() -> None:
    link = running()
    link.feed(frame(1, EXIT))
    assert link.send(1, program.Kill()) == link.send_input(1, b"x") == link.send_consumed(1, 5) == b""
    assert link.room(1) == 0


def test_messages_belong_to_their_kind_of_channel() -> None:
    link = running()
    with pytest.raises(ValueError, match="Cancel does not belong"):
        link.send(1, files.Cancel())
    with pytest.raises(ValueError, match="does not open"):
        link.send_request(program.Kill())


def test_sixty_four_channels_are_open_at_once() -> None:
    link = greeted()
    for _ in range(64):
        link.send_request(files.Stat("/"))
    with pytest.raises(ValueError, match="64"):
        link.send_request(files.Stat("/"))
    link.feed(frame(3, program.Failed(2, "/")))
    assert link.send_request(files.Stat("/"))[0] == 65


@pytest.mark.parametrize("size", [10, 65_536, 65_537, 200_000, 2 * 1024 * 1024])
def test_a_long_exec_is_cut_into_parts(size: int) -> None:
    link = greeted()
    request = program.Exec(0, 0, 0, (b"a" * (size - 40),), (), "/w", "", ())
    spelled = request.encode()
    _, frames = link.send_request(request)
    joined, kinds = b"", []
    while frames:
        length = int.from_bytes(frames[4:8], "little")
        kinds.append(frames[12])
        joined += frames[16 : 16 + length]
        frames = frames[16 + length :]
    assert joined == spelled
    assert kinds == [15] * (len(kinds) - 1) + [16]


def test_a_request_that_is_too_long_is_refused_and_opens_nothing() -> None:
    link = greeted()
    with pytest.raises(ValueError, match="too long"):
        link.send_request(program.Exec(0, 0, 0, (b"a" * (2 * 1024 * 1024 + 70_000),), (), "/", "", ()))
    with pytest.raises(ValueError, match="too long"):
        link.send_request(files.Write("/a", 0, 0, "x" * 70_000))
    assert link.send_request(files.Stat("/"))[0] == 1


def test_a_file_is_read_up_to_what_was_asked_for() -> None:
    link = greeted()
    link.send_request(files.Read("/a", 0, 10))
    data, done = files.GuestData(b"123456"), files.ReadDone(6, 0o644)
    assert link.feed(frame(1, data) + frame(1, done)) == [Received(1, data), Received(1, done)]
    link.send_request(files.Read("/a", 0, 10))
    link.feed(frame(2, data))
    refuses(link, frame(2, files.GuestData(b"12345")), "more of a file")


def test_empty_data_is_refused() -> None:
    link = greeted()
    link.send_request(files.Read("/a", 0, 10))
    refuses(link, encode_frame(TAG, 1, GuestKind.DATA), "empty")


def test_a_file_is_written_when_all_of_it_was_sent() -> None:
    link = greeted()
    for number, request in enumerate((files.Write("/a", 0, 0, ""), files.TarIn("/a", 0, "")), 1):
        link.send_request(request)
        assert link.send_input(number, b"abc") == frame(number, files.HostData(b"abc"))
        assert link.send(number, files.End()) == frame(number, files.End())
        done = files.CountDone(3)
        assert link.feed(frame(number, done)) == [Received(number, done)]
    link.send_request(files.Write("/a", 0, 0, ""))
    refuses(link, frame(3, files.CountDone(0)), "before it had everything")


def test_a_cancelled_request_still_ends() -> None:
    link = greeted()
    link.send_request(files.Write("/a", 0, 0, ""))
    assert link.send(1, files.Cancel()) == frame(1, files.Cancel())
    failed = program.Failed(125, "")
    assert link.feed(frame(1, failed)) == [Received(1, failed)]


def test_entries_are_bounded_in_number() -> None:
    link = greeted()
    link.send_request(files.ListDirectory("/a"))
    entry = FileEntry("n", "f", 0, 0, 0, 0, 0)
    many = files.Entries((entry,) * 1024)
    for _ in range(64):
        link.feed(frame(1, many))
    refuses(link, frame(1, files.Entries((entry,))), "65536")


def test_frames_without_entries_are_bounded_too() -> None:
    link = greeted()
    link.send_request(files.ListDirectory("/a"))
    empty = frame(1, files.Entries(()))
    for _ in range(64):
        link.feed(empty * 1024)
    refuses(link, empty, "65536")


def test_a_directory_and_a_path_are_described() -> None:
    link = greeted()
    entry = FileEntry("n", "f", 0, 0, 0, 0, 0)
    link.send_request(files.ListDirectory("/a"))
    link.send_request(files.Stat("/a"))
    link.send_request(files.Rename("/a", "/b"))
    answers: list[tuple[int, Payload]] = [
        (1, files.Entries((entry,))),
        (1, files.Done()),
        (2, files.StatDone(entry)),
        (3, files.Done()),
    ]
    for number, answer in answers:
        assert link.feed(frame(number, answer)) == [Received(number, answer)]


@pytest.mark.parametrize("wrong", [program.GuestCredit(0), files.GuestData(b"x"), program.Started(1), EXIT])
def test_what_does_not_belong_on_a_channel_is_a_violation(wrong: Payload) -> None:
    link = greeted()
    link.send_request(files.Stat("/a"))
    refuses(link, frame(1, wrong), "does not belong on this channel")


def test_what_was_valid_before_a_violation_is_told_with_it() -> None:
    link = running()
    with pytest.raises(LinkError) as caught:
        link.feed(frame(1, program.Stdout(b"true")) + frame(1, EXIT) + frame(1, EXIT))
    assert caught.value.events == [Received(1, program.Stdout(b"true")), Received(1, EXIT)]


def test_large_frames_come_whole_through_any_chunks() -> None:
    data = bytes(range(256)) * 256
    stream = frame(1, program.Stdout(data)) * 4
    for size in (1, 15, 16, 17, 4096, 65_551, 65_552, 65_553, len(stream)):
        link = running()
        seen = [event for at in range(0, len(stream), size) for event in link.feed(stream[at : at + size])]
        assert seen == [Received(1, program.Stdout(data))] * 4
