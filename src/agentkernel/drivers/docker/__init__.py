"""Sandboxes as containers of an engine that speaks the Docker Engine API: Docker, Podman, and whatever answers alike.

The engine makes and removes containers, and no more: our agent is a container's process, and the guest link goes over
its attached standard streams, which works with engines on this host, in a virtual machine and far away. `endpoint` says
where an engine is, `api` asks it, `engine` says what it can, `attach` carries the link, `container` says what a
container may do, `images` what it is made from.
"""

from agentkernel.drivers.docker.about import DOCKER, PODMAN
from agentkernel.drivers.docker.driver import DockerDriver

__all__ = ["DOCKER", "PODMAN", "DockerDriver"]
