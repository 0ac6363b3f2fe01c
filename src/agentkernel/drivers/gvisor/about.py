"""What a reader should know of this driver."""

from agentkernel.model.kinds import Isolation
from agentkernel.model.readiness import About

ABOUT = About(
    makes="a kernel in user space, gVisor's, between a program and the host's",
    tiers=(Isolation.KERNEL_PROXY,),
    needs="Linux; `runsc`, which `setup --backend gvisor` fetches; a cgroup to hold sandboxes in, or `allow_unlimited`",
    tested="runsc 2024-07 of Debian 12's backports, as root on cgroup v1; as an ordinary user by hand",
    lacks="a disk that outlives its sandbox; parts of Linux, such as io_uring and most of netlink",
)
