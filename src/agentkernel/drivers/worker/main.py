"""The entry of every worker: one socket, one tree, one engine; until the host hangs up."""

from __future__ import annotations

import os
import platform
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from agentkernel.drivers.worker.execution import Engine
from agentkernel.drivers.worker.peer import Peer
from agentkernel.drivers.worker.tree import Tree

SWITCH_S = 0.0001
"""How long one thread may keep others from the interpreter: what they do between programs is short, and waited for."""


def serve(number: str, memory_mib: str, root: str, name: str, engine: Callable[[Tree], Engine]) -> None:
    """Serve one link, and never return.

    Args:
        number: descriptor of the socket.
        memory_mib: most memory of a program, as the guest tells it.
        root: the folder of the tree.
        name: what the guest calls its agent.
    """
    stream = socket.socket(fileno=int(number))
    stream.setblocking(False)
    os.umask(0o022)
    sys.setswitchinterval(SWITCH_S)
    tree = Tree(Path(root))
    facts = (
        f"arch={platform.machine()}",
        "kernel=none",
        "pid1=no",
        "transport=socket",
        f"agent={name}",
        f"memory_kib={int(memory_mib) << 10}",
    )
    Peer(stream, tree, engine(tree), facts).listen()
    # Threads that wait inside an engine cannot be asked to end, and what they use must not be freed under them.
    os._exit(0)
