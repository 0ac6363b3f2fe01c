"""A world around the pool: carries its commands out as it is told to, and holds every one against a simple model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from agentkernel.model.errors import Broken
from agentkernel.model.ids import Digest, SandboxId
from agentkernel.model.kinds import Backend, Mode
from agentkernel.model.spec import BootSpec
from agentkernel.pool.events import (
    Asked,
    Boot,
    Booted,
    BootFailed,
    Command,
    Configured,
    Destroy,
    Died,
    Drained,
    Event,
    Fail,
    GaveBack,
    Gone,
    HostLimits,
    Key,
    Lend,
    Limits,
    PrewarmAsked,
    Prewarmed,
    Ticked,
    Ticket,
    Withdrawn,
)
from agentkernel.pool.machine import Pool

CAUSE = Broken("no boot today")


def key(runtime: str = "base", mode: Mode = Mode.NATIVE) -> Key:
    """A key whose other parts do not matter to the pool."""
    return Key(BootSpec(Backend.MICROVM, runtime, Digest("0" * 64)), mode)


@dataclass
class Box:
    """The model's view of one sandbox."""

    key: Key
    state: str = "booting"


@dataclass
class World:
    """Feeds a pool, obeys it, and fails on the first command or count that the model does not allow."""

    limits: HostLimits = field(default_factory=HostLimits)
    now_s: float = 0.0

    def __post_init__(self) -> None:
        numbers = count()
        self.pool = Pool(self.limits, lambda: SandboxId(f"s{next(numbers)}"))
        self.boxes: dict[SandboxId, Box] = {}
        self.gone: list[SandboxId] = []
        self.known: dict[Key, Limits] = {}
        self.fill: set[Key] = set()
        self.waiting: dict[Ticket, Key] = {}
        self.prewarms: dict[Ticket, int] = {}
        self.settled: dict[Ticket, Command | Withdrawn] = {}
        self.failed_in_row: dict[Key, int] = {}
        self.booted = 0
        self.drained = False
        self._tickets = count(1)

    # --- what the outside does ----------------------------------------------------------------------------------

    def configure(self, key: Key, min_warm: int, max_warm: int, *, fill: bool = False) -> list[Command]:
        self.known[key] = Limits(min_warm, max_warm)
        (self.fill.add if fill else self.fill.discard)(key)
        return self.feed(Configured(key, self.known[key], fill))

    def ask(self, key: Key) -> Ticket:
        ticket = Ticket(next(self._tickets))
        self.waiting[ticket] = key
        self.feed(Asked(ticket, key))
        return ticket

    def prewarm(self, *keys: Key) -> Ticket:
        ticket = Ticket(next(self._tickets))
        self.prewarms[ticket] = self.booted
        self.feed(PrewarmAsked(ticket, keys))
        return ticket

    def withdraw(self, ticket: Ticket) -> list[Command]:
        if self.waiting.pop(ticket, None) or self.prewarms.pop(ticket, None) is not None:
            self.settled[ticket] = Withdrawn(ticket)
        return self.feed(Withdrawn(ticket))

    def boot_succeeds(self, box: SandboxId) -> list[Command]:
        if box in self.boxes and self.boxes[box].state == "booting":
            self.boxes[box].state = "booted"
            self.failed_in_row[self.boxes[box].key] = 0
            self.booted += 1
        return self.feed(Booted(box))

    def boot_fails(self, box: SandboxId, *, final: bool = False) -> list[Command]:
        if box in self.boxes and self.boxes[box].state == "booting":
            key = self.boxes[box].key
            self.failed_in_row[key] = max(self.failed_in_row.get(key, 0) + 1, 3 if final else 0)
        if box in self.boxes and self.boxes[box].state in {"booting", "dying"}:
            del self.boxes[box]
        return self.feed(BootFailed(box, CAUSE, final))

    def give_back(self, box: SandboxId) -> list[Command]:
        return self.feed(GaveBack(box))

    def die(self, box: SandboxId) -> list[Command]:
        return self.feed(Died(box))

    def go(self, box: SandboxId) -> list[Command]:
        if box in self.boxes:
            del self.boxes[box]
            self.gone.append(box)
        return self.feed(Gone(box))

    def tick(self, after_s: float = 0.0) -> list[Command]:
        self.now_s += after_s
        return self.feed(Ticked())

    def drain(self) -> list[Command]:
        self.drained = True
        return self.feed(Drained())

    # --- looking ------------------------------------------------------------------------------------------------

    def all(self, state: str, key: Key | None = None) -> list[SandboxId]:
        return [box for box, found in self.boxes.items() if found.state == state and key in {None, found.key}]

    def answer(self, ticket: Ticket) -> Command | Withdrawn | None:
        return self.settled.get(ticket)

    # --- the model ----------------------------------------------------------------------------------------------

    def feed(self, event: Event) -> list[Command]:
        commands = self.pool.feed(event, self.now_s)
        for command in commands:
            self._obey(command)
        for box in self.all("booted"):
            assert any(isinstance(command, Lend) for command in commands) is False
            self.boxes[box].state = "warm"
        for key in self.failed_in_row.keys() - self.pool._stock.shelves.keys():
            self.failed_in_row[key] = 0  # a forgotten key's bad luck is forgotten with it
        self._check()
        return commands

    def _obey(self, command: Command) -> None:
        match command:
            case Boot(box, key):
                assert not self.drained, "a boot after Drained"
                assert box not in self.boxes
                self._check_turn(key)
                self.boxes[box] = Box(key)
            case Lend(ticket, box, warm):
                found = self.boxes[box]
                assert found.state in {"warm", "booted"}, f"lent while {found.state}"
                assert self.waiting[ticket] == found.key
                assert ticket == next(t for t, k in self.waiting.items() if k == found.key), (
                    "not the first in the queue"
                )
                assert warm == (found.state == "warm")
                found.state = "lent"
                self._settle(command, self.waiting)
            case Destroy(box):
                assert self.boxes[box].state != "dying", "destroyed twice"
                self.boxes[box].state = "dying"
            case Prewarmed(ticket, made):
                assert 0 <= made <= self.booted - self.prewarms[ticket]
                self._settle(command, self.prewarms)
            case Fail(ticket, _):
                self._settle(command, self.waiting if ticket in self.waiting else self.prewarms)

    def _settle(self, command: Lend | Prewarmed | Fail, open_tickets: dict[Ticket, Key] | dict[Ticket, int]) -> None:
        assert command.ticket not in self.settled, "answered twice"
        del open_tickets[command.ticket]
        self.settled[command.ticket] = command

    def _uncovered(self) -> dict[Ticket, Key]:
        """Waiters that no boot under way will serve, in order of arrival; after three failures one try at a time."""
        boots = {key: len(self.all("booting", key)) for key in set(self.waiting.values())}
        found: dict[Ticket, Key] = {}
        for ticket, key in self.waiting.items():
            if boots[key] > 0:
                boots[key] -= 1
            elif self.failed_in_row.get(key, 0) < 3 or not (self.all("booting", key) or key in found.values()):
                found[ticket] = key
        return found

    def _check_turn(self, key: Key) -> None:
        uncovered = self._uncovered()
        if uncovered:
            assert key == next(iter(uncovered.values())), "a boot out of turn while somebody waits"

    def _check(self) -> None:
        assert len(self.boxes) <= self.limits.max_sandboxes
        assert len(self.all("booting")) <= self.limits.max_booting
        room = self.limits.max_sandboxes - len(self.boxes)
        slots = self.limits.max_booting - len(self.all("booting"))
        for key in {box.key for box in self.boxes.values()}:
            warm = len(self.all("warm", key))
            assert warm <= self.known.get(key, Limits(0, 0)).max_warm
            waiting = sum(1 for wanted in self.waiting.values() if wanted == key)
            assert not (warm and waiting), "someone waits beside a warm sandbox"
        if not self.drained and slots and self._uncovered():
            assert not room, "someone waits though there is room"
            assert self.all("dying") or not self.all("warm"), "someone waits for the room of an idle sandbox"
        self._check_counts()
        assert self.pool.next_tick_s is None or self.pool.next_tick_s > self.now_s
        assert self.pool.feed(Ticked(), self.now_s) == [], "the plan is not settled"

    def _check_counts(self) -> None:
        counts = self.pool.counts()
        assert counts.warm == len(self.all("warm")) == sum(counts.warm_by_mode.values())
        assert (counts.in_use, counts.booting, counts.dying) == tuple(
            len(self.all(state)) for state in ("lent", "booting", "dying")
        )
        assert counts.waiting == len(self.waiting)
        assert 0 not in counts.warm_by_mode.values()

    # --- the end of a history ---

    def quieten(self) -> None:
        """From now on everything works: boots succeed, callers give back, what is to go goes. Until nothing is left
        to do.
        """
        steps: list[tuple[str, Callable[[SandboxId], list[Command]]]] = [
            ("booting", self.boot_succeeds),
            ("dying", self.go),
            ("lent", self.give_back),
        ]
        for _ in range(10_000):
            due = [(step, box) for state, step in steps for box in self.all(state)]
            if not due:
                break
            due[0][0](due[0][1])
        else:
            raise AssertionError("the world never comes to rest")
        assert not self.waiting, "a waiter is stuck"
        assert not self.prewarms, "a prewarm call is stuck"

    def finish(self) -> None:
        """Everybody is answered; then, after refills were allowed again, kept keys are full; then nothing outlives
        Drained.
        """
        self.quieten()
        if not self.drained:
            self.tick(61.0)
            self.quieten()
            wanted = sum(min(self.known[filled].min_warm, self.known[filled].max_warm) for filled in self.fill)
            if wanted <= self.limits.max_sandboxes - len(self.all("warm")):
                for filled in self.fill:
                    limits = self.known[filled]
                    assert len(self.all("warm", filled)) >= min(limits.min_warm, limits.max_warm)
            late = self.ask(key("late"))
            self.drain()
            assert isinstance(self.answer(late), Fail)
        for box in list(self.boxes):
            assert self.boxes[box].state == "dying", "something outlives Drained"
            self.go(box)
        assert self.pool.next_tick_s is None
        assert isinstance(self.answer(self.ask(key())), Fail)
        assert isinstance(self.answer(self.prewarm(key())), Fail)
        assert not self.boxes
