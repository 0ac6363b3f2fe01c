"""Waking those who wait."""

from __future__ import annotations

import anyio


class Bell:
    """Wakes everyone who hears it. Wait in a loop on the condition itself: `while not ready: await bell.heard()`."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    async def heard(self) -> None:
        """Return after the next ring."""
        if self._event is None:
            self._event = anyio.Event()
        await self._event.wait()

    def ring(self) -> None:
        """Wake all who wait now. Costs nothing when nobody does."""
        if self._event is not None:
            self._event.set()
            self._event = None
