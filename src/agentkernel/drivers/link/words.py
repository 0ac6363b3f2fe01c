"""What a guest says about its errors, made fit for ours."""

from __future__ import annotations

import os

from agentkernel.wire.program import Failed

MOST_WORDS = 512


def printable(words: str) -> str:
    """The guest's words on one line, bounded, and with nothing in them that a terminal would act on."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in words[:MOST_WORDS])


def os_error(failed: Failed, path: str) -> OSError:
    """The builtin error (FileNotFoundError and its like) for what a guest reports of a path."""
    return OSError(failed.errno, os.strerror(failed.errno), path)
