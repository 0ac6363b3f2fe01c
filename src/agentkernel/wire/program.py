"""Payloads of exec channels.

Source: guest/PROTOCOL.md 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from agentkernel.model.execution import ExecRequest
from agentkernel.model.spec import Rlimit
from agentkernel.wire.control import check_errno
from agentkernel.wire.errors import LinkError
from agentkernel.wire.fields import FOREIGN, OCTETS, REST, U8, U32, U64, Field, Many, Payload, Record
from agentkernel.wire.frames import GuestKind, HostKind

STDIN_OPEN = 1
TERMINAL = 2
MAKE_CWD = 4
MOST_PID = 2**31 - 1
MOST_SIGNAL = 64


@dataclass(frozen=True, slots=True)
class Part(Payload):
    """A prefix of the request that follows on this channel."""

    data: bytes

    kind: ClassVar[int] = HostKind.PART
    layout: ClassVar[tuple[Field, ...]] = (REST,)


@dataclass(frozen=True, slots=True)
class Exec(Payload):
    """Start a program."""

    flags: int
    rows: int
    columns: int
    argv: tuple[bytes, ...]
    env: tuple[bytes, ...]
    cwd: str
    user: str
    rlimits: tuple[Rlimit, ...]

    kind: ClassVar[int] = HostKind.EXEC
    layout: ClassVar[tuple[Field, ...]] = (
        U32,
        U32,
        U32,
        Many(OCTETS),
        Many(OCTETS),
        FOREIGN,
        FOREIGN,
        Many(Record(Rlimit, resource=U32, soft=U64, hard=U64)),
    )

    @classmethod
    def of(cls, request: ExecRequest) -> Self:
        """The payload that asks for it. Raises ValueError for what no guest would take."""
        if not request.argv or not all(b"=" in entry for entry in request.env):
            raise ValueError("a program needs an argv, and its environment is NAME=value")
        if not request.cwd.startswith("/"):
            raise ValueError("the working directory is not absolute")
        flags = STDIN_OPEN * request.stdin | TERMINAL * (request.terminal is not None) | MAKE_CWD * request.make_cwd
        rows, columns = request.terminal or (0, 0)
        return cls(flags, rows, columns, request.argv, request.env, request.cwd, request.user, request.rlimits)

    def verify(self) -> None:
        """There is a program."""
        if not self.argv:
            raise LinkError("an argv is empty")


@dataclass(frozen=True, slots=True)
class Started(Payload):
    """It runs; `pid` is its number inside."""

    pid: int

    kind: ClassVar[int] = GuestKind.STARTED
    layout: ClassVar[tuple[Field, ...]] = (U32,)

    def verify(self) -> None:
        """A process number is positive and fits its kernel's type."""
        if not 0 < self.pid <= MOST_PID:
            raise LinkError(f"{self.pid} is no process number")


@dataclass(frozen=True, slots=True)
class Stdout(Payload):
    """Standard output."""

    data: bytes

    kind: ClassVar[int] = GuestKind.STDOUT
    layout: ClassVar[tuple[Field, ...]] = (REST,)

    def verify(self) -> None:
        """An empty frame would cost no window."""
        if not self.data:
            raise LinkError("a frame of output is empty")


@dataclass(frozen=True, slots=True)
class Stderr(Payload):
    """Standard error."""

    data: bytes

    kind: ClassVar[int] = GuestKind.STDERR
    layout: ClassVar[tuple[Field, ...]] = (REST,)

    def verify(self) -> None:
        """An empty frame would cost no window."""
        if not self.data:
            raise LinkError("a frame of output is empty")


@dataclass(frozen=True, slots=True)
class Exit(Payload):
    """The end: `how` 0 with an exit code, or 1 with the signal that killed it. Times in microseconds."""

    how: int
    code: int
    user_us: int
    system_us: int
    peak_kib: int

    kind: ClassVar[int] = GuestKind.EXIT
    last: ClassVar[bool] = True
    layout: ClassVar[tuple[Field, ...]] = (U8, U32, U64, U64, U64)

    def verify(self) -> None:
        """An exit code has eight bits, and signals are numbered from 1 to 64."""
        if not ((self.how == 0 and self.code <= 255) or (self.how == 1 and 0 < self.code <= MOST_SIGNAL)):
            raise LinkError(f"no program ends with {self.code} in way {self.how}")


@dataclass(frozen=True, slots=True)
class Failed(Payload):
    """It could not be done. `what` is the guest's word: hostile, not for a terminal as it stands."""

    errno: int
    what: str

    kind: ClassVar[int] = GuestKind.FAILED
    last: ClassVar[bool] = True
    layout: ClassVar[tuple[Field, ...]] = (U32, FOREIGN)

    def verify(self) -> None:
        """A true error number."""
        check_errno(self.errno, least=1)


@dataclass(frozen=True, slots=True)
class Stdin(Payload):
    """Standard input."""

    data: bytes

    kind: ClassVar[int] = HostKind.STDIN
    layout: ClassVar[tuple[Field, ...]] = (REST,)


@dataclass(frozen=True, slots=True)
class StdinEnd(Payload):
    """End of input."""

    kind: ClassVar[int] = HostKind.STDIN_END


@dataclass(frozen=True, slots=True)
class Signal(Payload):
    """A signal for the process group."""

    number: int

    kind: ClassVar[int] = HostKind.SIGNAL
    layout: ClassVar[tuple[Field, ...]] = (U32,)


@dataclass(frozen=True, slots=True)
class Resize(Payload):
    """The terminal's new size."""

    rows: int
    columns: int

    kind: ClassVar[int] = HostKind.RESIZE
    layout: ClassVar[tuple[Field, ...]] = (U32, U32)


@dataclass(frozen=True, slots=True)
class Kill(Payload):
    """SIGKILL to the whole tree."""

    kind: ClassVar[int] = HostKind.KILL


@dataclass(frozen=True, slots=True)
class HostCredit(Payload):
    """Bytes of output or of a file that the host has consumed."""

    consumed: int

    kind: ClassVar[int] = HostKind.CREDIT
    layout: ClassVar[tuple[Field, ...]] = (U32,)


@dataclass(frozen=True, slots=True)
class GuestCredit(Payload):
    """Bytes of input or of a file that the guest has consumed."""

    consumed: int

    kind: ClassVar[int] = GuestKind.CREDIT
    layout: ClassVar[tuple[Field, ...]] = (U32,)
