"""The host's side of one attachment.

Source: guest/PROTOCOL.md.
"""

from __future__ import annotations

from collections import deque

from agentkernel.wire import attach, control
from agentkernel.wire.channels import HostChannel, channel_for
from agentkernel.wire.control import Ping, Pong, Quiesce, Quiesced, Resume
from agentkernel.wire.errors import LinkError
from agentkernel.wire.events import Attached, Event, Received
from agentkernel.wire.fields import Payload
from agentkernel.wire.frames import (
    CONTROL,
    MOST_CHANNELS,
    MOST_PARTS_BYTES,
    MOST_PAYLOAD_BYTES,
    WINDOW_BYTES,
    FrameReader,
    HostKind,
    encode_frame,
)
from agentkernel.wire.program import Exec, HostCredit

ANSWERS: dict[type[Payload], type[Payload]] = {
    control.Hello: control.Welcome,
    control.Refresh: control.Refreshed,
    control.Quiesce: control.Quiesced,
    control.Ping: control.Pong,
    control.Shutdown: control.Ending,
    control.Mount: control.Mounted,
}
"""What each control message is answered by; RESUME is by nothing."""

_ANSWER_KINDS: dict[int, type[Payload]] = {answer.kind: answer for answer in ANSWERS.values()}


class HostLink:
    """Bytes from a guest to events, messages to bytes, and every check of what a hostile guest may not do.

    `feed` raises LinkError at the first violation, and from then on every method does. Methods that send return the
    bytes to write, in the order of the calls.

    Args:
        epoch: 16 fresh random bytes that do not begin with `AKLI`.
    """

    def __init__(self, epoch: bytes) -> None:
        self._attach = attach.encode_attach(epoch)
        self._echo = attach.encode_echo(epoch)
        self._epoch = epoch
        self._tag = epoch[:4]
        self._attached = False
        self._hunted = bytearray()
        self._thrown_away_bytes = 0
        self._frames = FrameReader(self._tag)
        self._channels: dict[int, HostChannel] = {}
        self._next = 1
        self._asked: dict[type[Payload], deque[Payload]] = {answer: deque() for answer in ANSWERS.values()}
        self._greeted = False
        self._silent = False
        self._resumed_early = False
        self._ended = False
        self._reason = ""

    # Sending

    def send_attach(self, *, used: bool = False) -> bytes:
        """The record that begins the epoch; the first thing to send. `used`: an earlier host may have stopped inside a
        frame.
        """
        return attach.FLUSH + self._attach if used else self._attach

    def send_control(self, message: Payload) -> bytes:
        """A frame of channel 0. Raises ValueError when its turn has not come (HELLO is the first; QUIESCE and RESUME
        alternate).
        """
        self._check_alive()
        if not self._greeted and not isinstance(message, control.Hello):
            raise ValueError("HELLO is the first frame of an epoch")
        match message:
            case Quiesce():
                self._begin_silence()
            case Resume():
                self._end_silence()
        frame = encode_frame(self._tag, CONTROL, message.kind, message.encode())
        self._greeted = True
        if type(message) in ANSWERS:
            self._asked[ANSWERS[type(message)]].append(message)
        return frame

    def send_request(self, request: Payload) -> tuple[int, bytes]:
        """Open a channel: its number, and the frames. Raises ValueError for what does not fit, and when 64 are open."""
        self._check_alive()
        if not self._greeted or len(self._channels) >= MOST_CHANNELS:
            raise ValueError(f"no more than {MOST_CHANNELS} channels, and none before HELLO")
        channel = channel_for(request)
        number = self._next
        frames = self._cut(number, request.kind, memoryview(request.encode()))
        self._channels[number] = channel
        self._next += 1
        return number, frames

    def send(self, number: int, message: Payload) -> bytes:
        """A frame of an open channel, b"" when it has ended. Raises ValueError for what its request does not allow."""
        self._check_alive()
        channel = self._channels.get(number)
        if channel is None:
            return b""
        if type(message) not in channel.sends or (type(message) is channel.input_end and not channel.input_open):
            raise ValueError(f"{type(message).__name__} does not belong on this channel")
        if type(message) is channel.input_end:
            channel.input_open = False
        return encode_frame(self._tag, number, message.kind, message.encode())

    def send_input(self, number: int, data: bytes | memoryview) -> bytes:
        """STDIN or DATA, b"" when the channel has ended. Raises ValueError past its end, past `room`, and for more
        than a frame.
        """
        self._check_alive()
        channel = self._channels.get(number)
        if channel is None:
            return b""
        if channel.input is None or not channel.input_open or len(data) > channel.room_bytes:
            raise ValueError("this channel takes no input, or not as much now")
        frame = encode_frame(self._tag, number, channel.input.kind, data)
        channel.room_bytes -= len(data)
        return frame

    def send_consumed(self, number: int, size: int) -> bytes:
        """Note that `size` bytes of output were consumed; a CREDIT frame once half a window has gathered, else b""."""
        self._check_alive()
        channel = self._channels.get(number)
        if channel is None:
            return b""
        if size > WINDOW_BYTES - channel.receivable_bytes - channel.uncredited_bytes:
            raise ValueError("more was consumed than came")
        channel.uncredited_bytes += size
        if channel.uncredited_bytes < WINDOW_BYTES // 2:
            return b""
        credit, channel.uncredited_bytes = HostCredit(channel.uncredited_bytes), 0
        channel.receivable_bytes += credit.consumed
        return encode_frame(self._tag, number, credit.kind, credit.encode())

    def room(self, number: int) -> int:
        """How many bytes of input a channel takes now, at most one frame; 0 when it has ended or waits for credit."""
        channel = self._channels.get(number)
        return min(channel.room_bytes, MOST_PAYLOAD_BYTES) if channel else 0

    def is_open(self, number: int) -> bool:
        """Whether the channel has been opened and has not ended."""
        return number in self._channels

    @property
    def open_channels(self) -> int:
        """How many channels are open."""
        return len(self._channels)

    # Receiving

    def feed(self, chunk: bytes | memoryview) -> list[Event]:
        """What the guest's next bytes say. The chunks' sizes change nothing.

        Raises:
            LinkError: a violation; its `events` came before it.
        """
        self._check_alive()
        events: list[Event] = []
        try:
            if not self._attached:
                chunk = self._hunt(chunk, events)
            if self._attached and not self._ended:
                self._read(chunk, events)
        except LinkError as error:
            self._reason = error.reason
            error.events = events
            raise
        return events

    def _hunt(self, chunk: bytes | memoryview, events: list[Event]) -> bytes | memoryview:
        self._hunted += chunk
        at = self._hunted.find(self._echo)
        wasted = at if at >= 0 else max(0, len(self._hunted) - attach.RECORD_BYTES + 1)
        self._thrown_away_bytes += wasted
        if self._thrown_away_bytes > attach.MOST_HUNTED_BYTES:
            raise LinkError("a guest did not answer the attach record")
        if at < 0:
            del self._hunted[:wasted]
            return b""
        rest = bytes(self._hunted[at + attach.RECORD_BYTES :])
        self._hunted.clear()
        self._attached = True
        events.append(Attached(self._epoch))
        return rest

    def _read(self, chunk: bytes | memoryview, events: list[Event]) -> None:
        for number, kind, payload in self._frames.frames(chunk):
            if self._silent:
                raise LinkError("a quiesced guest spoke")
            events.append(Received(number, self._message(number, kind, payload)))
            if self._ended:
                return

    def _message(self, number: int, kind: int, payload: memoryview) -> Payload:
        if number == CONTROL:
            return self._answer(kind, payload)
        channel = self._channels.get(number)
        if channel is None:
            raise LinkError(f"channel {number} is not open")
        message = channel.accept(kind, payload)
        if message.last:
            del self._channels[number]
        return message

    def _answer(self, kind: int, payload: memoryview) -> Payload:
        answer_type = _ANSWER_KINDS.get(kind)
        if answer_type is None or not self._asked[answer_type]:
            raise LinkError(f"kind {kind} answers nothing that was asked")
        question = self._asked[answer_type].popleft()
        answer = answer_type.decode(payload)
        match answer, question:
            case Pong(nonce=heard), Ping(nonce=said) if heard != said:
                raise LinkError("a guest answered another ping")
            case Quiesced(), _:
                self._silent, self._resumed_early = not self._resumed_early, False
            case control.Ending(), _:
                self._ended = True
        return answer

    # States

    def _begin_silence(self) -> None:
        if self._silent or self._asked[Quiesced]:
            raise ValueError("the guest is quiesced, or about to be")

    def _end_silence(self) -> None:
        if not self._silent and (self._resumed_early or not self._asked[Quiesced]):
            raise ValueError("the guest is not quiesced")
        self._resumed_early = not self._silent
        self._silent = False

    def _check_alive(self) -> None:
        if self._reason:
            raise LinkError(self._reason)

    def _cut(self, number: int, kind: int, request: memoryview) -> bytes:
        """The request as one frame; an EXEC that is too long, as PARTs and the frame with the rest."""
        parts_bytes = (len(request) - 1) // MOST_PAYLOAD_BYTES * MOST_PAYLOAD_BYTES
        if parts_bytes > (MOST_PARTS_BYTES if kind == Exec.kind else 0):
            raise ValueError(f"a request of {len(request)} bytes is too long")
        starts = range(0, parts_bytes, MOST_PAYLOAD_BYTES)
        parts = [request[at : at + MOST_PAYLOAD_BYTES] for at in starts]
        frames = [encode_frame(self._tag, number, HostKind.PART, part) for part in parts]
        return b"".join([*frames, encode_frame(self._tag, number, kind, request[parts_bytes:])])
