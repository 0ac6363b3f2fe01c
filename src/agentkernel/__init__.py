"""agentkernel: each command of an AI coding agent in a sandbox of its own. ARCHITECTURE.md is the way in."""

__version__ = "0.1.0"
