"""The pool's decisions, one by one. Histories are in tests/property/test_pool_histories.py."""

from __future__ import annotations

import pytest
from tests.support.pool_world import CAUSE, World, key

from agentkernel.model.errors import Busy
from agentkernel.model.ids import SandboxId
from agentkernel.model.kinds import Mode
from agentkernel.pool.events import (
    Boot,
    Destroy,
    Fail,
    HostLimits,
    Lend,
    Prewarmed,
    Ticked,
    Ticket,
)

A = key("a")
B = key("b")
NOBODY = SandboxId("nobody")


def world(**limits: float) -> World:
    return World(HostLimits(**{"max_sandboxes": 8, "max_booting": 4, **limits}))  # type: ignore[arg-type]


def filled(low: int, high: int, **limits: float) -> World:
    found = world(**limits)
    found.configure(A, low, high, fill=True)
    for box in found.all("booting"):
        found.boot_succeeds(box)
    return found


def test_a_warm_sandbox_is_lent_at_once_and_its_place_refilled() -> None:
    found = filled(1, 2)
    (warm,) = found.all("warm")
    ticket = found.ask(A)
    assert found.answer(ticket) == Lend(ticket, warm, warm=True)
    assert len(found.all("booting")) == 1


def test_the_oldest_warm_one_is_lent_first() -> None:
    found = filled(1, 5)
    (oldest,) = found.all("warm")
    found.tick(10)
    found.configure(A, 2, 5, fill=True)
    found.boot_succeeds(found.all("booting")[0])
    ticket = found.ask(A)
    assert found.answer(ticket) == Lend(ticket, oldest, warm=True)


def test_who_finds_none_waits_for_a_boot_of_his_own() -> None:
    found = world()
    found.configure(A, 0, 0)
    ticket = found.ask(A)
    (boot,) = found.all("booting")
    assert found.answer(ticket) is None
    found.boot_succeeds(boot)
    assert found.answer(ticket) == Lend(ticket, boot, warm=False)


def test_a_key_that_nobody_configured_is_served_cold_and_keeps_nothing() -> None:
    found = world()
    ticket = found.ask(A)
    found.boot_succeeds(found.all("booting")[0])
    assert isinstance(found.answer(ticket), Lend)
    assert not found.all("booting")


def test_a_returned_sandbox_is_never_lent_again() -> None:
    found = filled(1, 1)
    found.ask(A)
    (lent,) = found.all("lent")
    assert Destroy(lent) in found.give_back(lent)
    found.go(lent)
    assert found.pool.counts().in_use == 0


def test_an_idle_sandbox_of_the_key_unused_longest_makes_room_for_a_waiter() -> None:
    found = filled(1, 2, max_sandboxes=2)
    found.configure(B, 1, 1, fill=True)
    found.boot_succeeds(found.all("booting")[0])
    (idle_a,) = found.all("warm", A)
    found.tick(1)
    found.prewarm(B)
    ticket = found.ask(key("c"))
    assert found.all("dying") == [idle_a]
    found.ask(key("c"))
    assert len(found.all("dying")) == 2
    found.go(idle_a)
    found.boot_succeeds(found.all("booting", key("c"))[0])
    assert isinstance(found.answer(ticket), Lend)


def test_a_boot_for_nobody_makes_room_when_nothing_is_warm() -> None:
    found = world(max_sandboxes=1)
    found.configure(A, 1, 1, fill=True)
    (refill,) = found.all("booting")
    found.ask(B)
    assert found.all("dying") == [refill]
    assert found.boot_fails(refill)[0] == Boot(SandboxId("s1"), B)


def test_boots_go_to_keys_in_the_order_of_their_waiters() -> None:
    found = world(max_sandboxes=1)
    found.ask(A)
    found.ask(A)
    found.ask(B)
    order = []
    for _ in range(3):
        (boot,) = found.all("booting")
        order.append(found.boxes[boot].key)
        found.boot_succeeds(boot)
        found.give_back(boot)
        found.go(boot)
    assert order == [A, A, B]


def test_an_unused_boot_of_one_who_left_is_kept_when_there_is_a_place_for_it() -> None:
    found = world()
    found.configure(A, 0, 1)
    for ticket in [found.ask(A), found.ask(A)]:
        found.withdraw(ticket)
    first, second, *_ = found.all("booting")
    found.boot_succeeds(first)
    assert Destroy(second) in found.boot_succeeds(second)
    assert found.all("warm") == [first]


def test_three_failures_in_a_row_fail_every_waiter_of_the_key_and_no_other() -> None:
    found = world(max_booting=1)
    tickets = [found.ask(A), found.ask(A)]
    other = found.ask(B)
    for _ in range(2):
        found.boot_fails(found.all("booting", A)[0])
        assert not found.settled
    found.boot_fails(found.all("booting", A)[0])
    assert [found.answer(ticket) for ticket in tickets] == [Fail(ticket, CAUSE) for ticket in tickets]
    assert found.answer(other) is None


