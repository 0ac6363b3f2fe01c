"""What the pool keeps per key: its limits, its queue, its unused sandboxes, its bad luck."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice

from agentkernel.model.ids import SandboxId
from agentkernel.pool.events import Key, Limits, Ticket

ATTEMPTS = 3
"""Boots that may fail in a row before everyone who waits for the key is told the cause."""

LONGEST_PAUSE_S = 60.0


@dataclass(slots=True)
class Trouble:
    """How often boots failed and warm sandboxes died lately, and until when refills therefore pause.

    Only refills pause: a caller who asks still gets a try at once, because the cause may be gone.
    """

    failures: int = 0
    deaths: int = 0
    paused_until_s: float = float("-inf")

    @property
    def grave(self) -> bool:
        """So many boots failed in a row that one try at a time, and one failure, are enough."""
        return self.failures >= ATTEMPTS

    def boot_failed(self, now_s: float, *, final: bool) -> None:
        """One more failed boot. A final one counts as all attempts and pauses longest."""
        self.failures = max(self.failures + 1, ATTEMPTS if final else 0)
        self.paused_until_s = now_s + (LONGEST_PAUSE_S if final else pause_s(self.failures))

    def died_unused(self, now_s: float) -> None:
        """One more warm sandbox died. The first is replaced at once; then ever slower, so that a broken image is no
        hot loop.
        """
        self.deaths += 1
        if self.deaths > 1:
            self.paused_until_s = max(self.paused_until_s, now_s + pause_s(self.deaths - 1))

    def boot_succeeded(self) -> None:
        """Boots work again."""
        self.failures = 0
        if not self.deaths:
            self.paused_until_s = float("-inf")

    def lent(self) -> None:
        """A sandbox lived until it was needed."""
        self.deaths = 0


def pause_s(times: int) -> float:
    """Seconds to pause after so many failures in a row: 1, 2, 4, ... 60."""
    return min(LONGEST_PAUSE_S, 2.0 ** min(times - 1, 6))


@dataclass(slots=True, eq=False)
class Shelf:
    """One key. `warm` holds its sandboxes oldest first with the time they became warm; `waiters` their arrival
    numbers, in order.
    """

    key: Key
    limits: Limits
    fill: bool
    known_s: float
    used_s: float = float("-inf")
    waiters: dict[Ticket, int] = field(default_factory=dict)
    warm: dict[SandboxId, float] = field(default_factory=dict)
    booting: dict[SandboxId, None] = field(default_factory=dict)
    trouble: Trouble = field(default_factory=Trouble)

    def is_kept(self, now_s: float, recent_use_s: float) -> bool:
        """Whether unused sandboxes of this key are worth keeping: a configured prewarm, or used lately."""
        return self.fill or now_s < self.used_s + recent_use_s

    def target(self, now_s: float, recent_use_s: float) -> int:
        """How many unused ones to hold: `min_warm`, and at least one for a key in use, within `max_warm`; nothing for
        a forgotten key.

        A key in use is filled to its whole minimum, not to one: whoever came back within ten minutes tends to come in
        bursts.
        """
        recently = now_s < self.used_s + recent_use_s
        wanted = max(self.limits.min_warm, 1) if recently else self.limits.min_warm if self.fill else 0
        return min(wanted, self.limits.max_warm)

    @property
    def spare(self) -> int:
        """Boots under way that no waiter will get."""
        return max(0, len(self.booting) - len(self.waiters))

    @property
    def stocked(self) -> int:
        """Unused sandboxes that are there or on their way."""
        return len(self.warm) + self.spare

    @property
    def uncovered(self) -> int:
        """Waiters that need a boot which has not begun; while boots keep failing, one try at a time."""
        wanted = min(len(self.waiters), 1) if self.trouble.grave else len(self.waiters)
        return max(0, wanted - len(self.booting))

    def next_arrival(self) -> int:
        """Arrival number of the first waiter without a boot. Call only when `uncovered`."""
        return next(islice(self.waiters.values(), len(self.booting), None))

    def aged(self, now_s: float, max_age_s: float) -> list[SandboxId]:
        """Warm ones of that age or more, oldest first. The same sum as in `next_tick_s`, so that rounding never hides
        one.
        """
        return [sandbox for sandbox, since_s in self.warm.items() if now_s >= since_s + max_age_s]
