"""Requests as they stand on the wire: tag `cmd`, original fields first, then ours.

`null` is no value for any field: what is optional is left out. Fields named `…_base64` on the wire hold decoded bytes
here.
"""

from __future__ import annotations

import re
from typing import Annotated, TypeVar

from msgspec import UNSET, Meta, Struct, UnsetType, field

from agentkernel.model.kinds import Isolation, Mode, Vmm
from agentkernel.protocol.words import WireBackend

STDIN_CAP_BYTES = 512 * 1024

RuntimeName = Annotated[str, Meta(pattern=r"\A[a-z0-9][a-z0-9._-]{0,62}\Z")]
RequestId = Annotated[str, Meta(min_length=1, max_length=128)]
Stdin = Annotated[bytes, Meta(max_length=STDIN_CAP_BYTES)]
Milliseconds = Annotated[int, Meta(ge=1, le=2**53)]
CreditBytes = Annotated[int, Meta(ge=1, le=2**31)]
SignalNumber = Annotated[int, Meta(ge=1, le=64)]
ForkCount = Annotated[int, Meta(ge=1, le=16)]
FileMode = Annotated[int, Meta(ge=0, le=0o777)]

T = TypeVar("T")


def given(value: T | UnsetType) -> T | None:
    """An optional field's value, or None where it was left out."""
    return None if isinstance(value, UnsetType) else value


def tag_of(class_name: str) -> str:
    """`ExecStart` to `exec_start`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", class_name).lower()


def refuse_both_or_none(runtime: str, image: str) -> None:
    """Raise ValueError unless exactly one of the two is named."""
    if not runtime and not image:
        raise ValueError("Object missing required field `runtime`")
    if runtime and image:
        raise ValueError("`runtime` and `image` exclude each other; leave one out")


def refuse_nul(name: str, *texts: str) -> None:
    """Raise ValueError when a text that will be a C string holds a NUL."""
    if any("\0" in text for text in texts):
        raise ValueError(f"`{name}` holds a NUL character; leave it out")


class Message(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="cmd", tag=tag_of):
    """A request. Every request may carry a `request_id`: its reply carries it too, and may then come out of order."""


class FilePut(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A file to be there before the program starts. `path` is absolute or relative to the program's directory."""

    path: Annotated[str, Meta(min_length=1)]
    content: bytes = field(name="content_base64")
    mode: FileMode = 0o644

    def __post_init__(self) -> None:
        refuse_nul("path", self.path)


class Acquire(Message, frozen=True, kw_only=True):
    """Lend a sandbox. `env`, `cwd` and `user` hold for every program of the lease that does not say otherwise."""

    runtime: RuntimeName = ""
    backend: WireBackend = WireBackend.FIRECRACKER
    compatibility_mode: Mode = Mode.NATIVE
    env: dict[str, str] = {}
    cwd: str = ""
    user: str = ""
    image: str = ""
    profile: str = ""
    network: str = ""
    limits: dict[str, int] = {}
    labels: dict[str, str] = {}
    vmm: Vmm | UnsetType = UNSET
    minimum_isolation: Isolation | UnsetType = UNSET
    request_id: RequestId | UnsetType = UNSET

    def __post_init__(self) -> None:
        refuse_both_or_none(self.runtime, self.image)
        refuse_nul("cwd", self.cwd)
        refuse_nul("user", self.user)


class Release(Message, frozen=True, kw_only=True):
    """End a lease and destroy its sandbox."""

    id: str
    request_id: RequestId | UnsetType = UNSET


class Run(Message, frozen=True, kw_only=True):
    """What `exec` and `exec_start` share. `sandbox` is a lease's id: run there, instead of in a fresh sandbox. An empty
    `command` means the image's own.
    """

    runtime: RuntimeName = ""
    command: list[str]
    backend: WireBackend = WireBackend.FIRECRACKER
    compatibility_mode: Mode = Mode.NATIVE
    env: dict[str, str] = {}
    cwd: str = ""
    user: str = ""
    stdin: Stdin | UnsetType = UNSET
    timeout_ms: Milliseconds | UnsetType = UNSET
    files: list[FilePut] = []
    image: str = ""
    profile: str = ""
    network: str = ""
    limits: dict[str, int] = {}
    labels: dict[str, str] = {}
    vmm: Vmm | UnsetType = UNSET
    minimum_isolation: Isolation | UnsetType = UNSET
    sandbox: str = ""

    def __post_init__(self) -> None:
        refuse_both_or_none(self.runtime, self.image)
        refuse_nul("command", *self.command)
        refuse_nul("cwd", self.cwd)
        refuse_nul("user", self.user)