def test_after_that_one_try_is_made_for_whoever_asks_next() -> None:
    found = world()
    found.ask(A)
    for _ in range(3):
        found.boot_fails(found.all("booting")[0])
    tickets = [found.ask(A), found.ask(A)]
    (only,) = found.all("booting")
    found.boot_fails(only)
    assert all(isinstance(found.answer(ticket), Fail) for ticket in tickets)
    tickets = [found.ask(A), found.ask(A)]
    found.boot_succeeds(found.all("booting")[0])
    assert isinstance(found.answer(tickets[0]), Lend)
    assert len(found.all("booting")) == 1


def test_a_final_failure_fails_the_waiters_at_once() -> None:
    found = world()
    ticket = found.ask(A)
    found.boot_fails(found.all("booting")[0], final=True)
    assert found.answer(ticket) == Fail(ticket, CAUSE)


def test_refills_pause_ever_longer_until_a_boot_succeeds() -> None:
    found = world()
    found.configure(A, 1, 1, fill=True)
    pauses = []
    for _ in range(8):
        found.boot_fails(found.all("booting")[0])
        assert not found.all("booting")
        assert found.pool.next_tick_s is not None
        pauses.append(found.pool.next_tick_s - found.now_s)
        found.tick(pauses[-1])
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    found.boot_succeeds(found.all("booting")[0])
    found.die(found.all("warm")[0])
    found.boot_fails(found.all("booting")[0])
    assert found.pool.next_tick_s == found.now_s + 1


def test_a_sandbox_that_dies_unused_is_replaced_at_once_the_first_time_and_then_slower() -> None:
    found = filled(1, 1)
    found.die(found.all("warm")[0])
    found.boot_succeeds(found.all("booting")[0])
    found.die(found.all("warm")[0])
    assert not found.all("booting")
    found.tick(1)
    found.boot_succeeds(found.all("booting")[0])
    found.ask(A)
    found.boot_succeeds(found.all("booting")[0])
    found.die(found.all("warm")[0])
    assert found.all("booting"), "one that was lent in between has shown that they live"


def test_a_lent_sandbox_that_dies_is_destroyed_at_once_and_giving_it_back_does_nothing() -> None:
    found = filled(1, 1)
    found.ask(A)
    (lent,) = found.all("lent")
    assert found.die(lent) == [Destroy(lent)]
    assert found.give_back(lent) == []
    found.go(lent)
    assert found.go(lent) == []


def test_old_ones_are_replaced_one_by_one_the_new_one_first() -> None:
    found = filled(2, 3, max_age_s=100)
    old = found.all("warm")
    found.tick(100)
    assert found.all("warm") == old
    for _ in old:
        found.boot_succeeds(found.all("booting")[0])
        found.go(found.all("dying")[0])
    assert not set(found.all("warm")) & set(old)
    assert len(found.all("warm")) == 2
    assert not found.all("booting")


def test_where_there_is_no_place_for_a_successor_the_oldest_goes_first() -> None:
    found = filled(2, 2, max_age_s=100)
    first, second = found.all("warm")
    found.tick(100)
    assert found.all("dying") == [first]
    found.boot_succeeds(found.all("booting")[0])
    assert found.all("dying") == [first, second]


def test_on_a_full_host_the_oldest_goes_first_too() -> None:
    found = filled(2, 3, max_age_s=100, max_sandboxes=2)
    first, _ = found.all("warm")
    found.tick(100)
    assert found.all("dying") == [first]
    found.tick()
    assert found.all("dying") == [first]


def test_old_ones_above_the_target_just_go() -> None:
    found = filled(1, 3, max_age_s=100)
    found.configure(A, 3, 3, fill=True)
    for box in found.all("booting"):
        found.boot_succeeds(box)
    found.configure(A, 1, 3, fill=True)
    found.tick(100)
    assert len(found.all("dying")) == 2
    assert len(found.all("warm")) == 1


def test_an_old_one_stays_while_boots_fail() -> None:
    found = filled(1, 2, max_age_s=100)
    found.tick(100)
    found.boot_fails(found.all("booting")[0])
    assert len(found.all("warm")) == 1
    found.tick(1)
    found.boot_succeeds(found.all("booting")[0])
    assert len(found.all("dying")) == 1


def test_a_key_in_use_keeps_at_least_one_and_is_forgotten_when_nobody_comes() -> None:
    found = world(recent_use_s=600, max_age_s=10_000)
    found.configure(A, 0, 2)
    found.ask(A)
    found.boot_succeeds(found.all("booting")[0])
    found.boot_succeeds(found.all("booting")[0])
    found.give_back(found.all("lent")[0])
    found.go(found.all("dying")[0])
    assert found.pool.counts().max_warm == 2
    found.tick(600)
    found.go(found.all("dying")[0])
    assert found.pool.counts().max_warm == 0
    assert found.pool.next_tick_s is None


def test_a_lower_maximum_takes_effect_at_once() -> None:
    found = filled(3, 3)
    found.configure(A, 1, 1, fill=True)
    assert len(found.all("dying")) == 2


