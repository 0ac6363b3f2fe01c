"""What a reader should know of this driver."""

from agentkernel.model.kinds import Isolation
from agentkernel.model.readiness import About

ABOUT = About(
    makes="a virtual machine by a confined QEMU",
    tiers=(Isolation.VM, Isolation.VM_EMULATED),
    needs="Linux on x86-64; QEMU 7.2 or later and a kernel, which `setup` fetches; KVM for speed and for `vm`",
    tested="QEMU 10.0 on Debian 12, emulated, and with KVM in a nested host; QEMU 7.2 once, by hand",
    lacks="hosts that are not x86-64",
)
