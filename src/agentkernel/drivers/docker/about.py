"""What a reader should know of the two engines."""

from agentkernel.model.kinds import Isolation
from agentkernel.model.readiness import About

DOCKER = About(
    makes="a hardened container of Docker's",
    tiers=(Isolation.KERNEL_PROXY, Isolation.CONTAINER),
    needs="Docker 20.10 or later that listens, and the right to use it; gVisor as its runtime for `kernel-proxy`",
    tested="Docker 20.10 with runc, as root on cgroup v1",
    lacks="a kernel of its own; a disk that outlives its sandbox, or is not memory",
)
PODMAN = About(
    makes="a hardened container of Podman's",
    tiers=(Isolation.CONTAINER,),
    needs="Podman 4 or later with its API service, and the right to use it",
    tested="Podman 4.3 with runc, as root on cgroup v1",
    lacks="what Docker's lack; seccomp profile and hidden paths of ours, where Podman cannot read this host's files",
)
