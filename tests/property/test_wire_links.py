"""The two ends of the guest link, held to each other and to noise."""

from __future__ import annotations

import importlib.util
import tracemalloc
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from agentkernel.model.execution import ExecRequest
from agentkernel.wire import Attached, GuestLink, HostLink, LinkError, Received, attach, control, files, program
from agentkernel.wire.events import Event
from agentkernel.wire.fields import Payload
from agentkernel.wire.frames import MOST_PAYLOAD_BYTES, WINDOW_BYTES, GuestKind, encode_frame

_SPEC = importlib.util.spec_from_file_location("wire_strategies", Path(__file__).with_name("wire_strategies.py"))
assert _SPEC
assert _SPEC.loader
say = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(say)

EPOCH = bytes(range(1, 17))
TAG = EPOCH[:4]
HELLO = control.Hello(1, bytes(32), 0, "h", bytes(16), 0)
WELCOME = control.Welcome(1, tuple(sorted(control.FEATURES)), (), ())
REQUESTS: list[Payload] = [
    program.Exec.of(ExecRequest((b"a",), stdin=True)),
    files.Read("/a", 0, 2**40),
    files.Write("/a", 0, 0, ""),
    files.ListDirectory("/a"),
    files.Stat("/a"),
    files.Remove("/a", 0),
]


def busy_host() -> HostLink:
    """A host that has asked for everything and waits for it."""
    link = HostLink(EPOCH)
    link.feed(attach.encode_echo(EPOCH))
    for message in (HELLO, control.Ping(1), control.Refresh(0, bytes(32)), control.Mount("s", "f", 0, ())):
        link.send_control(message)
    for request in REQUESTS:
        link.send_request(request)
    return link


def everything(link: HostLink, chunks: list[bytes]) -> tuple[list[Event], str]:
    """All events of a stream, and why it ended early."""
    events: list[Event] = []
    for chunk in chunks:
        try:
            events += link.feed(chunk)
        except LinkError as error:
            return [*events, *error.events], error.reason
    return events, ""


@given(st.one_of(say.FROM_HOST, say.FROM_GUEST))
def test_every_payload_is_read_back_as_it_was_written(message: Payload) -> None:
    assert type(message).decode(message.encode()) == message


GUEST_FRAME = st.builds(
    lambda number, message: encode_frame(TAG, number, message.kind, message.encode()),
    st.integers(0, len(REQUESTS) + 1),
    say.FROM_GUEST,
)
PLAUSIBLE = st.lists(GUEST_FRAME, max_size=12).map(b"".join)
HONEST = b"".join(
    encode_frame(TAG, number, message.kind, message.encode())
    for number, message in [
        (0, WELCOME),
        (1, program.Started(1)),
        (1, program.Stdout(b"o" * 5000)),
        (0, control.Pong(1, 0, 0, 0)),
        (2, files.GuestData(b"d" * 5000)),
        (4, files.Entries(())),
        (4, files.Done()),
        (1, program.Exit(0, 0, 0, 0, 0)),
        (2, files.ReadDone(5000, 0)),
    ]
)


@given(st.data(), st.one_of(PLAUSIBLE, st.binary(max_size=400), st.just(HONEST)))
def test_any_chunking_gives_a_host_the_same_events_and_the_same_end(data: st.DataObject, stream: bytes) -> None:
    whole = everything(busy_host(), [stream])
    assert everything(busy_host(), data.draw(say.chunked(stream))) == whole
    assert everything(busy_host(), [stream[at : at + 1] for at in range(len(stream))]) == whole


@given(st.data(), st.lists(st.integers(0, 255), max_size=5), st.lists(st.integers(0, len(HONEST) - 1), max_size=5))
def test_a_mutated_stream_raises_nothing_but_link_error(
    data: st.DataObject, values: list[int], places: list[int]
) -> None:
    stream = bytearray(HONEST)
    for place, value in zip(places, values, strict=False):
        stream[place] = value
    events, _ = everything(busy_host(), data.draw(say.chunked(bytes(stream))))
    assert len(events) <= 9


@given(st.sampled_from(list(GuestKind)), st.integers(0, len(REQUESTS)), st.binary(max_size=200))
def test_any_payload_of_any_kind_raises_nothing_but_link_error(kind: GuestKind, number: int, payload: bytes) -> None:
    everything(busy_host(), [encode_frame(TAG, number, kind, payload)])


@given(say.EPOCHS, say.EPOCHS, st.binary(max_size=200))
def test_a_stale_epoch_is_never_taken_for_the_new_one(old: bytes, new: bytes, noise: bytes) -> None:
    if old == new:
        return
    stale = attach.encode_echo(old) + encode_frame(old[:4], 0, WELCOME.kind, WELCOME.encode()) + noise
    link = HostLink(new)
    assert link.feed(stale) == []
    assert link.feed(attach.encode_echo(new)) == [Attached(new)]


@given(st.data(), st.lists(say.FROM_HOST, max_size=8), st.binary(max_size=100))
def test_any_chunking_gives_a_guest_the_same_events(data: st.DataObject, messages: list[Payload], noise: bytes) -> None:
    frames = [encode_frame(TAG, number, each.kind, each.encode()) for number, each in enumerate(messages, 1)]
    hello = encode_frame(TAG, 0, HELLO.kind, HELLO.encode())
    stream = noise + attach.encode_attach(EPOCH) + hello + b"".join(frames) + noise + attach.encode_attach(EPOCH)
    whole, pieces = GuestLink(), GuestLink()
    seen = whole.feed(stream)
    assert [event for chunk in data.draw(say.chunked(stream)) for event in pieces.feed(chunk)] == seen
    assert Attached(EPOCH) in seen


