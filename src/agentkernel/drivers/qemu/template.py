"""A template's two files: the memory of a machine that was prepared and fell silent, and the state of its devices.

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
from agentkernel.drivers.qemu.accelerator import processor
from agentkernel.drivers.qemu.files import connect_below, copy_data, opened
from agentkernel.drivers.qemu.machine import Machine, hardware
from agentkernel.drivers.qemu.qmp import Monitor, command, leave_memory_out
from agentkernel.model.errors import Broken

FORMAT = 1
"""Of the two files, and of the devices that `machine.arguments` lists: raised whenever those change."""
MEMORY, STATE = "memory", "state"
READ_ONLY_SINCE = (8, 2)
SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


def template_inputs(tool: Tool, kernel: Kernel, machine: Machine) -> dict[str, object]:
    """All that a clone must have in common with its template."""
    spec = machine.spec
    return {
        "format": FORMAT,
        "qemu": [tool.digest, tool.version],
        "kernel": kernel.digest,
        "image": spec.image,
        "disk_mib": spec.disk_mib,
        "hardware": list(hardware(machine)),
        "processor": processor(),
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
        self._sealed: dict[Path, int] = {}

    def open(self, folder: Path, files: ExitStack, *, read_only: bool) -> tuple[int, int]:
        """Memory and state; what is to be closed closes with `files`.

        Raises:
            FileNotFoundError: it is gone.
        """
        state = opened(folder / STATE, os.O_RDONLY, files)
        if read_only:
            return opened(folder / MEMORY, os.O_RDONLY, files), state
        if folder not in self._sealed:
            self._sealed[folder] = _sealed_copy(folder / MEMORY)
        return self._sealed[folder], state

    def forget(self, folder: Path) -> None:
        """Let go of a template; machines that map it keep it."""
        sealed = self._sealed.pop(folder, None)
        if sealed is not None:
            os.close(sealed)


def _sealed_copy(file: Path) -> int:
    memory = os.memfd_create("template", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with file.open("rb") as reader:
            os.ftruncate(memory, os.fstat(reader.fileno()).st_size)
            copy_data(reader.fileno(), memory)
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