class Exec(Run, frozen=True, kw_only=True):
    """Run a program to its end and answer with its output."""

    request_id: RequestId | UnsetType = UNSET


class Prewarm(Message, frozen=True, kw_only=True):
    """Fill every key of a mode to its minimum, with sandboxes of one backend."""

    compatibility_mode: Mode
    backend: WireBackend = WireBackend.FIRECRACKER
    request_id: RequestId | UnsetType = UNSET


class Status(Message, frozen=True, kw_only=True):
    """How things stand; with `timings`, how long each stage of an exec takes too."""

    timings: bool = False
    request_id: RequestId | UnsetType = UNSET


class Shutdown(Message, frozen=True, kw_only=True):
    """End the daemon."""

    request_id: RequestId | UnsetType = UNSET


class Hello(Message, frozen=True, kw_only=True):
    """Who are you, what can you?"""

    request_id: RequestId | UnsetType = UNSET


class ExecStart(Run, frozen=True, kw_only=True):
    """Start a program and stream its events on this connection. With `stdin_open`, input follows by `exec_stdin`,
    after `stdin`.
    """

    request_id: RequestId
    stdin_open: bool = False


class ExecStdin(Message, frozen=True, kw_only=True):
    """Input for a running program."""

    request_id: RequestId
    data: bytes = field(name="data_base64")


class ExecCloseStdin(Message, frozen=True, kw_only=True):
    """End of input."""

    request_id: RequestId


class ExecSignal(Message, frozen=True, kw_only=True):
    """A signal to the program's process group."""

    request_id: RequestId
    signal: SignalNumber


class ExecCancel(Message, frozen=True, kw_only=True):
    """Kill the program's whole tree; its stream still ends with `exit`."""

    request_id: RequestId


class GrantCredit(Message, frozen=True, kw_only=True, tag="credit"):
    """So many bytes of a stream's output have been consumed. The one request without a reply."""

    request_id: RequestId
    bytes: CreditBytes


class ArchivePut(Message, frozen=True, kw_only=True):
    """One chunk of a tar stream that is extracted below `path` in a lease's sandbox. Chunks of one archive come on
    one connection.
    """

    id: str
    path: Annotated[str, Meta(min_length=1)]
    content: bytes = field(name="content_base64")
    more: bool = False
    owner: str = ""
    request_id: RequestId | UnsetType = UNSET

    def __post_init__(self) -> None:
        refuse_nul("path", self.path)
        refuse_nul("owner", self.owner)


class LeaseRenew(Message, frozen=True, kw_only=True):
    """Count a lease's time to live from now."""

    id: str
    request_id: RequestId | UnsetType = UNSET


class SandboxPause(Message, frozen=True, kw_only=True):
    """Stop a lease's sandbox where it is."""

    id: str
    request_id: RequestId | UnsetType = UNSET


class SandboxResume(Message, frozen=True, kw_only=True):
    """Let a paused sandbox go on."""

    id: str
    request_id: RequestId | UnsetType = UNSET


class SandboxFork(Message, frozen=True, kw_only=True):
    """Copy a lease's running sandbox, so many times."""

    id: str
    count: ForkCount = 1
    request_id: RequestId | UnsetType = UNSET


class SnapshotTake(Message, frozen=True, kw_only=True):
    """Save a lease's running sandbox."""

    id: str
    request_id: RequestId | UnsetType = UNSET


class SnapshotRestore(Message, frozen=True, kw_only=True):
    """Lend a new sandbox that goes on where a saved one stood."""

    snapshot: str
    request_id: RequestId | UnsetType = UNSET


class SnapshotList(Message, frozen=True, kw_only=True):
    """Which snapshots there are."""

    request_id: RequestId | UnsetType = UNSET


class SnapshotRemove(Message, frozen=True, kw_only=True):
    """Delete a snapshot."""

    snapshot: str
    request_id: RequestId | UnsetType = UNSET


Request = (
    Acquire
    | Release
    | Exec
    | Prewarm
    | Status
    | Shutdown
    | Hello
    | ExecStart
    | ExecStdin
    | ExecCloseStdin
    | ExecSignal
    | ExecCancel
    | GrantCredit
    | ArchivePut
    | LeaseRenew
    | SandboxPause
    | SandboxResume
    | SandboxFork
    | SnapshotTake
    | SnapshotRestore
    | SnapshotList
    | SnapshotRemove
)


def may_overtake(request: Request) -> bool:
    """Whether the reply may come out of order: only with a `request_id`. All others are answered strictly in order
    among themselves.
    """
    return given(request.request_id) is not None


def is_answered(request: Request) -> bool:
    """Whether there is a reply at all: not to `credit`."""
    return not isinstance(request, GrantCredit)