def test_no_stream_makes_a_host_hold_more_than_its_windows() -> None:
    flood = encode_frame(TAG, 1, GuestKind.STDOUT, b"x")
    link = busy_host()
    link.feed(encode_frame(TAG, 0, WELCOME.kind, WELCOME.encode()))
    link.feed(encode_frame(TAG, 1, GuestKind.STARTED, b"\1\0\0\0"))
    tracemalloc.start()
    try:
        taken = 0
        for _ in range(WINDOW_BYTES // 64):
            taken += len(link.feed(flood * 64))
        try:
            link.feed(flood)
        except LinkError as error:
            assert "window" in error.reason
        half = encode_frame(TAG, 1, GuestKind.STDOUT, bytes(MOST_PAYLOAD_BYTES))[:-1]
        other = busy_host()
        for at in range(0, len(half), 7):
            other.feed(half[at : at + 7])
        assert taken == WINDOW_BYTES
        assert tracemalloc.get_traced_memory()[1] < 4 * MOST_PAYLOAD_BYTES
    finally:
        tracemalloc.stop()


class BothEnds(RuleBasedStateMachine):
    """A host and a guest in memory; bytes move when the rules say so, and neither ever finds fault with the other."""

    channels = Bundle("channels")

    def __init__(self) -> None:
        super().__init__()
        self.host, self.guest = HostLink(EPOCH), GuestLink()
        self.to_guest = bytearray(self.host.send_attach() + self.host.send_control(HELLO))
        self.to_host = bytearray()
        self.sent: dict[int, int] = {}
        self.read: dict[int, int] = {}
        self.unread: dict[int, int] = {}
        self.written: dict[int, int] = {}
        self.arrived: dict[int, int] = {}
        self.uncredited: dict[int, int] = {}

    @rule(size=st.integers(1, 300_000))
    def move_to_guest(self, size: int) -> None:
        chunk = bytes(self.to_guest[:size])
        del self.to_guest[:size]
        for event in self.guest.feed(chunk):
            self.to_host += self.guest.replies()
            match event:
                case Received(0, control.Hello()):
                    self.to_host += self.guest.send(0, WELCOME)
                case Received(0, control.Ping(nonce=nonce)):
                    self.to_host += self.guest.send(0, control.Pong(nonce, 0, 0, 0))
                case Received(number, program.Exec()):
                    self.to_host += self.guest.send(number, program.Started(number))
                case Received(number, program.Stdin(data=data)):
                    self.arrived[number] += len(data)
                    self.uncredited[number] += len(data)
                case Received(number, program.Kill()):
                    self.to_host += self.guest.send(number, program.Exit(1, 9, 0, 0, 0))
                case Attached() | Received():
                    pass
                case _:
                    raise AssertionError(event)

    @rule(size=st.integers(1, 300_000))
    def move_to_host(self, size: int) -> None:
        chunk = bytes(self.to_host[:size])
        del self.to_host[:size]
        for event in self.host.feed(chunk):
            match event:
                case Received(number, program.Stdout(data=data)):
                    self.unread[number] += len(data)
                    self.read[number] += len(data)

    @rule()
    def ping(self) -> None:
        self.to_guest += self.host.send_control(control.Ping(1))

    @precondition(lambda self: self.host.open_channels < 3)
    @rule(target=channels)
    def start(self) -> int:
        number, frames = self.host.send_request(REQUESTS[0])
        self.to_guest += frames
        for counts in (self.sent, self.read, self.unread, self.written, self.arrived, self.uncredited):
            counts[number] = 0
        return number

    @rule(number=channels, size=st.integers(1, MOST_PAYLOAD_BYTES))
    def print(self, number: int, size: int) -> None:
        size = min(size, self.guest.room(number))
        if size:
            self.to_host += self.guest.send(number, program.Stdout(bytes(size)))
            self.sent[number] += size

    @rule(number=channels)
    def consume(self, number: int) -> None:
        self.to_guest += self.host.send_consumed(number, self.unread[number])
        self.unread[number] = 0

    @rule(number=channels)
    def type(self, number: int) -> None:
        size = self.host.room(number)
        if size:
            self.to_guest += self.host.send_input(number, bytes(size))
            self.written[number] += size

    @rule(number=channels)
    def digest(self, number: int) -> None:
        if self.uncredited[number]:
            self.to_host += self.guest.send(number, program.GuestCredit(self.uncredited[number]))
            self.uncredited[number] = 0

    @rule(number=consumes(channels))
    def kill(self, number: int) -> None:
        self.to_guest += self.host.send(number, program.Kill())

    @invariant()
    def no_window_is_overrun(self) -> None:
        for number in self.sent:
            assert self.sent[number] - self.read[number] <= WINDOW_BYTES
            assert self.unread[number] <= WINDOW_BYTES
            assert self.written[number] - self.arrived[number] + self.uncredited[number] <= WINDOW_BYTES


BothEnds.TestCase.settings = settings(max_examples=40, stateful_step_count=60, deadline=None)
TestBothEnds = BothEnds.TestCase
