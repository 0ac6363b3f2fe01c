"""A Mac's Python lacks names that Linux's has: what a Mac has to import, it can, and its probes answer.

Not a Mac: this takes the names away from Linux's Python.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

WITHOUT = """
import fcntl, os, platform, select, signal, socket
for module, names in {
    fcntl: [name for name in dir(fcntl) if name.startswith("F_SEAL") or name in ("F_ADD_SEALS", "F_GET_SEALS")],
    os: ["O_PATH", "O_TMPFILE", "memfd_create", "MFD_CLOEXEC", "MFD_ALLOW_SEALING", "pidfd_open", "copy_file_range",
         "sched_getaffinity", "setresuid", "setresgid", "splice", "eventfd"],
    signal: ["pidfd_send_signal"],
    socket: ["AF_VSOCK", "AF_NETLINK", "AF_PACKET", "SO_PEERCRED", "SOCK_CLOEXEC", "SOCK_NONBLOCK"],
    select: ["epoll"],
}.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
platform.system, platform.machine, platform.mac_ver = lambda: "Darwin", lambda: "arm64", lambda *_: ("15.1", (), "")
"""

PROBES = """
import anyio, tempfile
from pathlib import Path
from agentkernel.drivers.catalogue import Settings, catalogue
from agentkernel.images.store import Store

async def main():
    folder = Path(tempfile.mkdtemp())
    store = Store({"AGENTKERNEL_DATA": str(folder / "data"), "AGENTKERNEL_HOME": str(folder / "home")})
    drivers = catalogue(store, Settings(environ={}, verdicts=folder / "verdicts", trials=folder / "trials"))
    for (backend, vmm), driver in drivers.items():
        if vmm or backend == "apple":
            print(vmm or backend, (await driver.probe()).reason, sep=": ")
    folder.rmdir()

anyio.run(main)
"""


def python(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "module",
    ["agentkernel.drivers.catalogue", "agentkernel.daemon.app", "agentkernel.cli.commands", "agentkernel.cli.hot"],
)
def test_a_mac_imports_it(module: str) -> None:
    python(f"{WITHOUT}\nimport {module}")


def test_a_macs_probes_say_what_is_wrong_there() -> None:
    said = dict(line.split(": ", 1) for line in python(WITHOUT + PROBES).splitlines())
    assert said["apple"] == "macOS 26 or later is needed, this is 15.1"
    assert said["qemu"] == "this driver makes x86-64 machines, not arm64 ones"
    assert said["firecracker"].startswith("Firecracker runs on Linux only, not on Darwin")
