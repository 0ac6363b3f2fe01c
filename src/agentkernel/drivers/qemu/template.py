"""A template's files: the memory of a machine that was prepared and fell silent, the state of its devices, its key.

The memory is a file that clones map privately: what one writes no other sees, and what none writes is there once. The
state is what QEMU's migration saves when it is told to leave memory out. It fits only a machine with the same hardware
under the same QEMU, so all of that is in the template's key.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import ExitStack
from pathlib import Path

from agentkernel.drivers.contract import Kernel, Tool
from agentkernel.drivers.qemu.machine import Machine, hardware
from agentkernel.drivers.qemu.qmp import Monitor, command, leave_memory_out
from agentkernel.drivers.vmm.files import connect_below, copy_data, opened
from agentkernel.drivers.vmm.made_for import inputs_of
from agentkernel.model.errors import Broken

FORMAT = 3
"""Of the files, and of the devices and kernel arguments in `machine.py`: raised whenever those change."""
MEMORY, STATE = "memory", "state"
READ_ONLY_SINCE = (8, 2)
_Stamp = tuple[int, int, int]
"""Device, inode and time of change of a memory file."""
SEALS = 0b1111
"""F_SEAL_SEAL, SHRINK, GROW, WRITE: as a number, for Python has these names on Linux alone, and a Mac imports this."""


def template_inputs(tool: Tool, kernel: Kernel, machine: Machine) -> dict[str, object]:
    """All that a clone must have in common with its template."""
    return {
        **inputs_of(machine.spec, kernel),
        "format": FORMAT,
        "qemu": [tool.digest, tool.version],
        "hardware": list(hardware(machine)),
    }


def maps_files_read_only(tool: Tool) -> bool:
    """Whether this QEMU maps a memory file without permission to write it."""
    major, minor = (int(part) for part in tool.version.split(".")[:2])
    return (major, minor) >= READ_ONLY_SINCE


def new_template_files(folder: Path, memory_mib: int, files: ExitStack) -> tuple[int, int]:
    """Memory and state of a template in the making. QEMU has another uid and opens the first again, by its descriptor,
    so everybody may: the folder is ours alone.
    """
    memory = opened(folder / MEMORY, os.O_CREAT | os.O_RDWR, files)
    os.fchmod(memory, 0o666)
    os.ftruncate(memory, memory_mib << 20)
    return memory, opened(folder / STATE, os.O_CREAT | os.O_WRONLY, files)


class OpenTemplates:
    """Opens templates for clones. An older QEMU wants to open memory for writing: it gets a sealed copy in memory, made
    once.
    """

    def __init__(self) -> None:
        self._sealed: dict[Path, tuple[_Stamp, int]] = {}

    def open(self, folder: Path, files: ExitStack, *, read_only: bool) -> tuple[int, int]:
        """Memory and state of one and the same template; both close with `files`.

        Raises:
            FileNotFoundError: it is gone.
        """
        # Through a descriptor of the folder: by name, one file might be of a template that took its place meanwhile.
        place = Path(f"/proc/self/fd/{opened(folder, os.O_PATH | os.O_DIRECTORY, files)}")
        state = opened(place / STATE, os.O_RDONLY, files)
        memory = opened(place / MEMORY, os.O_RDONLY, files)
        if read_only:
            return memory, state
        copy = os.dup(self._sealed_copy_of(folder, memory))
        files.callback(os.close, copy)
        return copy, state

    def _sealed_copy_of(self, folder: Path, memory: int) -> int:
        facts = os.fstat(memory)
        stamp = (facts.st_dev, facts.st_ino, facts.st_mtime_ns)
        kept = self._sealed.get(folder)
        if kept is not None and kept[0] == stamp:
            return kept[1]
        copy = _sealed_copy(memory)
        self.forget(folder)  # another process made it anew
        self._sealed[folder] = (stamp, copy)
        return copy

    def forget(self, folder: Path) -> None:
        """Let go of a template; machines that map it keep it."""
        kept = self._sealed.pop(folder, None)
        if kept is not None:
            os.close(kept[1])


def _sealed_copy(file: int) -> int:
    memory = os.memfd_create("template", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(memory, os.fstat(file).st_size)
        copy_data(file, memory)
        os.fchmod(memory, 0o666)
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, SEALS)
    except BaseException:
        os.close(memory)
        raise
    return memory


async def save(directory: Path, state: int) -> None:
    """Write the devices' state of a machine that has fallen silent. It goes on until all is written, and is saved as
    running, so that clones run as soon as they are loaded.
    """
    with Monitor(connect_below(directory, "qmp")) as monitor:
        await monitor.execute(leave_memory_out())
        await monitor.lend_descriptor("state", state)
        await monitor.execute(command("migrate", uri="fd:state"))
        status = await monitor.migration_ended()
    if status != "completed":
        raise Broken(f"the template's state could not be saved: {status}")


async def load(directory: Path, state: int) -> None:
    """Load a state into a machine that waits for it; it runs then, also where it was saved standing still."""
    with Monitor(connect_below(directory, "qmp")) as monitor:
        await monitor.execute(leave_memory_out(), command("migrate-incoming", uri=f"fd:{state}"))
        status = await monitor.migration_ended()
        if status != "completed":
            raise Broken(f"the saved state could not be loaded: {status}")
        await monitor.execute(command("cont"))
