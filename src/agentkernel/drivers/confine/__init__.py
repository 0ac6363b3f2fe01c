"""Runs one host program (a VMM, a WebAssembly worker) so that breaking out of it is not yet being on the host.

Decides how a program is confined (what it sees, as whom it runs, what it may ask of the kernel) and who ends it: a
small supervisor (`host/`), one per sandbox, that outlives neither the program nor, unless told to keep it, the daemon.
Leaves to the drivers what the program is, and to the engine the sandbox's directory and the journal.
"""

from agentkernel.drivers.confine.facts import ConfinementFacts, confinement_of
from agentkernel.drivers.confine.identity import UidRange, private_uid, uid_range
from agentkernel.drivers.confine.process import ConfinedProcess, confined
from agentkernel.drivers.confine.reap import ProcessName, process_name, reap, recorded, wait_gone
from agentkernel.drivers.confine.spec import Bind, Confinement, system_binds
from agentkernel.drivers.confine.status import Ended

__all__ = [
    "Bind",
    "ConfinedProcess",
    "Confinement",
    "ConfinementFacts",
    "Ended",
    "ProcessName",
    "UidRange",
    "confined",
    "confinement_of",
    "private_uid",
    "process_name",
    "reap",
    "recorded",
    "system_binds",
    "uid_range",
    "wait_gone",
]
