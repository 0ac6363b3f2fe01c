"""A daemon's stand-in: boots a microVM below FOLDER, says which in one JSON line, waits to be killed."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import anyio

from tests.support.machines import booted, qemu_driver, qemu_spec, store_at


async def main(folder: Path) -> None:
    """Until the end."""
    store = store_at(folder)
    async with booted(qemu_driver(store), qemu_spec(store), folder / "sandboxes") as machine:
        facts = {"id": machine.birth.id, "folder": str(machine.birth.directory), **machine.birth.facts}
        sys.stdout.write(json.dumps(facts) + "\n")
        sys.stdout.flush()
        await anyio.sleep_forever()


if __name__ == "__main__":
    os.umask(0o077)
    anyio.run(main, Path(sys.argv[1]))
