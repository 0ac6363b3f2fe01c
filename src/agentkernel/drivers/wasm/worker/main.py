"""The worker's entry: one socket, one tree, the languages' native code; until the host hangs up.

Arguments: descriptor of the socket, most memory of a program in MiB, the folder of the tree, then `KIND=FILE` for each
language.
"""

from __future__ import annotations

import os
import platform
import socket
import sys
from pathlib import Path

from agentkernel.drivers.wasm.programs import Kind
from agentkernel.drivers.wasm.worker.host import Host
from agentkernel.drivers.wasm.worker.peer import Peer
from agentkernel.drivers.wasm.worker.tree import Tree


def main(arguments: list[str]) -> None:
    """Serve one link."""
    number, memory_mib, root, *languages = arguments
    stream = socket.socket(fileno=int(number))
    stream.setblocking(False)
    os.umask(0o022)
    tree = Tree(Path(root))
    natives = {Kind(kind): Path(path) for kind, _, path in (word.partition("=") for word in languages)}
    host = Host(tree, int(memory_mib) << 20, natives)
    facts = (
        f"arch={platform.machine()}",
        "kernel=none",
        "pid1=no",
        "transport=socket",
        "agent=wasm",
        f"memory_kib={int(memory_mib) << 10}",
    )
    Peer(stream, tree, host, facts).listen()
    # Threads that sleep inside WASI cannot be asked to end, and stores must not be freed under them.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
