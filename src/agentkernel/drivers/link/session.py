"""One attachment: the tasks that read and write, the channels, and the one reason why it is broken."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar

import anyio
from anyio.abc import ByteStream

from agentkernel.drivers.link.bell import Bell
from agentkernel.drivers.link.outbox import Outbox
from agentkernel.model.errors import Broken, Busy, Refused
from agentkernel.wire import HostLink, LinkError, Received
from agentkernel.wire.control import Quiesce, Resume
from agentkernel.wire.events import Event
from agentkernel.wire.fields import Payload
from agentkernel.wire.files import GuestData
from agentkernel.wire.frames import MOST_CHANNELS
from agentkernel.wire.host import ANSWERS
from agentkernel.wire.program import Stderr, Stdout

READ_BYTES = 262_144
LAST_WORDS_S = 1.0
"""How long a stream that cannot be written any more is still read."""

Answer = TypeVar("Answer", bound=Payload)
Sent = TypeVar("Sent")


class Receiver(Protocol):
    """Who gets the messages of a channel."""

    def received(self, message: Payload) -> None:
        """Take one; never waits. The window bounds what can come before it is consumed."""

    def broken(self) -> None:
        """Nothing will come any more: wake whoever waits."""


class _Question:
    """A control message without its answer. A caller that was cancelled leaves it behind, for the answer to find."""

    __slots__ = ("answer", "bell")

    def __init__(self) -> None:
        self.answer: Payload | None = None
        self.bell = Bell()


class Session:
    """What LinkGuest, its processes and its file operations share.

    Args:
        stream: read and written by this alone while it runs; closed by whoever made it.
    """

    def __init__(self, stream: ByteStream, epoch: bytes) -> None:
        self._stream = stream
        self._link = HostLink(epoch)
        self._outbox = Outbox(stream)
        self._receivers: dict[int, Receiver] = {}
        self._questions: dict[type[Payload], deque[_Question]] = {answer: deque() for answer in ANSWERS.values()}
        self._attached = False
        self._reason = ""
        self._changed = Bell()

    # The tasks

    async def read(self) -> None:
        """Hand out what comes until the link is broken."""
        try:
            while not self._reason:
                self._hand_out(self._link.feed(await self._stream.receive(READ_BYTES)))
        except LinkError as error:
            # First the reason: nothing can be sent any more. Whoever waits still finds these events before it.
            self.fail(error.reason)
            self._hand_out(error.events)
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            # How a stream ends (at its end, or reset because something was unread) says nothing about the guest.
            self.fail("the guest's stream ended")

    async def write(self) -> None:
        """Write what is queued until the stream fails."""
        try:
            await self._outbox.run()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as error:
            # What the guest said before it went is still to be read, and the reader's reason is the better one if it
            # comes.
            with anyio.move_on_after(LAST_WORDS_S):
                await self.wait_broken()
            self.fail(f"the guest's stream cannot be written: {type(error).__name__}")

    def _hand_out(self, events: list[Event]) -> None:
        for event in events:
            if not isinstance(event, Received):
                self._attached = True
                self._changed.ring()
            elif event.channel:
                self._receivers[event.channel].received(event.message)
                if event.message.last:
                    del self._receivers[event.channel]
            else:
                question = self._questions[type(event.message)].popleft()
                question.answer = event.message
                question.bell.ring()

    def fail(self, reason: str) -> None:
        """The sandbox is broken, for the first reason that is given."""
        if self._reason:
            return
        self._reason = reason
        self._outbox.close()
        self._changed.ring()
        for receiver in self._receivers.values():
            receiver.broken()
        for questions in self._questions.values():
            for question in questions:
                question.bell.ring()

    def check(self) -> None:
        """Raise Broken when the link is."""
        if self._reason:
            raise Broken(f"the sandbox is gone: {self._reason}")

    async def wait_broken(self) -> str:
        """The reason, once there is one."""
        while not self._reason:
            await self._changed.heard()
        return self._reason

    # Control

    async def attach(self, *, used: bool) -> None:
        """Begin the epoch. Returns when the guest has echoed it."""
        self._outbox.push(self._link.send_attach(used=used))
        while not self._attached:
            self.check()
            await self._changed.heard()
        self.check()

    def tell(self, message: Payload, answer_type: type[Payload]) -> None:
        """Send a control message whose answer, when it comes, nobody waits for."""
        self.check()
        self._sent(message, answer_type)

    async def ask(self, message: Payload, answer_type: type[Answer]) -> Answer:
        """Send a control message and wait for its answer."""
        self.check()
        question = self._sent(message, answer_type)
        return await self._answer(question, answer_type)

    def _sent(self, message: Payload, answer_type: type[Payload]) -> _Question:
        frame = refusing(lambda: self._link.send_control(message))
        question = _Question()
        self._questions[answer_type].append(question)
        if isinstance(message, Quiesce):
            self._outbox.hold(frame)
        else:
            self._outbox.push(frame)
        return question

    async def _answer(self, question: _Question, answer_type: type[Answer]) -> Answer:
        while question.answer is None:
            self.check()
            await question.bell.heard()
        if not isinstance(question.answer, answer_type):
            raise TypeError("an answer was given to another question")
        return question.answer

    def take_back_quiesce(self) -> None:
        """Resume, unless the link is broken: for a caller that is cancelled, and must not get another error for it."""
        if not self._reason:
            self.resume()

    def resume(self) -> None:
        """Let the guest speak again, and send what was held back."""
        self.check()
        self._outbox.release(refusing(lambda: self._link.send_control(Resume())))

    # Channels

    def open(self, request: Payload, receiver: Receiver) -> int:
        """Send a request; its channel's messages go to `receiver`. Raises Busy when too many are open, Refused for
        what cannot be sent.
        """
        self.check()
        if self._link.open_channels >= MOST_CHANNELS:
            raise Busy(f"{MOST_CHANNELS} operations are under way in this sandbox")
        number, frames = refusing(lambda: self._link.send_request(request))
        self._receivers[number] = receiver
        self._outbox.push(frames)
        return number

    def send(self, number: int, message: Payload) -> None:
        """Send a message on a channel; nothing happens when it has ended."""
        self.check()
        self._outbox.push(refusing(lambda: self._link.send(number, message)))

    async def room(self) -> None:
        """Wait until something long may be sent."""
        await self._outbox.room()

    async def send_input(self, number: int, bell: Bell, content: bytes) -> None:
        """Send input, one frame each turn, as the guest gives credit; what comes after the channel's end is dropped.

        Args:
            bell: rung by the channel's receiver for credit and at the end.
        """
        view = memoryview(content)
        while view and self._link.is_open(number):
            self.check()
            if not self._link.room(number):
                await bell.heard()
                continue
            await self._outbox.room()
            self.check()
            piece = view[: self._link.room(number)]
            self._outbox.push(refusing(partial(self._link.send_input, number, piece)))
            view = view[len(piece) :]
        self.check()

    def consumed(self, number: int, size: int) -> None:
        """Output was taken: give the guest credit for it."""
        if not self._reason:
            self._outbox.push(self._link.send_consumed(number, size))

    def abandon(self, number: int, farewell: Payload, unread_bytes: int = 0) -> None:
        """Say that, and throw away what still comes on a channel until it ends. Never waits, so that a cancelled
        caller can do it.
        """
        if self._reason or not self._link.is_open(number):
            return
        self._receivers[number] = _Drain(self, number)
        self.consumed(number, unread_bytes)
        self.send(number, farewell)


class _Drain:
    """Receives for a caller who has left."""

    def __init__(self, session: Session, number: int) -> None:
        self._session = session
        self._number = number

    def received(self, message: Payload) -> None:
        if isinstance(message, Stdout | Stderr | GuestData):
            self._session.consumed(self._number, len(message.data))

    def broken(self) -> None:
        """Nobody waits."""


def refusing(encode: Callable[[], Sent]) -> Sent:
    """Run something of `wire` that rejects a caller's mistake, and say Refused where it says ValueError."""
    try:
        return encode()
    except ValueError as err:
        raise Refused(f"cannot be sent to a sandbox: {err}") from err
