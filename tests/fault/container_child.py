"""A process with one container, for a test that kills it: `container_child.py BACKEND ADDRESS FOLDER`.

Prints one JSON line.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import anyio

from agentkernel.drivers.docker import DockerDriver
from agentkernel.drivers.docker.driver import AGENT_ALONE
from agentkernel.drivers.docker.endpoint import parse
from agentkernel.model.kinds import Backend
from agentkernel.model.spec import BootSpec
from tests.support.machines import booted, store_at


async def hold(backend: Backend, address: str, folder: Path) -> None:
    """Boot, say so, wait to be killed."""
    driver = DockerDriver(backend, store_at(folder), lambda: parse(address, "the test"), files=folder)
    spec = BootSpec(backend, "", AGENT_ALONE, memory_mib=64, disk_mib=4, pids=32)
    async with booted(driver, spec, folder) as machine:
        sys.stdout.write(json.dumps({"container": machine.birth.facts["container"]}) + "\n")
        sys.stdout.flush()
        await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(hold, Backend(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
