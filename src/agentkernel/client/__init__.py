"""Speaks to a running daemon from Python: one connection, requests and replies as dictionaries of the protocol's
fields.

It starts nothing and decides nothing; docs/reference/protocol.md lists the fields.
"""

from agentkernel.client.connection import Connection, DaemonError

__all__ = ["Connection", "DaemonError"]
