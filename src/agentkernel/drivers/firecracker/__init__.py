"""MicroVMs by Firecracker, where KVM works: booted and restored through its API, under its own jailer.

`machine` is what Firecracker is told, pure; `table` the same requests as facts, to check them by; `api` tells it;
`jail` is where it lives; `binary` finds it; `driver` makes machines and attaches the link. It has never met the real
program: LIMITATIONS.md says what stands in for it.
"""

from agentkernel.drivers.firecracker.about import ABOUT
from agentkernel.drivers.firecracker.driver import FirecrackerDriver

__all__ = ["ABOUT", "FirecrackerDriver"]
