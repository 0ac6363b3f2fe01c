"""The simulated guest: answers the guest link as an agent does."""

from __future__ import annotations

import errno
from collections.abc import Callable

import anyio
from anyio.abc import ByteStream, TaskGroup

from agentkernel.drivers.fake.programs import PROGRAMS
from agentkernel.drivers.fake.tree import Tree
from agentkernel.drivers.link.bell import Bell
from agentkernel.drivers.link.outbox import Outbox
from agentkernel.wire import GuestLink, Received, control, files, program
from agentkernel.wire.fields import Payload
from agentkernel.wire.frames import GENERATION, MOST_PAYLOAD_BYTES

READ_BYTES = 262_144


class SimulatedGuest:
    """One guest on one stream, until the stream ends or `die`.

    Args:
        refused: features that it does not have.
    """

    def __init__(self, stream: ByteStream, *, refused: frozenset[str] = frozenset()) -> None:
        self.link = GuestLink()
        self.outbox = Outbox(stream)
        self.tree = Tree()
        self.credited = Bell()
        self.greetings = 0
        self.deaf = False
        self._stream = stream
        self._refused = refused
        self._running: dict[int, _Running] = {}
        self._inputs: dict[int, tuple[Payload, bytearray]] = {}
        self._dead = anyio.Event()
        self._going = anyio.Event()
        self._going.set()

    @property
    def paused(self) -> bool:
        """It takes nothing in; what it does not read waits in its stream."""
        return not self._going.is_set()

    def pause(self) -> None:
        """Take nothing in until `unpause`."""
        if self._going.is_set():
            self._going = anyio.Event()

    def unpause(self) -> None:
        """Go on."""
        self._going.set()

    def die(self) -> None:
        """End the stream, at once and without a word."""
        self._dead.set()

    async def run(self) -> None:
        """Answer until the end."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._listen, tasks)
                tasks.start_soon(self._write)
                await self._dead.wait()
                tasks.cancel_scope.cancel()
        finally:
            await anyio.aclose_forcefully(self._stream)

    async def _write(self) -> None:
        try:
            await self.outbox.run()
        except anyio.BrokenResourceError:
            self.die()

    async def _listen(self, tasks: TaskGroup) -> None:
        try:
            while True:
                chunk = await self._stream.receive(READ_BYTES)
                await self._going.wait()
                self._handle(chunk, tasks)
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            self.die()

    def _handle(self, chunk: bytes, tasks: TaskGroup) -> None:
        events = self.link.feed(chunk)
        self.outbox.push(self.link.replies())
        for event in events:
            if not isinstance(event, Received):
                self._forget()
            elif event.channel:
                self._channel(event.channel, event.message, tasks)
            else:
                self._control(event.message)

    def _forget(self) -> None:
        """A new epoch, or none: programs go on, and nobody hears them."""
        self._running.clear()
        self._inputs.clear()

    def say(self, number: int, message: Payload) -> None:
        """Send a message, if the channel is still there."""
        if self.deaf:
            return
        self.outbox.push(self.link.send(number, message))

    def _control(self, message: Payload) -> None:
        match message:
            case control.Hello():
                self.greetings += 1
                had = tuple(sorted(control.FEATURES - self._refused))
                facts = ("arch=x86_64", "kernel=none", "agent=simulated", "transport=socketpair")
                self.say(0, control.Welcome(GENERATION, had, tuple(sorted(self._refused)), facts))
            case control.Refresh():
                self.greetings += 1
                self.say(0, control.Refreshed(self.greetings))
            case control.Ping(nonce=nonce):
                self.say(0, control.Pong(nonce, len(self._running), 0, 0))
            case control.Mount():
                self.say(0, control.Mounted(0, ""))
            case control.Quiesce():
                self.outbox.hold(self.link.send(0, control.Quiesced()))
            case control.Resume():
                self.outbox.release(b"")
            case control.Shutdown():
                self.say(0, control.Ending())

    def _channel(self, number: int, message: Payload, tasks: TaskGroup) -> None:
        running = self._running.get(number)
        match message:
            case program.Exec():
                self._start(number, message, tasks)
            case program.HostCredit():
                self.credited.ring()
            case files.Read():
                tasks.start_soon(self._read, number, message)
            case files.Write() | files.TarIn():
                self._inputs[number] = (message, bytearray())
            case files.HostData() | files.End() | files.Cancel():
                self._file_input(number, message)
            case _ if running is not None:
                running.received(message)
            case _:
                self._simple(number, message)

    def _start(self, number: int, request: program.Exec, tasks: TaskGroup) -> None:
        name = request.argv[0].rpartition(b"/")[2]
        if name == b"deaf":
            self.deaf = True
        elif name in PROGRAMS:
            self._running[number] = _Running(self, number, request)
            tasks.start_soon(self._running[number].run)
        else:
            self.say(number, program.Failed(errno.ENOENT, "program: " + name.decode(errors="surrogateescape")))

    def exited(self, number: int, how: int, code: int) -> None:
        """A program has ended."""
        self._running.pop(number, None)
        self.say(number, program.Exit(how, code, 0, 0, 0))

    async def send_bytes(self, number: int, kind: Callable[[bytes], Payload], content: bytes) -> None:
        """Send output or file content, as the host gives credit."""
        view = memoryview(content)
        while view and self.link.is_open(number):
            room = min(self.link.room(number), MOST_PAYLOAD_BYTES)
            if room == 0:
                await self.credited.heard()
                continue
            await self.outbox.room()
            self.say(number, kind(bytes(view[:room])))
            view = view[room:]

    async def _read(self, number: int, request: files.Read) -> None:
        try:
            content = self.tree.read(request.path)
        except OSError as error:
            self.say(number, _failed(error))
            return
        part = content[request.offset : request.offset + request.most_bytes]
        await self.send_bytes(number, files.GuestData, part)
        self.say(number, files.ReadDone(len(content), 0o644))

    def _file_input(self, number: int, message: Payload) -> None:
        match message:
            case files.HostData(data=data) if number in self._inputs:
                self._inputs[number][1].extend(data)
                self.say(number, program.GuestCredit(len(data)))
            case files.End() if number in self._inputs:
                request, content = self._inputs.pop(number)
                self._answer(number, lambda: self._finish(request, bytes(content)))
            case files.Cancel():
                self._inputs.pop(number, None)
                self.say(number, program.Failed(errno.ECANCELED, ""))

    def _finish(self, request: Payload, content: bytes) -> Payload:
        if isinstance(request, files.Write):
            self.tree.write(request.path, content, request.mode, request.flags)
            return files.CountDone(len(content))
        if isinstance(request, files.TarIn):
            return files.CountDone(self.tree.extract(request.directory, content))
        raise TypeError("only a file or an archive takes input")

    def _simple(self, number: int, message: Payload) -> None:
        tree = self.tree
        match message:
            case files.Stat(path=path):
                self._answer(number, lambda: files.StatDone(tree.entry(path)))
            case files.ListDirectory(path=path):
                self._answer(number, lambda: self._listed(number, path))
            case files.MakeDirectory(path=path, flags=flags):
                self._answer(number, lambda: tree.make_directory(path, parents=bool(flags & files.WITH_PARENTS)))
            case files.Remove(path=path, flags=flags):
                self._answer(number, lambda: tree.remove(path, recursive=bool(flags & files.RECURSIVE)))
            case files.Rename(source=source, target=target):
                self._answer(number, lambda: tree.rename(source, target))

    def _listed(self, number: int, path: str) -> None:
        self.say(number, files.Entries(self.tree.entries(path)))

    def _answer(self, number: int, act: Callable[[], Payload | None]) -> None:
        try:
            answer = act() or files.Done()
        except OSError as error:
            answer = _failed(error)
        self.say(number, answer)


def _failed(error: OSError) -> program.Failed:
    return program.Failed(error.errno or errno.EIO, str(error.filename))


class _Running:
    """One program, and what it sees."""

    def __init__(self, guest: SimulatedGuest, number: int, request: program.Exec) -> None:
        self.request = request
        self._guest = guest
        self._number = number
        self._input = bytearray()
        self._input_open = bool(request.flags & program.STDIN_OPEN)
        self._bell = Bell()
        self._scope = anyio.CancelScope()
        self._killed_by = 0

    async def run(self) -> None:
        name = self.request.argv[0].rpartition(b"/")[2]
        if name != b"hang":
            self._guest.say(self._number, program.Started(100 + self._number))
        code = 0
        with self._scope:
            code = await PROGRAMS[name](self)
        if self._killed_by and name == b"hang":
            self._guest.say(self._number, program.Started(100 + self._number))
        self._guest.exited(self._number, int(self._killed_by > 0), self._killed_by or code)

    def received(self, message: Payload) -> None:
        match message:
            case program.Stdin(data=data):
                self._input += data
            case program.StdinEnd():
                self._input_open = False
            case program.Kill():
                self._end(9)
            case program.Signal(number=number):
                self._end(number)
        self._bell.ring()

    def _end(self, signal: int) -> None:
        self._killed_by = signal
        self._scope.cancel()

    async def emit(self, kind: type[program.Stdout] | type[program.Stderr], data: bytes) -> None:
        await self._guest.send_bytes(self._number, kind, data)

    async def read(self) -> bytes:
        while not self._input and self._input_open:
            await self._bell.heard()
        taken = bytes(self._input)
        self._input.clear()
        if taken:
            self._guest.say(self._number, program.GuestCredit(len(taken)))
        return taken

    def end_guest(self) -> None:
        self._guest.die()
