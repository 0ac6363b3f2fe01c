"""Whether gVisor works on this host: a small sandbox, really booted, and the verdict kept."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from agentkernel.drivers.contract import Birth
from agentkernel.model.ids import Digest, SandboxId, new_sandbox_id
from agentkernel.model.readiness import Identity

CPUINFO = Path("/proc/cpuinfo")

Trial = Callable[[Birth], Awaitable[None]]
"""Boots something small; returns when it has answered, raises what kept it from that."""


@dataclass(slots=True)
class _TrialBirth:
    """A sandbox that only proves something: in no journal, because its supervisor ends it with us."""

    id: SandboxId
    directory: Path
    disk: Path | None = None
    identity: Identity = field(default_factory=lambda: Identity("sandbox-probe", bytes(16)))

    async def record(self, **facts: str | int) -> None:
        """Nothing to find again."""


class Trials:
    """What trials found, one file per combination of host kernel, processor, user and runsc. Only a success is kept:
    what failed may have been a setting of the host's that is put right without a restart.

    Args:
        verdicts: folder of the files; made when missing.
        places: where a trial's private folder is made.
    """

    def __init__(self, verdicts: Path, places: Path) -> None:
        self._verdicts = verdicts
        self._places = places
        self._trying = anyio.Lock()

    async def pass_once(self, runsc: Digest, trial: Trial) -> None:
        """Return when a sandbox has come up here, now or before. Raises what the trial raises."""
        path = self._verdicts / f"gvisor-{_key(runsc)}.json"
        async with self._trying:
            if path.is_file():
                return
            await self._try(trial)
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            beside = path.with_suffix(".new")
            beside.write_text(json.dumps({"runsc": runsc, "kernel": platform.release()}))
            beside.replace(path)

    async def _try(self, trial: Trial) -> None:
        sandbox = new_sandbox_id()
        birth = _TrialBirth(sandbox, self._places / sandbox)
        birth.directory.mkdir(mode=0o700, parents=True)
        try:
            await trial(birth)
        finally:
            shutil.rmtree(birth.directory, ignore_errors=True)


def _key(runsc: Digest) -> str:
    lines = CPUINFO.read_text().splitlines()
    processor = [line for line in lines if line.startswith(("model name", "flags"))][:2]
    inputs = [runsc, platform.release(), str(os.geteuid()), *processor]
    return hashlib.sha256("\n".join(inputs).encode()).hexdigest()[:32]
