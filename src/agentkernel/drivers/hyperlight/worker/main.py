"""The worker's entry.

Arguments: descriptor of the socket, MiB of memory of a machine, the folder of the tree, then `KIND=FILE` for each
language.
"""

from __future__ import annotations

from pathlib import Path

from agentkernel.drivers.hyperlight.worker.host import Host
from agentkernel.drivers.worker.main import serve
from agentkernel.drivers.worker.programs import Kind


def main(arguments: list[str]) -> None:
    """Serve one link."""
    number, memory_mib, root, *languages = arguments
    codes = {Kind(kind): Path(path) for kind, _, path in (word.partition("=") for word in languages)}
    serve(number, memory_mib, root, "hyperlight", lambda tree: Host(tree, int(memory_mib), codes))
