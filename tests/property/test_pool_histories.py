"""The pool through random histories. Every command is held against the model in tests/support/pool_world.py."""

from __future__ import annotations

import random
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from tests.support.pool_world import World, key

from agentkernel.model.ids import SandboxId
from agentkernel.model.kinds import Mode
from agentkernel.pool.events import HostLimits, Ticket

KEYS = [key("base"), key("python", Mode.CLAUDE), key("python", Mode.CODEX), key("odd", Mode.CLAUDE)]
FORKED = replace(key(), origin="a saved sandbox")
"""Asked for like the others, and never configured."""


class PoolMachine(RuleBasedStateMachine):
    """One rule per thing that may happen; the world checks after each."""

    @initialize(most=st.integers(1, 8), booting=st.integers(1, 4))
    def begin(self, most: int, booting: int) -> None:
        self.world = World(HostLimits(max_sandboxes=most, max_booting=booting, max_age_s=50.0, recent_use_s=80.0))

    @rule(which=st.sampled_from(KEYS), low=st.integers(0, 3), more=st.integers(0, 2), fill=st.booleans())
    def configure(self, which, low: int, more: int, fill: bool) -> None:
        self.world.configure(which, low, low + more, fill=fill)

    @rule(which=st.sampled_from([*KEYS, FORKED]))
    def ask(self, which) -> None:
        self.world.ask(which)

    @rule(which=st.lists(st.sampled_from(KEYS), max_size=3))
    def prewarm(self, which) -> None:
        self.world.prewarm(*which)

    @precondition(lambda self: self.world.waiting or self.world.prewarms or self.world.settled)
    @rule(data=st.data())
    def withdraw(self, data) -> None:
        tickets = [*self.world.waiting, *self.world.prewarms, *self.world.settled]
        self.world.withdraw(data.draw(st.sampled_from(tickets)))

    @precondition(lambda self: self.world.boxes or self.world.gone)
    @rule(data=st.data(), happens=st.sampled_from(["boot_succeeds", "boot_fails", "give_back", "die", "go"]))
    def something_happens_to_any_sandbox(self, data, happens: str) -> None:
        """Also what cannot happen to it in its state, or comes late, or twice."""
        box = data.draw(st.sampled_from([*self.world.boxes, *self.world.gone]))
        getattr(self.world, happens)(box)

    @precondition(lambda self: self.world.all("booting"))
    @rule(data=st.data(), works=st.booleans(), final=st.booleans())
    def a_boot_ends(self, data, works: bool, final: bool) -> None:
        box = data.draw(st.sampled_from(self.world.all("booting")))
        _ = self.world.boot_succeeds(box) if works else self.world.boot_fails(box, final=final)

    @precondition(lambda self: self.world.all("lent") or self.world.all("dying"))
    @rule()
    def the_first_that_can_end_ends(self) -> None:
        for box in self.world.all("dying")[:1]:
            self.world.go(box)
        for box in self.world.all("lent")[:1]:
            self.world.give_back(box)

    @rule(after_s=st.sampled_from([-5.0, 0.0, 0.5, 3.0, 20.0, 49.0, 81.0]))
    def time_passes(self, after_s: float) -> None:
        self.world.tick(max(after_s, 0.0))
        self.world.now_s = max(self.world.now_s, 0.0)

    @precondition(lambda self: not self.world.drained)
    @rule(really=st.integers(0, 9))
    def drain(self, really: int) -> None:
        if really == 9:
            self.world.drain()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.finish()


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(stateful_step_count=40)


def one_random_history(seed: int) -> None:
    """A history from one seed, much faster than hypothesis' own choices."""
    dice = random.Random(seed)
    world = World(
        HostLimits(max_sandboxes=dice.randint(1, 6), max_booting=dice.randint(1, 3), max_age_s=50.0, recent_use_s=80.0)
    )
    happenings = [world.boot_succeeds, world.boot_succeeds, world.boot_fails, world.give_back, world.die, world.go]
    for _ in range(dice.randint(5, 60)):
        chance = dice.random()
        which = dice.choice(KEYS)
        if chance < 0.25:
            world.ask(dice.choice([which, which, FORKED]))
        elif chance < 0.32:
            low = dice.randint(0, 3)
            world.configure(which, low, low + dice.randint(0, 2), fill=dice.random() < 0.5)
        elif chance < 0.36:
            world.prewarm(*dice.sample(KEYS, dice.randint(0, 2)))
        elif chance < 0.42:
            world.withdraw(dice.choice([*world.waiting, *world.prewarms, *world.settled, Ticket(0)]))
        elif chance < 0.5:
            world.tick(dice.choice([0.0, 0.5, 3.0, 20.0, 49.0, 81.0]))
        elif chance < 0.505:
            world.drain()
        else:
            box = dice.choice([*world.boxes, *world.gone[-2:], SandboxId("never")])
            dice.choice(happenings)(box)
    world.finish()


@given(st.integers(0, 2**64))
def test_any_history_keeps_every_rule_of_the_pool(seed: int) -> None:
    one_random_history(seed)
