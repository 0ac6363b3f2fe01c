"""Templates in a process of its own: `template_child.py SCENE FOLDER`. Prints one JSON line per step.

`make`: make the template, or find it. `no-room`: ask an engine for sandboxes while templates have no room.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path

import anyio

from agentkernel.drivers.contract import Guest
from agentkernel.engine.command import run_command
from agentkernel.model.execution import ExecRequest
from agentkernel.model.kinds import Mode
from agentkernel.pool.events import HostLimits, Key, Limits
from tests.support.engines import engine_over
from tests.support.machines import cradle, qemu_driver, qemu_spec, store_at

MEMORY_MIB = 232
"""A size that nobody else uses, so that these templates are ours."""


def say(**facts: object) -> None:
    """One line to whoever reads us."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


async def make(folder: Path) -> None:
    """Say that we are ready, wait to be told, make it; who really made it says so."""
    store = store_at(folder)
    driver, recorded = qemu_driver(store), False

    async def prepare(_guest: Guest) -> None:
        nonlocal recorded
        recorded = True

    birth = cradle(folder)
    await driver.probe()
    say(ready=True)
    await anyio.to_thread.run_sync(sys.stdin.readline)
    template = await driver.template(qemu_spec(store, memory_mib=MEMORY_MIB, disk_mib=16), birth, prepare)
    say(folder=str(template), inode=(template / "memory").stat().st_ino, recorded=recorded)


class Said(logging.Handler):
    """Keeps warnings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep what it says, and why."""
        self.lines.append(f"{record.message if hasattr(record, 'message') else record.getMessage()}: {record.reason}")  # type: ignore[attr-defined]


async def no_room(folder: Path) -> None:
    """Two callers at once, one after them."""
    said = Said()
    logging.getLogger("agentkernel.engine.templates").addHandler(said)
    store = store_at(folder)
    key = Key(qemu_spec(store, memory_mib=MEMORY_MIB, disk_mib=16), Mode.NATIVE)
    limits = HostLimits(max_sandboxes=4, recent_use_s=0)
    async with engine_over(qemu_driver(store), folder, key=key, limits=limits, warm=Limits(0, 4)) as engine:

        async def use() -> None:
            with anyio.fail_after(60):
                sandbox = await engine.lend(key)
            outcome = await run_command(sandbox.guest, ExecRequest((b"/bin/true",), cwd="/"))
            say(exit_code=outcome.exit_code, cold=sandbox.template is None)
            engine.give_back(sandbox)

        async with anyio.create_task_group() as group:
            group.start_soon(use)
            group.start_soon(use)
        await use()
    say(warnings=said.lines, left=[path.name for path in (store.data / "templates").iterdir()])


if __name__ == "__main__":
    os.umask(0o077)
    anyio.run({"make": make, "no-room": no_room}[sys.argv[1]], Path(sys.argv[2]))
