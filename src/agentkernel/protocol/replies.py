"""Replies as they stand on the wire: tag `type`, original fields first in the published order, then ours.

What is optional is left out, never null: `UNSET` here. Fields named `…_base64` on the wire hold plain bytes here.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType, field

from agentkernel.protocol.requests import tag_of

Unsigned = Annotated[int, Meta(ge=0)]
Unsigned32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Signed32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]


class Message(Struct, frozen=True, kw_only=True, tag_field="type", tag=tag_of):
    """A reply, or one event of a stream."""


class Acquired(Message, frozen=True, kw_only=True):
    """A lease. `isolation` is the tier that really holds, `vmm` the monitor where there is one; `warm`: it was not
    booted for this.
    """

    id: str
    cid: Unsigned32 | UnsetType = UNSET
    vsock_path: str | UnsetType = UNSET
    backend: str
    vmm: str | UnsetType = UNSET
    isolation: str | UnsetType = UNSET
    warm: bool | UnsetType = UNSET
    image: str | UnsetType = UNSET
    expires_in_s: Unsigned | UnsetType = UNSET
    request_id: str | UnsetType = UNSET


class Released(Message, frozen=True, kw_only=True):
    """The lease is over, if there was one."""

    request_id: str | UnsetType = UNSET


class Executed(Message, frozen=True, kw_only=True):
    """A program has ended. `truncated` maps `stdout` and `stderr` to bytes dropped; `…_base64` is there when the text
    lost something.
    """

    exit_code: Signed32
    stdout: str
    stderr: str
    backend: str | UnsetType = UNSET
    vmm: str | UnsetType = UNSET
    isolation: str | UnsetType = UNSET
    warm: bool | UnsetType = UNSET
    image: str | UnsetType = UNSET
    signal: int | UnsetType = UNSET
    timed_out: bool | UnsetType = UNSET
    truncated: dict[str, int] | UnsetType = UNSET
    stdout_bytes: bytes | UnsetType = field(default=UNSET, name="stdout_base64")
    stderr_bytes: bytes | UnsetType = field(default=UNSET, name="stderr_base64")
    request_id: str | UnsetType = UNSET


class DriverStatus(Struct, frozen=True, kw_only=True):
    """One backend's verdict, from a probe that really tried."""

    usable: bool
    vmm: str | UnsetType = UNSET
    isolation: str | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    remedy: str | UnsetType = UNSET


class StatusReply(Message, frozen=True, kw_only=True, tag="status"):
    """How things stand: sums over all keys. `drivers` maps a backend to its verdict, filling up as probes finish."""

    warm: Unsigned
    in_use: Unsigned
    min_warm: Unsigned
    max_warm: Unsigned
    backends: list[str]
    agent_stats: dict[str, int] | UnsetType = UNSET
    drivers: dict[str, DriverStatus] | UnsetType = UNSET
    booting: Unsigned | UnsetType = UNSET
    waiting: Unsigned | UnsetType = UNSET
    version: str | UnsetType = UNSET
    timings: dict[str, dict[str, float]] | UnsetType = UNSET
    request_id: str | UnsetType = UNSET


class Prewarmed(Message, frozen=True, kw_only=True):
    """So many sandboxes were made by this call."""

    compatibility_mode: str
    count: Unsigned
    request_id: str | UnsetType = UNSET


class ShuttingDown(Message, frozen=True, kw_only=True):
    """The daemon ends."""

    request_id: str | UnsetType = UNSET


class ErrorReply(Message, frozen=True, kw_only=True, tag="error"):
    """What went wrong. `code` is stable (`model.errors.DOORS`); `hint` says what to do."""

    message: str
    code: str | UnsetType = UNSET
    retryable: bool | UnsetType = UNSET
    hint: str | UnsetType = UNSET
    request_id: str | UnsetType = UNSET


class HelloReply(Message, frozen=True, kw_only=True, tag="hello"):
    """Who answers. `protocol` is 1; `busy`: leases or running programs; `commands`: all that it carries out."""

    version: str
    protocol: Unsigned
    pid: Unsigned
    busy: bool
    commands: list[str]
    request_id: str | UnsetType = UNSET


