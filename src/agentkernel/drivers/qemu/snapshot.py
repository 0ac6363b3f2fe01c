"""A snapshot's three files: the state of a machine with its memory, its disk, and what it fits.

Saved with the machine standing still, its guest silent at a frame's end and its processors stopped, so that memory and
disk belong together and nothing is on its way between guest and host.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import anyio
import anyio.to_thread

from agentkernel.drivers.qemu.qmp import Monitor, command, leave_memory_out
from agentkernel.drivers.vmm.files import SCRATCH, copy_sparse, opened
from agentkernel.drivers.vmm.made_for import write_key
from agentkernel.model.errors import Broken

STATE = "state"
FINALIZED_EACH_S = 0.002
FAST = 1 << 40
"""Bytes a second: no limit. QEMU keeps to 128 MiB unless told otherwise."""


async def save(monitor: Monitor, folder: Path, disk: Path, inputs: dict[str, object]) -> None:
    """Stop a machine, write its files, let it go on.

    Raises:
        Broken: QEMU could not, or ended.
        OSError: the disk could not be copied.
    """
    with ExitStack() as files:
        state = opened(folder / STATE, os.O_CREAT | os.O_EXCL | os.O_WRONLY, files)
        await monitor.execute(
            command("stop"), leave_memory_out(), command("migrate-set-parameters", **{"max-bandwidth": FAST})
        )
        try:
            await monitor.lend_descriptor("state", state)
            await monitor.execute(command("migrate", uri="fd:state"))
            status = await monitor.migration_ended()
            if status != "completed":
                raise Broken(f"the sandbox could not be saved: {status}", hint="df -h shows whether the disk is full")
            if disk.exists():
                await anyio.to_thread.run_sync(copy_sparse, disk, folder / SCRATCH)
        finally:
            await _finalized(monitor)
            await monitor.execute(command("cont"))
    write_key(folder, inputs)


async def _finalized(monitor: Monitor) -> None:
    """Wait for the moment after the end of a migration from which on QEMU takes `cont`. It tells of it by no event."""
    while (await monitor.execute(command("query-status")))[0]["status"] == "finish-migrate":  # noqa: ASYNC110
        await anyio.sleep(FINALIZED_EACH_S)
