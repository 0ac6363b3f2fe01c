"""The seam between the link and what executes: what an engine is asked, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from agentkernel.drivers.worker.run import Run
    from agentkernel.wire import program

Output = Callable[[bytes], bool]
"""Takes a piece of output, waits while nobody reads; False when the program has been stopped."""


class Stopped(Exception):
    """The program was told to end."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended: an exit code, or a signal. `words`: of a trap."""

    code: int
    signal: int = 0
    words: str = ""


@dataclass(slots=True)
class Program:
    """What an instance is to run.

    Attributes:
        argv, env, cwd: as the caller gave them.
        stdout, stderr: where its output goes.
    """

    argv: tuple[bytes, ...]
    env: tuple[bytes, ...]
    cwd: bytes
    stdout: Output
    stderr: Output


class Instance(Protocol):
    """Where one program runs, once."""

    stdin: int
    """Writing end of a pipe that does not block: its standard input. Whoever feeds it closes it."""

    def give(self, program: Program) -> None:
        """What it waits for."""

    def stop(self) -> None:
        """End it. Any thread, at any time."""


class Engine(Protocol):
    """What executes programs in a worker."""

    def start(self, run: Run) -> program.Failed | None:
        """Begin a program on a thread of its own, or say why not."""
