"""Machines that only prove something, and what they proved, kept between daemons."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from agentkernel.drivers.contract import Birth
from agentkernel.drivers.vmm.hardware import hardware_hint, processor
from agentkernel.model.ids import SandboxId, new_sandbox_id
from agentkernel.model.readiness import Identity

Verdict = dict[str, str]


def _for_ever(_: Verdict, __: float) -> bool:
    return True


class Trials:
    """What trials found, one file per combination of host kernel, processor, user and programs; one trial at a time.

    Args:
        verdicts: folder of the files; made when missing.
        places: where a trial's private folder is made.
    """

    def __init__(self, verdicts: Path, places: Path) -> None:
        self._verdicts = verdicts
        self._places = places
        self._trying = anyio.Lock()

    async def verdict(
        self,
        name: str,
        digests: tuple[str, ...],
        attempt: Callable[[], Awaitable[Verdict]],
        *,
        holds: Callable[[Verdict, float], bool] = _for_ever,
    ) -> Verdict:
        """What was found with these programs on this host, tried now if nobody has. Raises what `attempt` raises, and
        then keeps nothing: the cause may be put right without a restart.

        Args:
            name: what is tried.
            digests: of everything that the outcome hangs on, beside the host.
            holds: whether a kept verdict, of this many seconds ago, is still good.
        """
        path = _file(self._verdicts, name, digests)
        async with self._trying:
            kept = _read(path)
            if kept is None or not holds(kept, time.time() - path.stat().st_mtime):
                kept = await attempt()
                _write(path, kept)
        return kept

    def birth(self) -> AbstractContextManager[Birth]:
        """A birth for a trial, in a private folder that is gone afterwards."""
        return trial_birth(self._places)


@contextmanager
def trial_birth(places: Path) -> Iterator[Birth]:
    """A birth for a trial that is not kept, in a folder below `places` that is gone afterwards."""
    sandbox = new_sandbox_id()
    birth = _TrialBirth(sandbox, places / sandbox)
    birth.directory.mkdir(mode=0o700, parents=True)
    try:
        yield birth
    finally:
        shutil.rmtree(birth.directory, ignore_errors=True)


@dataclass(slots=True)
class _TrialBirth:
    """A machine that only proves something: named, placed, in no journal, because its supervisor ends it with us."""

    id: SandboxId
    directory: Path
    disk: Path | None = None
    identity: Identity = field(default_factory=lambda: Identity("sandbox-probe", bytes(16)))

    async def record(self, **facts: str | int) -> None:
        """Nothing to find again."""


def _file(directory: Path, name: str, digests: tuple[str, ...]) -> Path:
    inputs = [*digests, platform.release(), *processor(), str(os.geteuid()), hardware_hint()]
    key = hashlib.sha256("\n".join(inputs).encode()).hexdigest()[:32]
    return directory / f"{name}-{key}.json"


def _read(path: Path) -> Verdict | None:
    """What was kept, or None; a file that is no map of texts counts as none."""
    try:
        kept = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    sound = isinstance(kept, dict) and all(isinstance(value, str) for value in kept.values())
    return kept if sound else None


def _write(path: Path, verdict: Verdict) -> None:
    """Keep it; whole or not at all."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(verdict))
    temporary.replace(path)
