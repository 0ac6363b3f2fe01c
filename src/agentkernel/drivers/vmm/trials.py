"""Machines that only prove something, and what they proved, kept between daemons."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from agentkernel.drivers.contract import Birth
from agentkernel.drivers.vmm.hardware import hardware_hint, processor
from agentkernel.model.ids import SandboxId, new_sandbox_id
from agentkernel.model.readiness import Identity


@dataclass(slots=True)
class _TrialBirth:
    """A machine that only proves something: named, placed, in no journal, because its supervisor ends it with us."""

    id: SandboxId
    directory: Path
    disk: Path | None = None
    identity: Identity = field(default_factory=lambda: Identity("sandbox-probe", bytes(16)))

    async def record(self, **facts: str | int) -> None:
        """Nothing to find again."""


@contextmanager
def trial_birth(trials: Path) -> Iterator[Birth]:
    """A birth for a trial, in a private folder below `trials` that is gone afterwards."""
    sandbox = new_sandbox_id()
    birth = _TrialBirth(sandbox, trials / sandbox)
    birth.directory.mkdir(mode=0o700, parents=True)
    try:
        yield birth
    finally:
        shutil.rmtree(birth.directory, ignore_errors=True)


def verdict_file(directory: Path, name: str, digests: tuple[str, ...]) -> Path:
    """Where the verdict on these inputs is kept, on this kernel and processor and for this user."""
    inputs = [*digests, platform.release(), *processor(), str(os.geteuid()), hardware_hint()]
    key = hashlib.sha256("\n".join(inputs).encode()).hexdigest()[:32]
    return directory / f"{name}-{key}.json"


def read_verdict(path: Path) -> dict[str, str] | None:
    """What was kept, or None; a file that is no map of texts counts as none."""
    try:
        kept = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    sound = isinstance(kept, dict) and all(isinstance(value, str) for value in kept.values())
    return kept if sound else None


def write_verdict(path: Path, verdict: dict[str, str]) -> None:
    """Keep it; whole or not at all."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(verdict))
    temporary.replace(path)
