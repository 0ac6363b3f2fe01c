"""The worker's side of a machine: a process that holds one micro-VM, and is killed to stop what runs in it."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentkernel.drivers.hyperlight.worker import words
from agentkernel.drivers.worker.entry import start_of
from agentkernel.drivers.worker.execution import Ended, Program, Stopped
from agentkernel.drivers.worker.programs import Kind

ENTRY = "agentkernel.drivers.hyperlight.worker.vm"
ABORT = 6
"""SIGABRT: what the end of a machine is told as, which its own program may have brought about."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a machine is made: its language, its guest's code, its memory, the tree it works on."""

    kind: Kind
    code: Path
    memory_mib: int
    root: Path

    def arguments(self, number: int) -> tuple[str, ...]:
        """Of its process, whose end of the socket has that number."""
        return (str(number), str(self.kind), str(self.code), str(self.memory_mib), str(self.root))


class Machine:
    """One of them. It comes up by itself; `use` waits for that."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.worn = False
        self._ready = False
        self._killing = threading.Lock()
        self._link, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", "-c", start_of(ENTRY), *plan.arguments(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )

    def use(self, program: Program, told: dict[str, Any], read_input: Callable[[int], bytes]) -> Ended:
        """Run one program in it to its end. Raises Stopped where it was killed meanwhile."""
        try:
            if not self._ready:
                kind, payload = words.receive(self._link)
                if kind != words.READY:
                    return self._failed(payload)
                self._ready = True
            words.send(self._link, words.PROGRAM, json.dumps(told).encode())
            return self._serve(program, read_input)
        except (EOFError, OSError):
            self.worn = True
            raise Stopped from None

    def _serve(self, program: Program, read_input: Callable[[int], bytes]) -> Ended:
        while True:
            kind, payload = words.receive(self._link)
            match kind:
                case words.STDOUT | words.STDERR:
                    output = program.stdout if kind == words.STDOUT else program.stderr
                    if not output(payload):
                        raise EOFError
                case words.INPUT:
                    words.send(self._link, words.INPUT, read_input(_number(payload)))
                case words.ENDED:
                    return Ended(_number(payload) & 0xFF)
                case words.LEFT:
                    self.worn = True
                    return Ended(_number(payload) & 0xFF)
                case words.FAILED:
                    return self._failed(payload)
                case _:
                    raise EOFError

    def _failed(self, payload: bytes) -> Ended:
        self.worn = True
        return Ended(0, ABORT, payload.decode("utf-8", "replace"))

    def kill(self) -> None:
        """End what runs in it, and the machine. Any thread, at any time, more than once."""
        self.worn = True
        with self._killing, contextlib.suppress(ProcessLookupError):
            if self._process.returncode is None:
                self._process.kill()

    def close(self) -> None:
        """It is gone afterwards."""
        self.kill()
        with self._killing:
            self._process.wait()
        self._link.close()


def _number(payload: bytes) -> int:
    try:
        return int(payload)
    except ValueError:
        raise EOFError from None
