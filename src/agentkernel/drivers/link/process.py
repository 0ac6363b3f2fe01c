"""A program that runs behind a link."""

from __future__ import annotations

from agentkernel.drivers.contract import Process
from agentkernel.drivers.link.bell import Bell
from agentkernel.drivers.link.session import Session, refusing
from agentkernel.drivers.link.words import printable
from agentkernel.model import execution as model
from agentkernel.model.errors import Refused
from agentkernel.wire import program
from agentkernel.wire.backlog import Backlog
from agentkernel.wire.fields import Payload


def event_of(message: Payload) -> model.ExecEvent | None:
    """What a message of an exec channel tells a caller; None for credit."""
    match message:
        case program.Stdout(data=data):
            return model.Stdout(data)
        case program.Stderr(data=data):
            return model.Stderr(data)
        case program.Started(pid=pid):
            return model.Started(pid)
        case program.Failed(errno=errno, what=what):
            return model.NotStarted(errno, printable(what))
        case program.Exit(how=how, code=code):
            usage = (message.user_us, message.system_us, message.peak_kib)
            return model.Exited(128 + code, code, *usage) if how else model.Exited(code, None, *usage)
        case _:
            return None


class LinkProcess(Process):
    """Made by LinkGuest.exec. For one reader: its iterator is itself, and goes on where it was left."""

    def __init__(self, session: Session, request: model.ExecRequest) -> None:
        self._session = session
        self._bell = Bell()
        self._backlog = Backlog()
        self._ended = False
        self._abandoned = False
        self._stdin_open = request.stdin
        self._channel = session.open(refusing(lambda: program.Exec.of(request)), self)

    # What the session calls

    def received(self, message: Payload) -> None:
        """Keep an event until it is read."""
        event = event_of(message)
        if event is not None:
            self._backlog.put(event)
        self._bell.ring()

    def broken(self) -> None:
        """Wake the reader, and whoever sends input."""
        self._bell.ring()

    # What callers call

    def __aiter__(self) -> LinkProcess:
        return self

    async def __anext__(self) -> model.ExecEvent:
        while not self._backlog:
            if self._ended or self._abandoned:
                raise StopAsyncIteration
            self._session.check()
            await self._bell.heard()
        event = self._backlog.take()
        match event:
            case model.Stdout() | model.Stderr():
                self._session.consumed(self._channel, len(event.data))
            case model.Exited() | model.NotStarted():
                self._ended = True
        return event

    async def send_stdin(self, data: bytes) -> None:
        """Pass input on, a frame at a time; a caller that is cancelled has sent some of it. Raises Refused when stdin
        is not open.
        """
        if not self._stdin_open:
            raise Refused("the program's input is not open", hint="ask for it with `stdin` in the request")
        await self._session.send_input(self._channel, self._bell, data)

    async def close_stdin(self) -> None:
        """End of input; again is fine."""
        if self._stdin_open:
            self._session.send(self._channel, program.StdinEnd())
            self._stdin_open = False

    async def signal(self, number: int) -> None:
        """Send a signal to the process group. Raises Refused for a number that is none."""
        if not 0 < number <= program.MOST_SIGNAL:
            raise Refused(f"{number} is no signal")
        self._session.send(self._channel, program.Signal(number))

    async def resize(self, rows: int, columns: int) -> None:
        """Give the terminal another size."""
        self._session.send(self._channel, program.Resize(rows, columns))

    async def kill(self) -> None:
        """Never waits. Keep reading: the end comes after the output that was under way."""
        self._session.send(self._channel, program.Kill())

    def abandon(self) -> None:
        """Kill it, throw away what it still says, and free its channel at its end. Never waits or fails; reading ends
        at once.
        """
        self._abandoned = True
        unread_bytes = self._backlog.clear()
        self._session.abandon(self._channel, program.Kill(), unread_bytes)
        self._bell.ring()
