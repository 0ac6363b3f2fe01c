"""The one error of this room."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentkernel.wire.events import Event


class LinkError(Exception):
    """The peer broke the protocol; the link is dead.

    Attributes:
        reason: one line, in our own words and with numbers only, so that it is safe to print.
        events: what was valid before the violation in the same `feed`, so that chunking never changes what is seen.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.events: list[Event] = []