def test_prewarm_counts_what_it_made() -> None:
    found = world(max_booting=1)
    found.configure(A, 2, 4)
    found.configure(B, 1, 1)
    ticket = found.prewarm(A, B, A)
    while found.all("booting"):
        assert found.answer(ticket) is None
        found.boot_succeeds(found.all("booting")[0])
    assert found.answer(ticket) == Prewarmed(ticket, 3)
    again = found.prewarm(A, B)
    assert found.answer(again) == Prewarmed(again, 0)


def test_prewarm_waits_for_boots_under_way_and_does_not_count_them() -> None:
    found = world()
    found.configure(A, 1, 1, fill=True)
    ticket = found.prewarm(A)
    assert found.answer(ticket) is None
    found.boot_succeeds(found.all("booting")[0])
    assert found.answer(ticket) == Prewarmed(ticket, 0)


def test_prewarm_makes_no_more_than_there_is_room_for() -> None:
    found = world(max_sandboxes=2)
    found.configure(A, 3, 4)
    ticket = found.prewarm(A)
    for box in found.all("booting"):
        found.boot_succeeds(box)
    assert found.answer(ticket) == Prewarmed(ticket, 2)


def test_prewarm_fails_with_the_cause_of_a_boot_it_needed() -> None:
    found = world()
    found.configure(A, 2, 2)
    ticket = found.prewarm(A)
    found.boot_fails(found.all("booting")[0])
    assert found.answer(ticket) == Fail(ticket, CAUSE)


def test_prewarm_does_not_fail_for_a_boot_that_is_needed_no_more() -> None:
    found = world()
    found.configure(A, 1, 3)
    asker = found.ask(A)
    ticket = found.prewarm(A)
    found.withdraw(asker)
    first, second = found.all("booting")[:2]
    found.boot_succeeds(first)
    found.boot_fails(second)
    assert isinstance(found.answer(ticket), Prewarmed)


def test_a_cancelled_boot_is_no_failure_of_prewarm() -> None:
    found = world(max_sandboxes=1)
    found.configure(A, 1, 1)
    ticket = found.prewarm(A)
    found.ask(B)
    assert found.answer(ticket) == Prewarmed(ticket, 0)


def test_a_withdrawn_prewarm_is_not_answered_but_its_boots_go_on() -> None:
    found = world()
    found.configure(A, 1, 1)
    ticket = found.prewarm(A)
    found.withdraw(ticket)
    found.boot_succeeds(found.all("booting")[0])
    assert found.all("warm")


def test_draining_fails_everyone_ends_everything_and_starts_nothing() -> None:
    found = filled(1, 2, max_booting=1)
    found.ask(A)
    found.prewarm(A)
    waiting = found.ask(B)
    found.drain()
    answer = found.answer(waiting)
    assert isinstance(answer, Fail)
    assert isinstance(answer.cause, Busy)
    assert found.drain() == []
    found.finish()


@pytest.mark.parametrize("happens", ["boot_succeeds", "boot_fails", "give_back", "die", "go"])
def test_events_about_unknown_sandboxes_change_nothing(happens: str) -> None:
    assert getattr(world(), happens)(NOBODY) == []


def test_withdrawing_an_unknown_ticket_changes_nothing() -> None:
    assert world().withdraw(Ticket(99)) == []


def test_what_is_gone_by_itself_is_taken_at_its_word() -> None:
    found = filled(1, 1)
    (warm,) = found.all("warm")
    found.go(warm)
    assert len(found.all("booting")) == 1
    assert found.boot_fails(warm) == []


def test_a_clock_that_goes_back_stands_still() -> None:
    found = filled(1, 1, max_age_s=10)
    found.tick(5)
    at = found.pool.next_tick_s
    found.pool.feed(Ticked(), -1000.0)
    assert found.pool.next_tick_s == at


def test_counts_tell_modes_apart() -> None:
    found = filled(2, 2)
    claude = key("a", Mode.CLAUDE)
    found.configure(claude, 1, 3, fill=True)
    found.boot_succeeds(found.all("booting", claude)[0])
    counts = found.pool.counts()
    assert counts.warm_by_mode == {Mode.NATIVE: 2, Mode.CLAUDE: 1}
    assert (counts.min_warm, counts.max_warm) == (3, 5)


def test_a_boot_that_vanished_is_waited_for_by_nobody() -> None:
    found = world()
    found.configure(A, 1, 1)
    ticket = found.prewarm(A)
    found.go(found.all("booting")[0])
    assert found.answer(ticket) == Prewarmed(ticket, 0)


def test_prewarm_wishes_no_more_once_others_have_filled_the_key() -> None:
    found = world(max_booting=1)
    found.configure(A, 1, 3)
    asker = found.ask(A)
    ticket = found.prewarm(A)
    found.withdraw(asker)
    assert found.answer(ticket) == Prewarmed(ticket, 0)
    found.boot_succeeds(found.all("booting")[0])
    assert not found.all("booting")
