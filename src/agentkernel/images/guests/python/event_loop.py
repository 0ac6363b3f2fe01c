"""An asyncio event loop for one thread without sockets: nothing can happen but time."""

from __future__ import annotations

import asyncio
import asyncio.events
import asyncio.runners
import selectors
import time


class TimeSelector(selectors.SelectSelector):
    """Waits for time only."""

    def select(self, timeout=None):
        """Nothing is ever ready; without a timeout there is nothing that could happen any more."""
        if timeout is None:
            raise RuntimeError(
                "the event loop waits for something that cannot happen: there are no sockets and threads"
            )
        if timeout > 0:
            time.sleep(timeout)
        return []


class TimeLoop(asyncio.SelectorEventLoop):
    """The default event loop here."""

    def __init__(self, selector=None) -> None:
        super().__init__(selector or TimeSelector())

    def _make_self_pipe(self) -> None:
        self._ssock = self._csock = None

    def _close_self_pipe(self) -> None:
        pass

    def _write_to_self(self) -> None:
        pass


def install() -> None:
    """Make it what `asyncio.run` and `asyncio.new_event_loop` give."""
    asyncio.events.new_event_loop = asyncio.new_event_loop = TimeLoop
