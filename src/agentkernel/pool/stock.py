"""Every sandbox of the host, its state, and the four transitions between states; each transition says its command."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from agentkernel.model.ids import SandboxId
from agentkernel.pool.events import Boot, Command, Destroy, HostLimits, Key, Lend, Limits, Ticket
from agentkernel.pool.shelf import Shelf


class State(Enum):
    """A sandbox moves down this list, may skip, and never goes back: so it is lent at most once."""

    BOOTING = 1
    WARM = 2
    LENT = 3
    DYING = 4


@dataclass(slots=True)
class Sandbox:
    """One sandbox and where it belongs."""

    shelf: Shelf
    state: State


class Stock:
    """The sandboxes. `commands` collects what the engine has to do; whoever calls takes and clears it."""

    def __init__(self, limits: HostLimits, new_id: Callable[[], SandboxId]) -> None:
        self.limits = limits
        self.now_s = float("-inf")
        self.shelves: dict[Key, Shelf] = {}
        self.commands: list[Command] = []
        self._new_id = new_id
        self._sandboxes: dict[SandboxId, Sandbox] = {}
        self._by_state: Counter[State] = Counter()

    @property
    def room(self) -> int:
        """How many more sandboxes the host may hold; those that are dying still take room."""
        return self.limits.max_sandboxes - len(self._sandboxes)

    @property
    def slots(self) -> int:
        """How many more boots may begin now, by `max_booting` alone."""
        return self.limits.max_booting - self._by_state[State.BOOTING]

    def count(self, state: State) -> int:
        """How many sandboxes are in that state."""
        return self._by_state[state]

    def state_of(self, sandbox: SandboxId) -> State | None:
        """Its state, or None for one that is unknown or gone."""
        found = self._sandboxes.get(sandbox)
        return found.state if found else None

    def shelf_of(self, sandbox: SandboxId) -> Shelf:
        """Where a known sandbox belongs."""
        return self._sandboxes[sandbox].shelf

    def shelf(self, key: Key) -> Shelf:
        """The shelf of a key; a key that nobody configured, or that was forgotten, keeps nothing warm."""
        if key not in self.shelves:
            self.shelves[key] = Shelf(key, Limits(0, 0), fill=False, known_s=self.now_s)
        return self.shelves[key]

    def everything(self) -> list[SandboxId]:
        """All known sandboxes, in the order of their boots."""
        return list(self._sandboxes)

    def boot(self, shelf: Shelf) -> SandboxId:
        """Begin a boot. The caller has looked at `room` and `slots`."""
        sandbox = self._new_id()
        self._sandboxes[sandbox] = Sandbox(shelf, State.BOOTING)
        self._by_state[State.BOOTING] += 1
        shelf.booting[sandbox] = None
        self.commands.append(Boot(sandbox, shelf.key))
        return sandbox

    def shelve(self, sandbox: SandboxId) -> None:
        """Keep a booted one unused."""
        self._move(sandbox, State.WARM)
        self.shelf_of(sandbox).warm[sandbox] = self.now_s

    def lend(self, sandbox: SandboxId, ticket: Ticket) -> None:
        """Give it to one caller, for good."""
        warm = self.state_of(sandbox) is State.WARM
        self._move(sandbox, State.LENT)
        self.shelf_of(sandbox).trouble.lent()
        self.commands.append(Lend(ticket, sandbox, warm))

    def destroy(self, sandbox: SandboxId) -> None:
        """End it, whatever it is doing; it takes room until it is gone. Nothing happens to one that is dying."""
        if self.state_of(sandbox) is not State.DYING:
            self._move(sandbox, State.DYING)
            self.commands.append(Destroy(sandbox))

    def remove(self, sandbox: SandboxId) -> None:
        """It is gone: its room is free."""
        self._move(sandbox, State.DYING)
        self._by_state[State.DYING] -= 1
        del self._sandboxes[sandbox]

    def shelves_in_use(self) -> set[Key]:
        """Keys that any sandbox belongs to, lent and dying ones included."""
        return {found.shelf.key for found in self._sandboxes.values()}

    def _move(self, sandbox: SandboxId, state: State) -> None:
        found = self._sandboxes[sandbox]
        found.shelf.booting.pop(sandbox, None)
        found.shelf.warm.pop(sandbox, None)
        self._by_state[found.state] -= 1
        self._by_state[state] += 1
        found.state = state
