"""Written before a host resource is made, read at start to reap what a crash left.

One row per sandbox in one SQLite file. It decides nothing: the engine says what to write, and hands what is left to the
drivers' `reap`.
"""

from agentkernel.journal.journal import Journal, Leftover

__all__ = ["Journal", "Leftover"]
