"""Progress for a person: one line per artefact, which changes in place on a terminal; elsewhere, one line when it is
done."""

from __future__ import annotations

import sys
import time
from typing import TextIO

_REDRAW_S = 0.1
_CLEAR = "\r\x1b[K"


def human_bytes(count: int) -> str:
    """`38 MB`, in powers of ten as download sizes are given."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}" if count < 10 * size else f"{count / size:.0f} {unit}"
    return f"{count} B"


class Console:
    """Lines on standard error. `step` is the `Progress` of `images`; `done` ends a stage with what came of it."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()
        self._began: dict[str, float] = {}
        self._drawn = 0.0
        self._shown = ""

    def step(self, stage: str, detail: str, done_bytes: int | None = None, total_bytes: int | None = None) -> None:
        """Show where a stage is. Off a terminal only a change of activity is a line."""
        self._began.setdefault(stage, time.monotonic())
        activity = f"{stage}: {detail.partition(' ')[0]}"
        if total_bytes:
            detail = f"{detail} {human_bytes(done_bytes or 0)} of {human_bytes(total_bytes)}"
        now = time.monotonic()
        if self._live:
            if activity != self._shown or now - self._drawn >= _REDRAW_S:
                self._write(f"{_CLEAR}  {stage}: {detail}")
                self._drawn, self._shown = now, activity
        elif activity != self._shown:
            self._write(f"  {stage}: {detail}\n")
            self._shown = activity

    def done(self, stage: str, result: str) -> None:
        """The stage's final line, with its seconds when it took any."""
        began = self._began.pop(stage, None)
        took = f" ({time.monotonic() - began:.1f} s)" if began is not None else ""
        self._write(f"{_CLEAR if self._live else ''}  {stage}: {result}{took}\n")
        self._shown = ""

    def say(self, line: str) -> None:
        """A line that stays."""
        self._write(f"{_CLEAR if self._live else ''}{line}\n")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
