"""Bytes on their way into a pipe that nobody may be reading."""

from __future__ import annotations

import os
from collections.abc import Callable


class Feeder:
    """Owns the writing end of a pipe, which does not block. What is pending is bounded by the channel's window.

    Args:
        consumed: told how many bytes the pipe took, or were dropped because nobody reads any more.
    """

    def __init__(self, pipe: int, consumed: Callable[[int], None]) -> None:
        self.pipe = pipe
        self._consumed = consumed
        self._pending = bytearray()
        self._ending = False

    @property
    def waiting(self) -> bool:
        """Whether it wants to hear when the pipe takes more."""
        return bool(self._pending) and self.pipe >= 0

    def put(self, data: bytes) -> None:
        """Pass on as much as goes; the rest later."""
        if self._ending or self.pipe < 0:
            self._consumed(len(data))
            return
        self._pending += data
        self.push()

    def push(self) -> None:
        """Go on, now that the pipe may take more."""
        while self._pending and self.pipe >= 0:
            try:
                written = os.write(self.pipe, self._pending[:65536])
            except BlockingIOError:
                return
            except BrokenPipeError:
                self.close()
                return
            del self._pending[:written]
            self._consumed(written)
        if self._ending:
            self.close()

    def end(self) -> None:
        """End of input, behind what is pending."""
        self._ending = True
        if not self._pending:
            self.close()

    def close(self) -> None:
        """At once."""
        if self.pipe >= 0:
            os.close(self.pipe)
            self.pipe = -1
        if self._pending:
            dropped = len(self._pending)
            self._pending.clear()
            self._consumed(dropped)
