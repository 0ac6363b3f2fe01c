"""What executes guests here: a cheap hint, then real boots, whose verdict is kept.

`/dev/kvm` may exist and be of no use (a nested host without nested page tables hangs in the guest's first
instructions), so only a machine that came up proves it.
"""

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
from agentkernel.drivers.qemu.machine import Accelerator
from agentkernel.model.errors import AgentkernelError
from agentkernel.model.ids import SandboxId, new_sandbox_id
from agentkernel.model.readiness import Identity

KVM = Path("/dev/kvm")
CPUINFO = Path("/proc/cpuinfo")

Trial = Callable[[Birth, Accelerator], Awaitable[None]]
"""Boots something small with that accelerator; returns when it came up, raises what kept it from that."""


def hardware_hint(cpuinfo: Path = CPUINFO, device: Path = KVM) -> str:
    """Why KVM cannot work, without trying; empty when it may."""
    flags = next((line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), "")
    if not {"vmx", "svm"} & set(flags.split()):
        return "the processor shows no hardware virtualisation (no vmx or svm flag)"
    if not device.exists():
        return f"there is no {device} (is the kvm module loaded?)"
    if not os.access(device, os.R_OK | os.W_OK):
        return f"{device} may not be opened (join the kvm group)"
    return ""


@dataclass(slots=True)
class _TrialBirth:
    """A machine that only proves something: named, placed, in no journal, because its supervisor ends it with us."""

    id: SandboxId
    directory: Path
    disk: Path | None = None
    identity: Identity = field(default_factory=lambda: Identity("sandbox-probe", bytes(16)))

    async def record(self, **facts: str | int) -> None:
        """Nothing to find again."""


class Verdicts:
    """What trials found, one file per combination of host kernel, processor, QEMU and guest kernel.

    Args:
        directory: where the files are kept; made when missing.
        trials: where a trial's private folder is made.
    """

    def __init__(self, directory: Path, trials: Path) -> None:
        self._directory = directory
        self._trials = trials
        self._trying = anyio.Lock()

    async def get(self, digests: tuple[str, ...], trial: Trial) -> tuple[Accelerator, str]:
        """The verdict for these inputs on this host, tried now if nobody has: the accelerator, and why it is not KVM.

        Raises:
            AgentkernelError: not even an emulated machine comes up; the next call tries again.
        """
        path = self._directory / f"kvm-{_key(digests)}.json"
        async with self._trying:
            kept = _read(path)
            if kept is None:
                kept = await self._try(trial)
                _write(path, kept)
        return Accelerator(kept["accelerator"]), kept["reason"]

    async def _try(self, trial: Trial) -> dict[str, str]:
        reason = hardware_hint()
        if not reason:
            try:
                await self._boot(trial, Accelerator.KVM)
            except AgentkernelError as err:
                reason = f"KVM was tried and failed: {err.message}"
            else:
                return {"accelerator": Accelerator.KVM, "reason": ""}
        await self._boot(trial, Accelerator.TCG)
        return {"accelerator": Accelerator.TCG, "reason": reason}

    async def _boot(self, trial: Trial, accelerator: Accelerator) -> None:
        sandbox = new_sandbox_id()
        birth = _TrialBirth(sandbox, self._trials / sandbox)
        birth.directory.mkdir(mode=0o700, parents=True)
        try:
            await trial(birth, accelerator)
        finally:
            shutil.rmtree(birth.directory, ignore_errors=True)


def processor(cpuinfo: Path = CPUINFO) -> list[str]:
    """The model and the features of the host's processor, as the kernel tells them."""
    return [line for line in cpuinfo.read_text().splitlines() if line.startswith(("model name", "flags"))][:2]


def _key(digests: tuple[str, ...]) -> str:
    inputs = [*digests, platform.release(), *processor(), str(os.geteuid()), hardware_hint()]
    return hashlib.sha256("\n".join(inputs).encode()).hexdigest()[:32]


def _read(path: Path) -> dict[str, str] | None:
    try:
        kept: dict[str, str] = json.loads(path.read_text())
        Accelerator(kept["accelerator"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return kept


def _write(path: Path, verdict: dict[str, str]) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(verdict))
    temporary.replace(path)
