"""What `feed` returns."""

from __future__ import annotations

from dataclasses import dataclass

from agentkernel.wire.fields import Payload


@dataclass(frozen=True, slots=True)
class Attached:
    """The epoch has begun: for a host, its ECHO came; for a guest, an ATTACH, and all older channels are closed."""

    epoch: bytes


@dataclass(frozen=True, slots=True)
class Detached:
    """Only a guest sees this: a framing error. All channels are closed and it hunts for the next ATTACH."""

    reason: str


@dataclass(frozen=True, slots=True)
class Received:
    """One valid frame. `channel` is 0 for control."""

    channel: int
    message: Payload


Event = Attached | Detached | Received
