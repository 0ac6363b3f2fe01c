"""How much of the host one machine may take beside what its guest may."""

from __future__ import annotations

from agentkernel.drivers.limits import Limits
from agentkernel.model.spec import BootSpec

OWN_MIB = 512
"""What QEMU takes beside the guest's memory. Emulated, translated code alone may grow to 128 MiB and its tables with
it; an idle clone takes 40. Generous, because a QEMU that meets the limit is killed and its sandbox with it.
"""
OWN_CPUS = 1.0
"""Beside the guest's processors: its main thread, and those that read and write the disk."""
THREADS = 64


def limits(spec: BootSpec) -> Limits:
    """Of one QEMU. The disk is counted because the folder that holds it may be in memory too."""
    memory_mib = spec.memory_mib + spec.disk_mib + OWN_MIB
    return Limits(memory_bytes=memory_mib << 20, cpus=spec.vcpus + OWN_CPUS, pids=THREADS)
