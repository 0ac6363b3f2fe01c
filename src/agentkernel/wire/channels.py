"""One channel as the host sees it: what its request allows either side to send, in which order and how much.

Source: guest/PROTOCOL.md 4 and 7.
"""

from __future__ import annotations

from agentkernel.wire.errors import LinkError
from agentkernel.wire.fields import Payload
from agentkernel.wire.files import (
    Cancel,
    CountDone,
    Done,
    End,
    Entries,
    GuestData,
    HostData,
    ListDirectory,
    MakeDirectory,
    Read,
    ReadDone,
    Remove,
    Rename,
    Stat,
    StatDone,
    TarIn,
    Write,
)
from agentkernel.wire.frames import MOST_ENTRIES, WINDOW_BYTES, GuestKind
from agentkernel.wire.program import (
    STDIN_OPEN,
    Exec,
    Exit,
    Failed,
    GuestCredit,
    Kill,
    Resize,
    Signal,
    Started,
    Stderr,
    Stdin,
    StdinEnd,
    Stdout,
)


class HostChannel:
    """A channel that is open. This class alone is one whose request is answered by an empty DONE.

    Attributes:
        room_bytes: how much input the guest still takes; 0 where there is no input.
        receivable_bytes: how much the guest may send before it is given credit.
        uncredited_bytes: how much was consumed since credit was last given.
    """

    sends: frozenset[type[Payload]] = frozenset({Cancel})
    """What a host may send on it, besides credit and input."""
    input: type[Stdin] | type[HostData] | None = None
    input_end: type[Payload] | None = None
    done: type[Payload] = Done

    def __init__(self) -> None:
        self.input_open = self.input is not None
        self.room_bytes = WINDOW_BYTES
        self.receivable_bytes = WINDOW_BYTES
        self.uncredited_bytes = 0

    def accept(self, kind: int, payload: memoryview) -> Payload:
        """Decode what the guest sent. Raises LinkError when it was not allowed to, now or at all."""
        if kind == GuestKind.FAILED:
            return Failed.decode(payload)
        if kind == GuestKind.DONE:
            self._check_done()
            return self.done.decode(payload)
        if kind == GuestKind.CREDIT and self.input is not None:
            return self._credited(GuestCredit.decode(payload))
        raise LinkError(f"kind {kind} does not belong on this channel")

    def _check_done(self) -> None:
        """Raise LinkError when the guest cannot be done yet."""

    def _credited(self, credit: GuestCredit) -> GuestCredit:
        # Nothing, too, is refused: it could be said for ever.
        if not 0 < credit.consumed <= WINDOW_BYTES - self.room_bytes:
            raise LinkError("a guest says that it consumed nothing, or more than it was sent")
        self.room_bytes += credit.consumed
        return credit

    def _receive(self, size: int) -> None:
        if size == 0:
            raise LinkError("a frame of output is empty")
        if size > self.receivable_bytes:
            raise LinkError("a guest sent past its window")
        self.receivable_bytes -= size


class ExecChannel(HostChannel):
    """STARTED, output, EXIT; or FAILED alone."""

    sends = frozenset({StdinEnd, Signal, Resize, Kill})
    input = Stdin
    input_end = StdinEnd

    def __init__(self, request: Exec) -> None:
        super().__init__()
        self.input_open = bool(request.flags & STDIN_OPEN)
        self._started = False

    def accept(self, kind: int, payload: memoryview) -> Payload:
        if kind == GuestKind.CREDIT:
            return super().accept(kind, payload)
        if not self._started:
            return self._begin(kind, payload)
        if kind == GuestKind.STDOUT:
            self._receive(len(payload))
            return Stdout(bytes(payload))
        if kind == GuestKind.STDERR:
            self._receive(len(payload))
            return Stderr(bytes(payload))
        if kind == GuestKind.EXIT:
            return Exit.decode(payload)
        raise LinkError(f"kind {kind} does not belong to a running program")

    def _begin(self, kind: int, payload: memoryview) -> Payload:
        if kind == GuestKind.FAILED:
            return super().accept(kind, payload)
        if kind != GuestKind.STARTED:
            raise LinkError(f"kind {kind} came before the program was started")
        self._started = True
        return Started.decode(payload)


class InputChannel(HostChannel):
    """A file or an archive on its way in."""

    sends = frozenset({Cancel, End})
    input = HostData
    input_end = End
    done = CountDone

    def _check_done(self) -> None:
        if self.input_open:
            raise LinkError("a guest was done before it had everything")


class ReadChannel(HostChannel):
    """A file on its way out, never more of it than was asked for."""

    done = ReadDone

    def __init__(self, request: Read) -> None:
        super().__init__()
        self._wanted_bytes = request.most_bytes

    def accept(self, kind: int, payload: memoryview) -> Payload:
        if kind != GuestKind.DATA:
            return super().accept(kind, payload)
        self._receive(len(payload))
        if len(payload) > self._wanted_bytes:
            raise LinkError("a guest sent more of a file than was asked for")
        self._wanted_bytes -= len(payload)
        return GuestData(bytes(payload))


class StatChannel(HostChannel):
    """One entry."""

    done = StatDone


class ListChannel(HostChannel):
    """Entries, of a number that is bounded because no window holds them."""

    def __init__(self) -> None:
        super().__init__()
        self._left = MOST_ENTRIES

    def accept(self, kind: int, payload: memoryview) -> Payload:
        if kind != GuestKind.ENTRIES:
            return super().accept(kind, payload)
        entries = Entries.decode(payload)
        # A frame without any counts too, or a guest could send them for ever.
        self._left -= max(1, len(entries.entries))
        if self._left < 0:
            raise LinkError(f"a directory has more than {MOST_ENTRIES} entries")
        return entries


def channel_for(request: Payload) -> HostChannel:
    """The channel that this request opens. Raises ValueError for a payload that opens none."""
    match request:
        case Exec():
            return ExecChannel(request)
        case Read():
            return ReadChannel(request)
        case Write() | TarIn():
            return InputChannel()
        case Stat():
            return StatChannel()
        case ListDirectory():
            return ListChannel()
        case MakeDirectory() | Remove() | Rename():
            return HostChannel()
        case _:
            raise ValueError(f"{type(request).__name__} does not open a channel")
