"""What a reader should know of this driver."""

from agentkernel.model.kinds import Isolation
from agentkernel.model.readiness import About

ABOUT = About(
    makes="a virtual machine by Firecracker, under its jailer",
    tiers=(Isolation.VM,),
    needs="Linux on x86-64 with KVM; root; a release of Firecracker 1.13 or later, taken by `setup --firecracker PATH`",
    tested="a stand-in of its API; never the real program",
    lacks="forks and snapshots of what runs, because saving resets its link",
)
