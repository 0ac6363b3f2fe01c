"""Prewarm calls under way: which boots they wish for, which they wait for, what they have made."""

from __future__ import annotations

from dataclasses import dataclass, field

from agentkernel.model.ids import SandboxId
from agentkernel.pool.events import Fail, Key, Prewarmed, Ticket
from agentkernel.pool.shelf import Shelf
from agentkernel.pool.stock import Stock


@dataclass(slots=True)
class Call:
    """One call. `awaited` are boots it needs, true for those that it caused itself; `wishes` are boots not begun yet,
    per key.
    """

    wishes: dict[Key, int] = field(default_factory=dict)
    awaited: dict[SandboxId, bool] = field(default_factory=dict)
    made: int = 0


class Calls:
    """All prewarm calls, in order of arrival.

    A call wishes for what is missing to the minimum of its keys when it comes; boots that are under way for nobody
    else are awaited, but not counted as its own. A wish lapses when the key is full or the host has no room: a call
    never waits for room.
    """

    def __init__(self, stock: Stock) -> None:
        self._stock = stock
        self._calls: dict[Ticket, Call] = {}

    def ask(self, ticket: Ticket, keys: tuple[Key, ...]) -> None:
        """A call has come. It is a use of its keys, else what it makes would be emptied at the next tick."""
        call = self._calls[ticket] = Call()
        for key in dict.fromkeys(keys):
            shelf = self._stock.shelf(key)
            shelf.used_s = self._stock.now_s
            missing = minimum(shelf) - len(shelf.warm)
            under_way = list(shelf.booting)[len(shelf.booting) - shelf.spare :][: max(0, missing)]
            call.awaited.update(dict.fromkeys(under_way, False))
            call.wishes[key] = max(0, missing - len(under_way))

    def withdraw(self, ticket: Ticket) -> None:
        """Its caller has gone; boots under way go on and fill the shelf."""
        self._calls.pop(ticket, None)

    def booted(self, sandbox: SandboxId) -> None:
        """A boot succeeded; it is made even when a waiter gets it at once."""
        for call in self._calls.values():
            call.made += call.awaited.pop(sandbox, False)

    def lost(self, sandbox: SandboxId) -> None:
        """A boot was cancelled, to make room for a waiter: no failure, and not made."""
        for call in self._calls.values():
            call.awaited.pop(sandbox, None)

    def boot_failed(self, sandbox: SandboxId, shelf: Shelf, cause: Exception) -> None:
        """A boot failed. Calls that needed it fail; where others have filled the shelf meanwhile it was not needed."""
        needed = shelf.stocked < minimum(shelf)
        for ticket, call in list(self._calls.items()):
            if call.awaited.pop(sandbox, None) is not None and needed:
                del self._calls[ticket]
                self._stock.commands.append(Fail(ticket, cause))

    def fail_all(self, cause: Exception) -> None:
        """Shut down."""
        self._stock.commands.extend(Fail(ticket, cause) for ticket in self._calls)
        self._calls.clear()

    def wished(self) -> set[Key]:
        """Keys that a call still wants to fill; they are not forgotten meanwhile."""
        return {key for call in self._calls.values() for key, wished in call.wishes.items() if wished}

    def plan(self) -> None:
        """Begin wished boots as far as slots go, let wishes lapse, answer calls that have nothing left to wait for."""
        for ticket, call in list(self._calls.items()):
            for key in [key for key, wished in call.wishes.items() if wished]:
                self._grant(call, self._stock.shelf(key))
            if not call.awaited and not any(call.wishes.values()):
                del self._calls[ticket]
                self._stock.commands.append(Prewarmed(ticket, call.made))

    def _grant(self, call: Call, shelf: Shelf) -> None:
        stock = self._stock
        while call.wishes[shelf.key]:
            if stock.room <= 0 or shelf.stocked >= minimum(shelf):
                call.wishes[shelf.key] = 0
            elif stock.slots <= 0:
                return
            else:
                call.awaited[stock.boot(shelf)] = True
                call.wishes[shelf.key] -= 1


def minimum(shelf: Shelf) -> int:
    """What prewarm fills to."""
    return min(shelf.limits.min_warm, shelf.limits.max_warm)
