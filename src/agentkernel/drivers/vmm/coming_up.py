"""What holds while a machine comes up: its files can be made, its boot has a deadline, its failure is explained."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agentkernel.drivers.confine import ConfinedProcess
from agentkernel.model.errors import Broken
from agentkernel.model.ids import Digest

SETTLE_S = 1.0
"""What the kernel puts off after a command's end (its cgroup, its memory) is done once before the template is frozen,
not in each clone: 10 to 15 ms of processor time of each.
"""
NO_ROOT = Digest("none")
"""The image of a machine that stays in its initramfs."""
BINDS = {"workspace": "/workspace", "scratch": "/scratch"}
"""Directories of the private disk, and where a guest has them."""
WORDS_KEPT = 600


@contextmanager
def files_prepared(directory: Path, what: str = "microVM") -> Iterator[None]:
    """Explain why a machine's files could not be made: the disk is full, descriptors ran out."""
    try:
        yield
    except OSError as err:
        raise Broken(
            f"the {what}'s files could not be made in {directory}: {err}", hint="df -h shows whether that disk is full"
        ) from err


@contextmanager
def coming_up(process: ConfinedProcess, deadline_s: float, what: str = "microVM") -> Iterator[None]:
    """Hold a boot to its deadline and explain its failure.

    A cancel scope cannot be left while the link's task group inside it stays open, so the deadline ends the machine
    instead: its stream ends, and the attach with it.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.call_later(deadline_s, process.kill)
    try:
        yield
    except (Broken, OSError) as err:
        late = deadline.when() <= loop.time()
        reason = f"did not come up within {deadline_s:.0f} s" if late else f"did not come up: {err}"
        words = process.last_words().strip()[-WORDS_KEPT:]
        raise Broken(
            f"the {what} {reason}" + (f"; its last words: {words}" if words else ""),
            hint="agentkernel doctor tells what works here",
        ) from err
    finally:
        deadline.cancel()