class Started(Message, frozen=True, kw_only=True):
    """First event of a stream. `pid` is the program's number inside the sandbox."""

    request_id: str
    pid: Unsigned
    backend: str
    vmm: str | UnsetType = UNSET
    isolation: str | UnsetType = UNSET
    warm: bool | UnsetType = UNSET
    image: str | UnsetType = UNSET


class Stdout(Message, frozen=True, kw_only=True):
    """Output of a running program, at any cut."""

    request_id: str
    data: bytes = field(name="data_base64")


class Stderr(Message, frozen=True, kw_only=True):
    """Error output of a running program, at any cut."""

    request_id: str
    data: bytes = field(name="data_base64")


class Exit(Message, frozen=True, kw_only=True):
    """Last event of a stream: the program has ended, or could not be started (`problem` says why)."""

    request_id: str
    exit_code: Signed32
    signal: int | UnsetType = UNSET
    timed_out: bool | UnsetType = UNSET
    problem: str | UnsetType = UNSET


class Progress(Message, frozen=True, kw_only=True):
    """Something long goes on before the program can start (an image is built); `detail` is one line for a person."""

    request_id: str
    detail: str


class Accepted(Message, frozen=True, kw_only=True):
    """What was sent has been passed on; send more. `of` is the command that is accepted."""

    of: str | UnsetType = UNSET
    request_id: str | UnsetType = UNSET


class Archived(Message, frozen=True, kw_only=True):
    """The archive has been extracted; `entries` is the number of its members."""

    entries: Unsigned
    request_id: str | UnsetType = UNSET


class Renewed(Message, frozen=True, kw_only=True):
    """The lease lives so long again."""

    id: str
    expires_in_s: Unsigned
    request_id: str | UnsetType = UNSET


class Paused(Message, frozen=True, kw_only=True):
    """The lease's sandbox stands still."""

    id: str
    request_id: str | UnsetType = UNSET


class Resumed(Message, frozen=True, kw_only=True):
    """The lease's sandbox runs."""

    id: str
    request_id: str | UnsetType = UNSET


class Forked(Message, frozen=True, kw_only=True):
    """Leases of the copies; `vsock_paths` in the order of `ids`."""

    ids: list[str]
    vsock_paths: list[str] | UnsetType = UNSET
    backend: str
    vmm: str | UnsetType = UNSET
    isolation: str | UnsetType = UNSET
    image: str | UnsetType = UNSET
    expires_in_s: Unsigned
    request_id: str | UnsetType = UNSET


class SnapshotTaken(Message, frozen=True, kw_only=True, tag="snapshot"):
    """A sandbox has been saved. `snapshot` is the right to restore it."""

    snapshot: str
    size_bytes: Unsigned
    request_id: str | UnsetType = UNSET


class SnapshotFacts(Struct, frozen=True, kw_only=True):
    """One snapshot. `taken_s` counts from 1970; `runtime` is empty where `image` is there."""

    snapshot: str
    runtime: str
    taken_s: Unsigned
    size_bytes: Unsigned
    image: str | UnsetType = UNSET


class SnapshotsReply(Message, frozen=True, kw_only=True, tag="snapshots"):
    """All that are kept, oldest first."""

    snapshots: list[SnapshotFacts]
    request_id: str | UnsetType = UNSET


class SnapshotRemoved(Message, frozen=True, kw_only=True):
    """It is deleted."""

    snapshot: str
    request_id: str | UnsetType = UNSET


Reply = (
    Acquired
    | Released
    | Executed
    | StatusReply
    | Prewarmed
    | ShuttingDown
    | ErrorReply
    | HelloReply
    | Started
    | Stdout
    | Stderr
    | Exit
    | Progress
    | Accepted
    | Archived
    | Renewed
    | Paused
    | Resumed
    | Forked
    | SnapshotTaken
    | SnapshotsReply
    | SnapshotRemoved
)
