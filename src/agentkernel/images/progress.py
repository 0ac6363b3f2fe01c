"""How far a long piece of work has come, for whoever wants to show it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called from the event loop, often; must return at once."""

    def __call__(self, stage: str, detail: str, done_bytes: int | None = None, total_bytes: int | None = None) -> None:
        """`stage` names the artefact (`qemu`, `kernel`, `image python`), `detail` what happens to it now."""


def silent(stage: str, detail: str, done_bytes: int | None = None, total_bytes: int | None = None) -> None:
    """Shows nothing."""
