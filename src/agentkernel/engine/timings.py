"""How long each stage of an exec takes: the last few thousand samples of each, summed up on demand."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum

KEPT = 4096


class Stage(StrEnum):
    """The stages of one exec, in order. What comes after TOTAL is beside the caller's path
    unless nothing was warm."""

    QUEUE = "queue"
    IDENTITY = "identity"
    SPAWN = "spawn"
    RUN = "run"
    REPLY = "reply"
    TOTAL = "total"
    BOOT = "boot"
    CLONE = "clone"
    SAVE = "save"
    RESTORE = "restore"
    TEMPLATE = "template"
    DESTROY = "destroy"


class Timings:
    """Samples in seconds, per stage; the newest `KEPT` of each."""

    def __init__(self) -> None:
        self._samples: dict[Stage, deque[float]] = defaultdict(lambda: deque(maxlen=KEPT))

    def add(self, stage: Stage, seconds: float) -> None:
        """Keep one sample."""
        self._samples[stage].append(seconds)

    @contextmanager
    def measure(self, stage: Stage) -> Iterator[None]:
        """Time a block; a block that raises is not counted."""
        began = time.perf_counter()
        yield
        self.add(stage, time.perf_counter() - began)

    def summary(self) -> dict[str, dict[str, float]]:
        """Stage to `n` and milliseconds `min p50 p90 p99`; stages without samples are left out."""
        return {str(stage): _summed(sorted(kept)) for stage in Stage if (kept := self._samples.get(stage))}


def _summed(ordered: list[float]) -> dict[str, float]:
    def at(share: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000, 3)

    return {"n": len(ordered), "min": at(0), "p50": at(0.5), "p90": at(0.9), "p99": at(0.99)}
