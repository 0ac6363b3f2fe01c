"""What waits to be read."""

import sys

import pytest

from agentkernel.model.execution import Exited, Started, Stderr, Stdout
from agentkernel.wire.backlog import MOST_SEPARATE_ITEMS, Backlog


def drained(backlog: Backlog) -> list[object]:
    return [backlog.take() for _ in range(len(backlog))]


def test_events_come_out_as_they_went_in() -> None:
    backlog = Backlog()
    events = [Started(1), Stdout(b"a"), Stderr(b"b"), Stdout(b"c"), Exited(0)]
    for event in events:
        backlog.put(event)
    assert drained(backlog) == events
    with pytest.raises(IndexError):
        backlog.take()


def test_a_flood_of_single_bytes_on_both_streams_costs_little_and_loses_nothing() -> None:
    backlog = Backlog()
    for _ in range(131_072):
        backlog.put(Stdout(b"o"))
        backlog.put(Stderr(b"e"))
    backlog.put(Exited(0))
    assert len(backlog) <= MOST_SEPARATE_ITEMS + 2 * 3 + 1
    events = drained(backlog)
    assert b"".join(event.data for event in events if isinstance(event, Stdout)) == b"o" * 131_072
    assert b"".join(event.data for event in events if isinstance(event, Stderr)) == b"e" * 131_072
    assert all(sys.getsizeof(event.data) < 70_000 for event in events if isinstance(event, Stdout | Stderr))
    assert events[-1] == Exited(0)


def test_what_is_thrown_away_is_counted() -> None:
    backlog = Backlog()
    backlog.put(Started(1))
    for _ in range(MOST_SEPARATE_ITEMS + 10):
        backlog.put(Stdout(b"abc"))
    assert backlog.clear() == 3 * (MOST_SEPARATE_ITEMS + 10)
    assert len(backlog) == 0
    backlog.put(Stdout(b"x"))
    assert drained(backlog) == [Stdout(b"x")]


def test_output_that_came_after_a_pile_was_read_is_not_lost() -> None:
    backlog = Backlog()
    for _ in range(MOST_SEPARATE_ITEMS + 1):
        backlog.put(Stdout(b"a"))
    assert b"".join(event.data for event in drained(backlog) if isinstance(event, Stdout)) == b"a" * 257
    backlog.put(Stdout(b"z"))
    assert drained(backlog) == [Stdout(b"z")]
