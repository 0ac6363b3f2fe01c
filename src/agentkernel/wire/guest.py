"""The guest's side, for guests that are written in Python: a confined WebAssembly worker, and the tests' own.

It trusts its host no more than the C agent does. Source: guest/PROTOCOL.md.
"""

from __future__ import annotations

import errno

from agentkernel.wire import attach, control, files, program
from agentkernel.wire.errors import LinkError
from agentkernel.wire.events import Attached, Detached, Event, Received
from agentkernel.wire.fields import Payload
from agentkernel.wire.frames import (
    CONTROL,
    HEADER_BYTES,
    MOST_CHANNELS,
    MOST_PARTS_BYTES,
    WINDOW_BYTES,
    HostKind,
    check_length,
    decode_header,
    encode_frame,
)

_CONTROL: tuple[type[Payload], ...] = (
    control.Hello,
    control.Refresh,
    control.Quiesce,
    control.Resume,
    control.Ping,
    control.Shutdown,
    control.Mount,
)
_REQUESTS: tuple[type[Payload], ...] = (
    program.Exec,
    files.Read,
    files.Write,
    files.TarIn,
    files.Stat,
    files.ListDirectory,
    files.MakeDirectory,
    files.Remove,
    files.Rename,
)
_OTHERS: tuple[type[Payload], ...] = (
    program.Part,
    program.Stdin,
    program.StdinEnd,
    program.Signal,
    program.Resize,
    program.Kill,
    program.HostCredit,
    files.HostData,
    files.End,
    files.Cancel,
)
_BY_KIND: dict[int, type[Payload]] = {each.kind: each for each in (*_CONTROL, *_REQUESTS, *_OTHERS)}


class _Channel:
    """Windows of an open channel, in bytes: what may still be sent, and what may still be received."""

    __slots__ = ("receivable_bytes", "room_bytes")

    def __init__(self) -> None:
        self.room_bytes = WINDOW_BYTES
        self.receivable_bytes = WINDOW_BYTES


