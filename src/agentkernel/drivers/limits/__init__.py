"""Memory, processor time and processes of one sandbox, held by the host's kernel: one class per mode of its cgroups.

Decides where groups may be made on this host (`find`), and how each mode is spoken to. Leaves to the drivers which
process goes in and when, and to policy how much it is. It needs nothing but the standard library and
`model.errors`. Every call is a few small files; only `destroy` and `reap` wait, at most `DESTROY_S`, and belong in a
thread. `limits.held` has the group as an asynchronous block; it stands apart because it needs more than that.
"""

from agentkernel.drivers.limits.group import DESTROY_S, Cgroup, Cgroups, Limits, Stats
from agentkernel.drivers.limits.host import find
from agentkernel.drivers.limits.legacy import HybridCgroups, LegacyCgroups
from agentkernel.drivers.limits.unified import UnifiedCgroups

__all__ = [
    "DESTROY_S",
    "Cgroup",
    "Cgroups",
    "HybridCgroups",
    "LegacyCgroups",
    "Limits",
    "Stats",
    "UnifiedCgroups",
    "find",
]
