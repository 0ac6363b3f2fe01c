"""What executes guests here: a cheap hint, then real boots, whose verdict is kept.

`/dev/kvm` may exist and be of no use (a nested host without nested page tables hangs in the guest's first
instructions), so only a machine that came up proves it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio

from agentkernel.drivers.contract import Birth
from agentkernel.drivers.qemu.machine import Accelerator
from agentkernel.drivers.vmm.hardware import hardware_hint
from agentkernel.drivers.vmm.trials import read_verdict, trial_birth, verdict_file, write_verdict
from agentkernel.model.errors import AgentkernelError

Trial = Callable[[Birth, Accelerator], Awaitable[None]]
"""Boots something small with that accelerator; returns when it came up, raises what kept it from that."""


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
        path = verdict_file(self._directory, "kvm", digests)
        async with self._trying:
            kept = read_verdict(path)
            if kept is None or kept.get("accelerator") not in set(Accelerator) or "reason" not in kept:
                kept = await self._try(trial)
                write_verdict(path, kept)
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
        with trial_birth(self._trials) as birth:
            await trial(birth, accelerator)