class GuestLink:
    """Bytes from a host to events, messages to bytes.

    `feed` never raises: what a host does wrong closes all channels (Detached), and the next ATTACH is hunted for. After
    each `feed`, write what `replies` returns before anything else.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._replies = bytearray()
        self._epoch: bytes | None = None
        self._forget()

    def _forget(self) -> None:
        self._channels: dict[int, _Channel] = {}
        self._parts: dict[int, bytearray] = {}
        self._highest = 0
        self._greeted = False
        self._quiesced = False

    def feed(self, chunk: bytes) -> list[Event]:
        """What the host's next bytes say."""
        self._buffer += chunk
        events: list[Event] = []
        while self._step(events):
            pass
        return events

    def replies(self) -> bytes:
        """What the protocol itself answers: ECHO, and FAILED for a channel that cannot be."""
        replies = bytes(self._replies)
        self._replies.clear()
        return replies

    def send(self, number: int, message: Payload) -> bytes:
        """A frame, b"" for a channel that is closed. Raises ValueError past the window."""
        if self._epoch is None or (number != CONTROL and number not in self._channels):
            return b""
        if isinstance(message, program.Stdout | program.Stderr | files.GuestData):
            channel = self._channels[number]
            if len(message.data) > channel.room_bytes:
                raise ValueError("there is not as much window left")
            channel.room_bytes -= len(message.data)
        if isinstance(message, program.GuestCredit):
            self._channels[number].receivable_bytes += message.consumed
        if message.last:
            del self._channels[number]
        return encode_frame(self._epoch[:4], number, message.kind, message.encode())

    def room(self, number: int) -> int:
        """How many bytes of output may be sent on a channel now; 0 when it is closed."""
        channel = self._channels.get(number)
        return channel.room_bytes if channel else 0

    def is_open(self, number: int) -> bool:
        """Whether the host has opened the channel and it has not ended."""
        return number in self._channels

    def _step(self, events: list[Event]) -> bool:
        """Take one thing from the buffer; False when more bytes are needed."""
        if self._epoch is None:
            return self._hunt(events)
        if len(self._buffer) < len(attach.MARK):
            return False
        try:
            if self._buffer.startswith(attach.MARK):
                return self._reattach(events)
            return self._frame(events, self._epoch[:4])
        except LinkError as error:
            self._epoch = None
            self._forget()
            events.append(Detached(error.reason))
            return True

    def _hunt(self, events: list[Event]) -> bool:
        at = self._buffer.find(attach.MARK)
        if at < 0:
            del self._buffer[: max(0, len(self._buffer) - len(attach.MARK) + 1)]
            return False
        del self._buffer[:at]
        if len(self._buffer) < attach.RECORD_BYTES:
            return False
        if not self._attach(events):
            del self._buffer[:1]
        return True

    def _reattach(self, events: list[Event]) -> bool:
        if len(self._buffer) < attach.RECORD_BYTES:
            return False
        if not self._attach(events):
            raise LinkError("an attach record is not valid")
        return True

    def _attach(self, events: list[Event]) -> bool:
        epoch = attach.decode_attach(bytes(self._buffer[: attach.RECORD_BYTES]))
        if epoch is None:
            return False
        del self._buffer[: attach.RECORD_BYTES]
        self._epoch = epoch
        self._forget()
        self._replies[:] = attach.encode_echo(epoch)
        events.append(Attached(epoch))
        return True

    def _frame(self, events: list[Event], tag: bytes) -> bool:
        if not self._buffer.startswith(tag):
            raise LinkError("a frame does not begin with the tag of the epoch")
        if len(self._buffer) >= 8:
            # As the C agent does: nobody waits for the rest of a header that will be refused.
            check_length(int.from_bytes(self._buffer[4:8], "little"))
        if len(self._buffer) < HEADER_BYTES:
            return False
        length, number, kind = decode_header(tag, memoryview(bytes(self._buffer[:HEADER_BYTES])), 0)
        end = HEADER_BYTES + length
        if len(self._buffer) < end:
            return False
        message = self._message(number, kind, bytes(self._buffer[HEADER_BYTES:end]))
        del self._buffer[:end]
        if message is not None:
            events.append(Received(number, message))
        return True

    def _message(self, number: int, kind: int, payload: bytes) -> Payload | None:
        message_type = _BY_KIND.get(kind)
        if message_type is None or (message_type in _CONTROL) != (number == CONTROL):
            raise LinkError(f"kind {kind} does not belong on channel {number}")
        if (self._quiesced and kind != HostKind.RESUME) or (not self._greeted and kind != HostKind.HELLO):
            raise LinkError("a frame came before HELLO, or between QUIESCE and RESUME")
        self._greeted = True
        self._quiesced = kind == HostKind.QUIESCE
        if message_type is program.Part:
            self._part(number, payload)
            return None
        if message_type in _REQUESTS:
            return self._open(number, message_type.decode(bytes(self._parts.pop(number, b"")) + payload))
        message = message_type.decode(payload)
        return message if number == CONTROL or self._belongs(number, message) else None

    def _part(self, number: int, payload: bytes) -> None:
        part = self._parts.setdefault(number, bytearray())
        part += payload
        if len(part) > MOST_PARTS_BYTES or sum(map(len, self._parts.values())) > 2 * MOST_PARTS_BYTES:
            raise LinkError("the parts of requests are too long")

    def _open(self, number: int, request: Payload) -> Payload | None:
        if number <= self._highest:
            return None
        self._highest = number
        self._channels[number] = _Channel()
        if len(self._channels) <= MOST_CHANNELS:
            return request
        self._replies += self.send(number, program.Failed(errno.EMFILE, "channels"))
        return None

    def _belongs(self, number: int, message: Payload) -> bool:
        channel = self._channels.get(number)
        if channel is None:
            return False
        if isinstance(message, program.HostCredit):
            channel.room_bytes += message.consumed
        if isinstance(message, program.Stdin | files.HostData):
            channel.receivable_bytes -= len(message.data)
            if channel.receivable_bytes < 0:
                self._replies += self.send(number, program.Failed(errno.EOVERFLOW, "window"))
                return False
        return True
