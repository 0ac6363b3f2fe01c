"""One program on one exec channel: its thread, its input, its output under credit, its end."""

from __future__ import annotations

import threading
import time
from typing import Protocol

from agentkernel.drivers.worker.execution import Ended, Instance, Program
from agentkernel.drivers.worker.feeder import Feeder
from agentkernel.wire import program
from agentkernel.wire.fields import Payload
from agentkernel.wire.frames import MOST_PAYLOAD_BYTES

KILL = 9
STOP_GRACE_S = 0.2
"""How long a stopped program may take to be gone before its end is told all the same: one that sleeps inside WASI wakes
when its sleep is over, runs nothing any more, and is gone then.
"""
HARMLESS_SIGNALS = frozenset({17, 18, 19, 20, 21, 22, 23, 28})
"""CHLD CONT STOP TSTP TTIN TTOU URG WINCH: ignored by default, or about job control, which is not here."""


class Line(Protocol):
    """What a run needs of the peer. `credit` is notified when a window opened, or anything else changed."""

    credit: threading.Condition

    def say(self, number: int, message: Payload) -> None: ...

    def room(self, number: int) -> int: ...

    def is_open(self, number: int) -> bool: ...

    def ended(self, run: Run) -> None: ...


class Run:
    """A program that was started, or is about to be. Its methods but `execute` are the listening thread's."""

    def __init__(self, line: Line, number: int, request: program.Exec) -> None:
        self.number = number
        self.request = request
        self.feeder: Feeder | None = None
        self._line = line
        self._instance: Instance | None = None
        self._told = threading.Lock()
        self._over = False
        self._signal = 0
        self._began_s = 0.0
        self._used_us = 0

    def begin(self, instance: Instance) -> None:
        """Give the program to an instance, whose thread goes on from there."""
        self._instance = instance
        self.feeder = Feeder(instance.stdin, lambda size: self._line.say(self.number, program.GuestCredit(size)))
        if not self.request.flags & program.STDIN_OPEN:
            self.feeder.end()
        request = self.request
        instance.give(
            Program(
                request.argv, request.env, request.cwd.encode("utf-8", "surrogateescape"), self._stdout, self._stderr
            )
        )

    def signal(self, number: int) -> None:
        """What the default action of a signal is."""
        if 0 < number <= program.MOST_SIGNAL and number not in HARMLESS_SIGNALS:
            self.kill(number)

    def kill(self, number: int = KILL) -> None:
        """End it; its end is told when it is gone, or a little later."""
        with self._told:
            if self._signal or self._over:
                return
            self._signal = number
        if self._instance is not None:
            self._instance.stop()
        with self._line.credit:
            self.drop_input()
            self._line.credit.notify_all()
        timer = threading.Timer(STOP_GRACE_S, self._tell, (Ended(0, number),))
        timer.daemon = True
        timer.start()

    def drop_input(self) -> None:
        """It reads no more. Under the line's lock."""
        if self.feeder is not None:
            self.feeder.close()

    # The thread of the program:

    def started(self) -> None:
        """It runs."""
        self._began_s = time.thread_time()
        self._line.say(self.number, program.Started(self.number))

    def failed(self, error: int, what: str) -> None:
        """It could not be started."""
        with self._told:
            if self._over:
                return
            self._over = True
        with self._line.credit:
            self.drop_input()
            self._line.say(self.number, program.Failed(error, what))
        self._line.ended(self)

    def complain(self, words: bytes) -> None:
        """Say something on its standard error, in its name."""
        self._stderr(words)

    def finished(self, ended: Ended) -> None:
        """It has ended by itself, or was stopped."""
        self._used_us = max(0, int((time.thread_time() - self._began_s) * 1e6)) if self._began_s else 0
        if ended.words and not self._signal:
            self._stderr(f"agentkernel: {ended.words}\n".encode())
        self._tell(Ended(0, self._signal) if self._signal else ended)

    def _tell(self, ended: Ended) -> None:
        with self._told:
            if self._over:
                return
            self._over = True
        how, code = (1, ended.signal) if ended.signal else (0, ended.code)
        with self._line.credit:
            self.drop_input()
            self._line.say(self.number, program.Exit(how, code, self._used_us, 0, 0))
        self._line.ended(self)

    def _stdout(self, data: bytes) -> bool:
        return self._send(program.Stdout, data)

    def _stderr(self, data: bytes) -> bool:
        return self._send(program.Stderr, data)

    def _send(self, kind: type[program.Stdout] | type[program.Stderr], data: bytes) -> bool:
        """Wait for room; False once it was told to end. Without a channel, output goes nowhere."""
        rest = memoryview(data)
        while rest:
            with self._line.credit:
                while not (room := min(self._line.room(self.number), MOST_PAYLOAD_BYTES)):
                    if self._signal or self._over:
                        return False
                    if not self._line.is_open(self.number):
                        return True
                    self._line.credit.wait()
                self._line.say(self.number, kind(bytes(rest[:room])))
            rest = rest[room:]
        return not self._signal
