"""The supervisor's status lines, and what a failure of it means to a caller."""

from __future__ import annotations

import errno
from dataclasses import dataclass

from agentkernel.model.errors import AgentkernelError, Broken, Unsupported

FORBIDDEN = frozenset({errno.EPERM, errno.EACCES, errno.ENOSPC, errno.ENOSYS})


@dataclass(frozen=True, slots=True)
class Spawned:
    """The program runs; `pid` as the host sees it, `start_ticks` its start time since boot in clock ticks."""

    pid: int
    start_ticks: int


@dataclass(frozen=True, slots=True)
class Failed:
    """It does not run: which step failed, why."""

    step: str
    error: int
    text: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The program is gone, and all that it started. Neither is set when the supervisor itself was killed."""

    code: int | None = None
    signal: int | None = None

    def __str__(self) -> str:
        if self.signal is not None:
            return f"killed by signal {self.signal}"
        return "ended with its supervisor" if self.code is None else f"exited with status {self.code}"


Status = Spawned | Failed | Ended


def parse_status(line: str) -> Status:
    """One line without its end. Raises ValueError for anything the supervisor does not say."""
    match line.split(" "):
        case ["spawned", pid, ticks]:
            return Spawned(int(pid), int(ticks))
        case ["exited", "code", code]:
            return Ended(code=int(code))
        case ["exited", "signal", number]:
            return Ended(signal=int(number))
        case ["failed", *rest]:
            # The step's name may have blanks: the first number is the errno.
            place = next((index for index, word in enumerate(rest) if word.isdigit()), len(rest))
            step, number, *text = (" ".join(rest[:place]), *rest[place:])
            return Failed(step, int(number), " ".join(text))
        case _:
            raise ValueError(f"not a status line: {line[:80]!r}")


def error_of(failed: Failed, program: str) -> AgentkernelError:
    """What to raise: `Unsupported` where this host does not let us confine anything, else `Broken`."""
    message = f"cannot confine {program}: {failed.step}: {failed.text}"
    if failed.step != "exec" and failed.error in FORBIDDEN:
        return Unsupported(message, hint="run `agentkernel doctor`: it says which of the host's settings forbids it")
    return Broken(message)
