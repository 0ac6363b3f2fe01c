"""What the pool is told (past tense) and what it answers (imperative)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType

from agentkernel.model.ids import SandboxId
from agentkernel.model.kinds import Mode
from agentkernel.model.spec import BootSpec

Ticket = NewType("Ticket", int)
"""One waiting request, numbered by the engine; never used twice."""


@dataclass(frozen=True, slots=True)
class Key:
    """What warm sandboxes are kept apart by: a mode multiplies no templates, but its sandboxes are counted apart.

    Attributes:
        origin: the folder that its sandboxes are restored from, each for the caller who asked; empty for new ones. Such
            a key is never configured, so that nothing of it is kept warm.
    """

    spec: BootSpec
    mode: Mode
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """How many unused sandboxes of one key to keep: refill below `min_warm`, never above `max_warm`."""

    min_warm: int
    max_warm: int


@dataclass(frozen=True, slots=True)
class HostLimits:
    """Attributes:
    max_sandboxes: booting, warm, lent and dying together.
    max_booting: boots at the same time.
    max_age_s: a warm sandbox older than this is replaced.
    recent_use_s: a key asked for within this time keeps at least one warm.
    """

    max_sandboxes: int = 32
    max_booting: int = 2
    max_age_s: float = 300.0
    recent_use_s: float = 600.0


# --- events ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Configured:
    """A key is known, with its limits. Told again, both values replace the old ones. `fill`: keep it filled always (a
    configured prewarm mode).

    Tell it before each Asked: a key that nobody used for `recent_use_s` is forgotten, and a key that is not known
    keeps nothing warm.
    """

    key: Key
    limits: Limits
    fill: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """A caller wants a sandbox of a configured key. Answered, now or later, by exactly one Lend or Fail, unless
    Withdrawn first.
    """

    ticket: Ticket
    key: Key


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """The caller gave up (deadline, gone) before it was answered."""

    ticket: Ticket


@dataclass(frozen=True, slots=True)
class PrewarmAsked:
    """Fill each of these keys to its minimum. Answered by exactly one Prewarmed or Fail, unless Withdrawn first."""

    ticket: Ticket
    keys: tuple[Key, ...]


@dataclass(frozen=True, slots=True)
class Booted:
    """A Boot has succeeded: unused and warm."""

    sandbox: SandboxId


@dataclass(frozen=True, slots=True)
class BootFailed:
    """A Boot came to nothing and has left nothing behind. `final`: trying again is useless (Refused)."""

    sandbox: SandboxId
    cause: Exception
    final: bool


@dataclass(frozen=True, slots=True)
class GaveBack:
    """The lent sandbox is no longer needed."""

    sandbox: SandboxId


@dataclass(frozen=True, slots=True)
class Died:
    """A warm or lent sandbox died by itself; what is left of it must still be destroyed."""

    sandbox: SandboxId


@dataclass(frozen=True, slots=True)
class Gone:
    """A Destroy has been carried out: nothing is left and its room is free."""

    sandbox: SandboxId


@dataclass(frozen=True, slots=True)
class Ticked:
    """Time has passed; told at `Pool.next_tick_s`, or whenever the engine likes."""


@dataclass(frozen=True, slots=True)
class Drained:
    """Shut down: no more boots, fail all waiters, destroy everything."""


Event = Configured | Asked | Withdrawn | PrewarmAsked | Booted | BootFailed | GaveBack | Died | Gone | Ticked | Drained


# --- commands -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Boot:
    """Begin to make a sandbox of that specification; answer with Booted or BootFailed."""

    sandbox: SandboxId
    key: Key


@dataclass(frozen=True, slots=True)
class Lend:
    """Give this sandbox, which nobody has used, to that caller; end with GaveBack or Died. `warm`: it was there, the
    caller did not wait.
    """

    ticket: Ticket
    sandbox: SandboxId
    warm: bool


@dataclass(frozen=True, slots=True)
class Destroy:
    """End it, in the background; answer with Gone. May come for a boot that has not finished: then cancel it and
    answer Gone.
    """

    sandbox: SandboxId


@dataclass(frozen=True, slots=True)
class Prewarmed:
    """The prewarm call made so many sandboxes."""

    ticket: Ticket
    count: int


@dataclass(frozen=True, slots=True)
class Fail:
    """Tell that caller why it gets nothing."""

    ticket: Ticket
    cause: Exception


Command = Boot | Lend | Destroy | Prewarmed | Fail


@dataclass(frozen=True, slots=True)
class Counts:
    """Sums over all keys, and warm per mode (modes without any are left out)."""

    warm: int
    in_use: int
    booting: int
    dying: int
    waiting: int
    min_warm: int
    max_warm: int
    warm_by_mode: dict[Mode, int]
