"""What drivers that share the host's kernel add to namespaces: a seccomp profile, and which paths are hidden.

Decides what a command may ask of the host's kernel (`profile.toml`, compiled by `seccomp`) and what it sees
of it below `/proc` and `/sys` (`paths`). Leaves to the drivers how their engine is told, and to `drivers/limits` how
much it may take.
"""

from agentkernel.drivers.hardening.paths import MASKED, READ_ONLY
from agentkernel.drivers.hardening.seccomp import MACHINES, profile

__all__ = ["MACHINES", "MASKED", "READ_ONLY", "profile"]
