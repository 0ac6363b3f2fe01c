"""A driver whose sandboxes are tasks of the test: *only for unit tests of the pool and the engine*.

Nothing is isolated and no program runs. But the other end of a real socketpair speaks the real guest link, so that what
is above is tested with the same LinkGuest that a microVM has. It boots at once, knows a tiny vocabulary of programs
(`programs.py`), keeps files in memory, and fails in the ways that `Faults` names.
"""

from agentkernel.drivers.fake.driver import FakeDriver, Faults
from agentkernel.drivers.fake.guest import SimulatedGuest

__all__ = ["FakeDriver", "Faults", "SimulatedGuest"]
