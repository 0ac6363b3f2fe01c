"""What a program has said and nobody has read yet.

A window bounds the bytes of it, not the objects: 262,144 frames of one byte would be a hundred times their size. So
past a number of items, output joins the last item of its own stream, even across the other one. The order between two
pipes means nothing anyway.
"""

from __future__ import annotations

from collections import deque

from agentkernel.model.execution import ExecEvent, Stderr, Stdout

MOST_SEPARATE_ITEMS = 256
MOST_ITEM_BYTES = 65_536


class _Pile:
    """Output of one stream that was joined; it becomes bytes when it is read."""

    __slots__ = ("data", "make")

    def __init__(self, make: type[Stdout] | type[Stderr], data: bytes) -> None:
        self.make = make
        self.data = bytearray(data)


class Backlog:
    """A queue of events whose memory is a small multiple of the bytes in it."""

    def __init__(self) -> None:
        self._items: deque[ExecEvent | _Pile] = deque()
        self._piles: dict[type[Stdout] | type[Stderr], _Pile] = {}

    def __len__(self) -> int:
        return len(self._items)

    def put(self, event: ExecEvent) -> None:
        """Append an event."""
        if isinstance(event, Stdout | Stderr) and len(self._items) >= MOST_SEPARATE_ITEMS:
            self._pile(type(event), event.data)
        else:
            self._items.append(event)

    def _pile(self, make: type[Stdout] | type[Stderr], data: bytes) -> None:
        pile = self._piles.get(make)
        if pile is None or len(pile.data) + len(data) > MOST_ITEM_BYTES:
            pile = self._piles[make] = _Pile(make, b"")
            self._items.append(pile)
        pile.data += data

    def take(self) -> ExecEvent:
        """The oldest event. Raises IndexError when there is none."""
        item = self._items.popleft()
        if not isinstance(item, _Pile):
            return item
        if self._piles.get(item.make) is item:
            del self._piles[item.make]
        return item.make(bytes(item.data))

    def clear(self) -> int:
        """Throw everything away; how many bytes of output that were."""
        size = sum(len(item.data) for item in self._items if isinstance(item, Stdout | Stderr | _Pile))
        self._items.clear()
        self._piles.clear()
        return size
