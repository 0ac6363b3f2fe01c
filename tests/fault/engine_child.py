"""An engine in a process of its own, for tests that end that process or fill its disk: `engine_child.py SCENE FOLDER`.

Prints one JSON line per step.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from agentkernel.engine.command import run_command
from agentkernel.engine.engine import Engine
from agentkernel.journal import Journal
from agentkernel.model.errors import AgentkernelError
from agentkernel.model.execution import ExecRequest
from agentkernel.model.kinds import Mode
from agentkernel.pool.events import HostLimits, Key, Limits
from tests.support.machines import ENVIRONMENT, qemu_driver, qemu_spec, store_at

TRUE = ExecRequest((b"/bin/true",), cwd="/")
LITTLE_BYTES = 80_000
"""Enough for the journal's pages, not for an empty file system."""


def say(**facts: object) -> None:
    """One line to whoever reads us."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


@asynccontextmanager
async def engine_in(folder: Path) -> AsyncIterator[tuple[Engine, Key]]:
    """An engine whose journal and sandboxes lie in that folder."""
    store = store_at(folder)
    driver, key = qemu_driver(store), Key(qemu_spec(store, memory_mib=192, disk_mib=1024), Mode.NATIVE)
    async with Journal.open(folder / "journal.db") as journal:
        engine = Engine(
            drivers={(driver.backend, driver.vmm): driver},
            journal=journal,
            directory=folder / "sandboxes",
            limits=HostLimits(max_sandboxes=4, recent_use_s=0),
        )
        async with engine.running():
            await engine.readiness(*engine.drivers)
            engine.configure(key, Limits(0, 4))
            yield engine, key


async def attempt(engine: Engine, key: Key, step: str) -> None:
    """Ask for a sandbox and say what came of it."""
    try:
        sandbox = await engine.lend(key)
    except AgentkernelError as err:
        say(step=step, code=err.code, message=err.message, hint=err.hint, left=_left(engine))
    except Exception as err:
        say(step=step, code="", message=repr(err), hint="", left=_left(engine))
    else:
        outcome = await run_command(sandbox.guest, TRUE)
        engine.give_back(sandbox)
        say(step=step, code="lent", exit_code=outcome.exit_code)


async def fill_under(engine: Engine, key: Key, filler: Path) -> None:
    """Fill the disk below a sandbox that writes to its own."""
    sandbox = await engine.lend(key)
    _fill(filler)
    write = ExecRequest((b"dd", b"if=/dev/zero", b"of=/scratch/x", b"bs=1M", b"count=20", b"conv=fsync"), ENVIRONMENT)
    with anyio.move_on_after(30) as scope:
        outcome = await run_command(sandbox.guest, write)
        await sandbox.guest.ping()
    filler.unlink()
    answers = not scope.cancelled_caught
    say(step="filled later", answers=answers, exit_code=outcome.exit_code if answers else 0)
    engine.give_back(sandbox)


def _left(engine: Engine) -> list[str]:
    return [path.name for path in engine._directory.iterdir()]


async def full_disk(folder: Path) -> None:
    """The disk is full when the journal wants a page, then when a sandbox wants its disk, then it is not full."""
    filler = folder / "filler"
    async with engine_in(folder) as (engine, key):
        _fill(filler)
        await attempt(engine, key, "nothing fits")
        with filler.open("rb+") as file:
            file.truncate(max(0, filler.stat().st_size - LITTLE_BYTES))
        await attempt(engine, key, "a little fits")
        filler.unlink()
        await attempt(engine, key, "all fits")
        await fill_under(engine, key, filler)


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                """Until nothing goes in."""
        except OSError:
            return


async def waiting(folder: Path) -> None:
    """Two sandboxes, one of them with a command under way; then nothing, until somebody ends us."""
    async with engine_in(folder) as (engine, key):
        ones = [await engine.lend(key) for _ in range(2)]
        process = await ones[0].guest.exec(ExecRequest((b"sleep", b"1000"), cwd="/"))
        await anext(aiter(process))
        say(step="lent", sandboxes=[each.id for each in ones])
        await anyio.sleep_forever()


if __name__ == "__main__":
    os.umask(0o077)
    anyio.run({"full-disk": full_disk, "waiting": waiting}[sys.argv[1]], Path(sys.argv[2]))
