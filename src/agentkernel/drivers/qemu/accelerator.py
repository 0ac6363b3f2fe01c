"""What executes guests here: a cheap hint, then real boots, whose verdict is kept.

`/dev/kvm` may exist and be of no use (a nested host without nested page tables hangs in the guest's first
instructions), so only a machine that came up proves it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from agentkernel.drivers.contract import Birth
from agentkernel.drivers.qemu.machine import Accelerator
from agentkernel.drivers.vmm.hardware import hardware_hint
from agentkernel.drivers.vmm.trials import Trials, Verdict
from agentkernel.model.errors import AgentkernelError

Boot = Callable[[Birth, Accelerator], Awaitable[None]]
"""Boots something small with that accelerator; returns when it came up, raises what kept it from that."""


async def accelerator_here(trials: Trials, digests: tuple[str, ...], boot: Boot) -> tuple[Accelerator, str]:
    """The accelerator that works with that QEMU and that guest kernel, and why it is not KVM.

    Raises:
        AgentkernelError: not even an emulated machine comes up; the next call tries again.
    """

    async def attempt() -> Verdict:
        reason = hardware_hint()
        for accelerator in (Accelerator.TCG,) if reason else (Accelerator.KVM, Accelerator.TCG):
            try:
                with trials.birth() as birth:
                    await boot(birth, accelerator)
            except AgentkernelError as err:
                if accelerator is Accelerator.TCG:
                    raise
                reason = f"KVM was tried and failed: {err.message}"
            else:
                break
        return {"accelerator": accelerator, "reason": reason}

    verdict = await trials.verdict("kvm", digests, attempt, holds=_is_one)
    return Accelerator(verdict["accelerator"]), verdict["reason"]


def _is_one(verdict: Verdict, _: float) -> bool:
    return verdict.get("accelerator") in set(Accelerator) and "reason" in verdict
