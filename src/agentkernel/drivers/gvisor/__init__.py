"""Sandboxes in gVisor: a kernel of its own in user space (the sentry) between a program and the host's kernel.

`bundle` is what runsc is told, pure; `driver` starts a confined runsc and attaches the link; `snapshot` has the sentry
write itself down. Needs neither root nor a container engine. Reasons and figures: docs/adr/0010-gvisor.md.
"""

from agentkernel.drivers.gvisor.about import ABOUT
from agentkernel.drivers.gvisor.driver import GvisorDriver

__all__ = ["ABOUT", "GvisorDriver"]
