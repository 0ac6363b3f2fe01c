"""What to boot and what to destroy next: waiters first, then prewarm calls, then refills, then replacing old ones.

Each function looks at the whole stock and may be called at any time; doing so twice changes nothing more.
"""

from __future__ import annotations

from agentkernel.model.ids import SandboxId
from agentkernel.pool.prewarm import Calls
from agentkernel.pool.shelf import Shelf
from agentkernel.pool.stock import State, Stock


def plan(stock: Stock, calls: Calls) -> None:
    """Bring the stock nearer to what is wanted, within the limits of the host."""
    for shelf in stock.shelves.values():
        trim(stock, shelf)
    boot_for_waiters(stock)
    make_room_for_waiters(stock, calls)
    calls.plan()
    refill(stock)
    for shelf in stock.shelves.values():
        replace_old(stock, shelf)
    refill(stock)  # where an old one went first, its successor may begin at once
    forget(stock, calls)


def trim(stock: Stock, shelf: Shelf) -> None:
    """Destroy what is above the maximum, and everything unused of a key that is no longer kept; oldest first."""
    keep = shelf.limits.max_warm if shelf.is_kept(stock.now_s, stock.limits.recent_use_s) else 0
    for sandbox in list(shelf.warm)[: max(0, len(shelf.warm) - keep)]:
        stock.destroy(sandbox)


def boot_for_waiters(stock: Stock) -> None:
    """Boots go over keys in the order in which their first waiter without a boot arrived, so no key starves another."""
    while stock.room > 0 and stock.slots > 0:
        waiting = [shelf for shelf in stock.shelves.values() if shelf.uncovered]
        if not waiting:
            return
        stock.boot(min(waiting, key=Shelf.next_arrival))


def make_room_for_waiters(stock: Stock, calls: Calls) -> None:
    """With the host full, end as many unused sandboxes as there are waiters that could boot then, no more.

    What is dying already will give room too. Warm ones first, of the key that was used longest ago; then boots meant
    for nobody. A key with waiters has neither, so no waiter loses by it. A boot slot taken by a refill is not taken
    back: its work would be lost to save part of one boot.
    """
    while _lack_of_room(stock) > 0:
        victim = _least_useful(stock)
        if victim is None:
            return
        calls.lost(victim)
        stock.destroy(victim)


def _lack_of_room(stock: Stock) -> int:
    uncovered = sum(shelf.uncovered for shelf in stock.shelves.values())
    return min(uncovered, stock.slots) - stock.room - stock.count(State.DYING)


def _least_useful(stock: Stock) -> SandboxId | None:
    warm = [shelf for shelf in stock.shelves.values() if shelf.warm]
    if warm:
        return next(iter(min(warm, key=lambda shelf: shelf.used_s).warm))
    spare = [shelf for shelf in stock.shelves.values() if shelf.spare]
    if spare:
        return next(reversed(min(spare, key=lambda shelf: shelf.used_s).booting))
    return None


def refill(stock: Stock) -> None:
    """Fill up towards the target: the emptiest key first, among equals the one used last."""
    while stock.room > 0 and stock.slots > 0:
        lacking = [shelf for shelf in stock.shelves.values() if _lacks(stock, shelf)]
        if not lacking:
            return
        stock.boot(min(lacking, key=lambda shelf: (shelf.stocked, -shelf.used_s)))


def _lacks(stock: Stock, shelf: Shelf) -> bool:
    target = shelf.target(stock.now_s, stock.limits.recent_use_s)
    return shelf.stocked < target and stock.now_s >= shelf.trouble.paused_until_s


def replace_old(stock: Stock, shelf: Shelf) -> None:
    """Replace what is too old, one at a time and the new one first, so that the key is not left without a warm one.

    An old one goes when there are more than the target without it. Otherwise a successor is booted on top; where the
    key's maximum or the full host forbids that, the oldest goes first. While boots fail an old one stays: it works,
    and is better than none.
    """
    old = shelf.aged(stock.now_s, stock.limits.max_age_s)
    surplus = max(0, len(shelf.warm) - shelf.target(stock.now_s, stock.limits.recent_use_s))
    for sandbox in old[:surplus]:
        stock.destroy(sandbox)
    old = old[surplus:]
    if not old or shelf.spare or stock.now_s < shelf.trouble.paused_until_s:
        return
    if len(shelf.warm) >= shelf.limits.max_warm:
        stock.destroy(old[0])
    elif stock.room > 0 and stock.slots > 0:
        stock.boot(shelf)
    elif stock.room <= 0 and not stock.count(State.DYING):
        stock.destroy(old[0])


def forget(stock: Stock, calls: Calls) -> None:
    """Drop keys that nobody uses and of which nothing is left, so that odd requests do not pile up keys."""
    recent_s = stock.limits.recent_use_s
    idle = [
        shelf.key
        for shelf in stock.shelves.values()
        if not shelf.is_kept(stock.now_s, recent_s) and stock.now_s >= shelf.known_s + recent_s and not shelf.waiters
    ]
    if idle:
        in_use = stock.shelves_in_use() | calls.wished()
        for key in idle:
            if key not in in_use:
                del stock.shelves[key]


def next_tick_s(stock: Stock) -> float | None:
    """The next time at which something is to do that no event would bring up; None when nothing is.

    Only times to come: what is due already waits for an event (room, a boot's end), and asking again would be a busy
    loop.
    """
    limits = stock.limits
    times: list[float] = []
    for shelf in stock.shelves.values():
        times.append(shelf.trouble.paused_until_s)
        times.extend(since_s + limits.max_age_s for since_s in shelf.warm.values())
        times += [shelf.used_s + limits.recent_use_s, shelf.known_s + limits.recent_use_s]
    return min((time_s for time_s in times if time_s > stock.now_s), default=None)
