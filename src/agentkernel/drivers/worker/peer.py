"""The guest's side of one link: listens, answers, and keeps what is under way."""

from __future__ import annotations

import errno
import os
import selectors
import socket
import threading
from collections.abc import Iterable
from contextlib import suppress

from agentkernel.drivers.worker.execution import Engine
from agentkernel.drivers.worker.feeder import Feeder
from agentkernel.drivers.worker.run import Run
from agentkernel.drivers.worker.transfers import Transfers
from agentkernel.drivers.worker.tree import Tree
from agentkernel.wire import GuestLink, Received, control, files, program
from agentkernel.wire.fields import Payload
from agentkernel.wire.frames import GENERATION

READ_BYTES = 262_144
FEATURES = frozenset({"exec", "stdin", "signal", "files", "tar-in"})


class Peer:
    """One stream, until it ends.

    Args:
        stream: to the host; not blocking.
    """

    def __init__(self, stream: socket.socket, tree: Tree, engine: Engine, facts: Iterable[str]) -> None:
        self.credit = threading.Condition(threading.RLock())
        self._link = GuestLink()
        self._stream = stream
        self._tree = tree
        self._engine = engine
        self._facts = tuple(facts)
        self._transfers = Transfers(tree, self)
        self._out = bytearray()
        self._held: bytearray | None = None
        self._runs: dict[int, Run] = {}
        self._orphans: set[Run] = set()
        self._most_runs = 0
        self._greetings = 0
        self._wake, self._woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._over = False

    # For every thread:

    def say(self, number: int, message: Payload) -> None:
        """Send a message, if its channel is still there."""
        with self.credit:
            frame = self._link.send(number, message)
            if self._held is not None:
                self._held += frame
            else:
                self._send(frame)

    def room(self, number: int) -> int:
        """How much output a channel takes now; 0 while all is quiet."""
        return 0 if self._held is not None else self._link.room(number)

    def is_open(self, number: int) -> bool:
        """Whether the host still listens to a channel."""
        return self._link.is_open(number)

    def ended(self, run: Run) -> None:
        """A program is over."""
        with self.credit:
            if self._runs.get(run.number) is run:
                del self._runs[run.number]
            self._orphans.discard(run)
        self.wake()

    def wake(self) -> None:
        """Let the listening thread look again."""
        with suppress(BlockingIOError):
            os.write(self._woken, b"!")

    def _send(self, data: bytes) -> None:
        """At once if nothing is before it, else behind it."""
        if not self._out:
            try:
                data = data[self._stream.send(data) :]
            except BlockingIOError:
                pass
            except OSError:
                self._over = True
                data = b""
        if data:
            self._out += data
            self.wake()

    # For the listening thread:

    def listen(self) -> None:
        """Answer until the stream ends or the host says so."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake, selectors.EVENT_READ)
            while not self._over:
                self._wait(selector)
                self._receive()

    def _wait(self, selector: selectors.BaseSelector) -> None:
        """Until there is something to do; input that programs did not take is passed on meanwhile."""
        feeders = {feeder.pipe: feeder for feeder in self._feeders() if feeder.waiting}
        with self.credit:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._out else 0)
        selector.register(self._stream, events)
        for pipe in feeders:
            selector.register(pipe, selectors.EVENT_WRITE)
        ready = selector.select()
        selector.unregister(self._stream)
        for pipe in feeders:
            selector.unregister(pipe)
        for key, mask in ready:
            if key.fileobj == self._wake:
                os.read(self._wake, 4096)
            elif key.fileobj is self._stream:
                if mask & selectors.EVENT_WRITE:
                    self._flush()
            else:
                with self.credit:
                    feeders[key.fd].push()

    def _feeders(self) -> list[Feeder]:
        with self.credit:
            runs = [*self._runs.values(), *self._orphans]
        return [*(run.feeder for run in runs if run.feeder is not None), *self._transfers.feeders()]

    def _flush(self) -> None:
        with self.credit:
            try:
                del self._out[: self._stream.send(self._out)]
            except BlockingIOError:
                pass
            except OSError:
                self._over = True

    def _receive(self) -> None:
        try:
            chunk = self._stream.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if not chunk:
            self._over = True
            return
        with self.credit:
            events = self._link.feed(chunk)
            self._send(self._link.replies())
            for event in events:
                if not isinstance(event, Received):
                    self._forget()
                elif event.channel:
                    self._channel(event.channel, event.message)
                else:
                    self._control(event.message)
            self._transfers.go_on()
            self.credit.notify_all()

    def _forget(self) -> None:
        """A new epoch, or none: programs go on without input, and nobody hears them."""
        self._held = None
        for run in self._runs.values():
            run.drop_input()
        self._orphans.update(self._runs.values())
        self._runs.clear()
        self._transfers.forget()

    def _control(self, message: Payload) -> None:
        match message:
            case control.Hello():
                self._greet(message)
            case control.Refresh():
                self._count()
                self.say(0, control.Refreshed(self._greetings))
            case control.Ping(nonce=nonce):
                running = len(self._runs) + len(self._orphans)
                self.say(0, control.Pong(nonce, running, self._tree.free_kib(), len(self._runs)))
            case control.Mount():
                self.say(0, control.Mounted(errno.ENOTSUP, "mount"))
            case control.Quiesce():
                self.say(0, control.Quiesced())
                self._held = bytearray()
            case control.Resume():
                held, self._held = self._held or bytearray(), None
                self._send(bytes(held))
            case control.Shutdown():
                self.say(0, control.Ending())
                self._flush()
                self._over = True

    def _greet(self, hello: control.Hello) -> None:
        if hello.generation != GENERATION:
            self.say(0, control.Welcome(GENERATION, (), (), ()))
            return
        self._most_runs = hello.pids
        self._count()
        self._tree.write("/etc/machine-id", hello.machine_id.hex().encode() + b"\n")
        self._tree.write("/etc/hostname", hello.hostname.encode() + b"\n")
        refused = tuple(sorted(control.FEATURES - FEATURES))
        self.say(0, control.Welcome(GENERATION, tuple(sorted(FEATURES)), refused, self._facts))

    def _count(self) -> None:
        self._greetings += 1
        self._tree.write("/run/agentkernel/generation", b"%d\n" % self._greetings)

    def _channel(self, number: int, message: Payload) -> None:
        run = self._runs.get(number)
        match message:
            case program.Exec():
                self._start(number, message)
            case program.HostCredit():
                pass
            case program.Stdin(data=data) if run is not None and run.feeder is not None:
                run.feeder.put(data)
            case program.StdinEnd() if run is not None and run.feeder is not None:
                run.feeder.end()
            case program.Signal(number=signal) if run is not None:
                run.signal(signal)
            case program.Kill() if run is not None:
                run.kill()
            case (
                files.Read()
                | files.Write()
                | files.TarIn()
                | files.Stat()
                | files.ListDirectory()
                | files.MakeDirectory()
                | files.Remove()
                | files.Rename()
            ):
                self._transfers.open(number, message)
            case files.HostData() | files.End() | files.Cancel():
                self._transfers.input(number, message)

    def _start(self, number: int, request: program.Exec) -> None:
        if self._most_runs and len(self._runs) + len(self._orphans) >= self._most_runs:
            self.say(number, program.Failed(errno.EAGAIN, "fork: "))
            return
        run = Run(self, number, request)
        self._runs[number] = run
        refusal = self._engine.start(run)
        if refusal is not None:
            del self._runs[number]
            self.say(number, refusal)
