"""The pool: events in, commands out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from agentkernel.model.errors import Busy
from agentkernel.model.ids import SandboxId
from agentkernel.model.kinds import Mode
from agentkernel.pool.events import (
    Asked,
    Booted,
    BootFailed,
    Command,
    Configured,
    Counts,
    Died,
    Drained,
    Event,
    Fail,
    GaveBack,
    Gone,
    HostLimits,
    PrewarmAsked,
    Ticket,
    Withdrawn,
)
from agentkernel.pool.plan import next_tick_s, plan
from agentkernel.pool.prewarm import Calls
from agentkernel.pool.shelf import Shelf
from agentkernel.pool.stock import State, Stock


class Pool:
    """Decides which sandbox is lent, booted, destroyed.

    After each event the whole plan is made anew from the state, so no decision depends on an event having come in
    time. Events about sandboxes or tickets that are unknown or settled change nothing. A clock that goes backwards
    counts as standing still.

    Args:
        limits: of the host.
        new_id: a fresh identifier for each boot.
    """

    def __init__(self, limits: HostLimits, new_id: Callable[[], SandboxId]) -> None:
        self._stock = Stock(limits, new_id)
        self._calls = Calls(self._stock)
        self._waiting_at: dict[Ticket, Shelf] = {}
        self._arrivals = 0
        self._drained = False

    def feed(self, event: Event, now_s: float) -> list[Command]:
        """Take one event; returns what the engine has to do, in order. `now_s` is any clock that does not jump."""
        self._stock.now_s = max(self._stock.now_s, now_s)
        self._take(event)
        if not self._drained:
            plan(self._stock, self._calls)
        commands, self._stock.commands = self._stock.commands, []
        return commands

    @property
    def next_tick_s(self) -> float | None:
        """When `Ticked` is due next, on the clock of `feed`; None when time alone changes nothing."""
        return None if self._drained else next_tick_s(self._stock)

    def counts(self) -> Counts:
        """The truth for `status`. Calls of prewarm are not counted as waiting."""
        stock, shelves = self._stock, list(self._stock.shelves.values())
        by_mode: Counter[Mode] = Counter()
        for shelf in shelves:
            by_mode[shelf.key.mode] += len(shelf.warm)
        return Counts(
            warm=stock.count(State.WARM),
            in_use=stock.count(State.LENT),
            booting=stock.count(State.BOOTING),
            dying=stock.count(State.DYING),
            waiting=len(self._waiting_at),
            min_warm=sum(shelf.limits.min_warm for shelf in shelves),
            max_warm=sum(shelf.limits.max_warm for shelf in shelves),
            warm_by_mode={mode: warm for mode, warm in by_mode.items() if warm},
        )

    def _take(self, event: Event) -> None:
        match event:
            case Asked() | PrewarmAsked():
                self._asked(event)
            case Withdrawn(ticket):
                self._leave_queue(ticket)
                self._calls.withdraw(ticket)
            case Configured():
                self._configured(event)
            case Booted(sandbox):
                self._booted(sandbox)
            case BootFailed():
                self._boot_failed(event)
            case GaveBack(sandbox) if self._stock.state_of(sandbox) is State.LENT:
                self._stock.destroy(sandbox)
            case Died(sandbox):
                self._died(sandbox)
            case Gone(sandbox) if self._stock.state_of(sandbox):
                self._calls.lost(sandbox)
                self._stock.remove(sandbox)
            case Drained():
                self._drain()
        # Ticked only calls for a plan; GaveBack and Gone without effect are late, or about what is unknown.

    def _asked(self, event: Asked | PrewarmAsked) -> None:
        if self._drained:
            self._stock.commands.append(Fail(event.ticket, shutting_down()))
        elif isinstance(event, PrewarmAsked):
            self._calls.ask(event.ticket, event.keys)
        else:
            shelf = self._stock.shelf(event.key)
            shelf.used_s = self._stock.now_s
            if shelf.warm:
                # The oldest: it is the next to be replaced for its age, so lending it wastes the fewest boots.
                self._stock.lend(next(iter(shelf.warm)), event.ticket)
            else:
                self._arrivals += 1
                shelf.waiters[event.ticket] = self._arrivals
                self._waiting_at[event.ticket] = shelf

    def _leave_queue(self, ticket: Ticket) -> None:
        shelf = self._waiting_at.pop(ticket, None)
        if shelf:
            del shelf.waiters[ticket]

    def _configured(self, event: Configured) -> None:
        shelf = self._stock.shelf(event.key)
        shelf.limits, shelf.fill, shelf.known_s = event.limits, event.fill, self._stock.now_s

    def _booted(self, sandbox: SandboxId) -> None:
        if self._stock.state_of(sandbox) is not State.BOOTING:
            return
        shelf = self._stock.shelf_of(sandbox)
        shelf.trouble.boot_succeeded()
        self._calls.booted(sandbox)
        if shelf.waiters:
            ticket = next(iter(shelf.waiters))
            self._leave_queue(ticket)
            self._stock.lend(sandbox, ticket)
        elif len(shelf.warm) < shelf.limits.max_warm:
            self._stock.shelve(sandbox)
        else:
            self._stock.destroy(sandbox)

    def _boot_failed(self, event: BootFailed) -> None:
        state = self._stock.state_of(event.sandbox)
        if state not in {State.BOOTING, State.DYING}:
            return
        shelf = self._stock.shelf_of(event.sandbox)
        self._stock.remove(event.sandbox)
        if state is State.DYING:  # it was being cancelled, and failed first: nothing is left, and nobody's failure
            return
        shelf.trouble.boot_failed(self._stock.now_s, final=event.final)
        self._calls.boot_failed(event.sandbox, shelf, event.cause)
        if shelf.trouble.grave:
            self._fail_waiters(shelf, event.cause)

    def _died(self, sandbox: SandboxId) -> None:
        # A lent one is destroyed at once as well: its room is worth more than waiting for the caller, whose GaveBack
        # is ignored then.
        match self._stock.state_of(sandbox):
            case State.WARM:
                self._stock.shelf_of(sandbox).trouble.died_unused(self._stock.now_s)
                self._stock.destroy(sandbox)
            case State.LENT:
                self._stock.destroy(sandbox)

    def _fail_waiters(self, shelf: Shelf, cause: Exception) -> None:
        for ticket in list(shelf.waiters):
            self._leave_queue(ticket)
            self._stock.commands.append(Fail(ticket, cause))

    def _drain(self) -> None:
        self._drained = True
        for shelf in self._stock.shelves.values():
            self._fail_waiters(shelf, shutting_down())
        self._calls.fail_all(shutting_down())
        for sandbox in self._stock.everything():
            self._stock.destroy(sandbox)


def shutting_down() -> Busy:
    """What everyone is told who asks too late. Retryable: the next daemon can serve the same request."""
    return Busy("The daemon is shutting down.", hint="Ask again; a new daemon starts on demand.")
