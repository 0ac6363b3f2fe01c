"""MicroVMs by QEMU: hardware virtualisation where a boot proved it, emulation otherwise and said so.

`machine` is the command line, pure; `accelerator` finds out once whether KVM works; `driver` boots a confined VM and
attaches the link.
"""

from agentkernel.drivers.qemu.about import ABOUT
from agentkernel.drivers.qemu.driver import QemuDriver

__all__ = ["ABOUT", "QemuDriver"]
