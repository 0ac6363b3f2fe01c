"""Compiled code: made ahead by a process of its own, kept in the artefacts' folder, which is its owner's alone.

Compiled code is native code and is believed, so nothing is loaded that a sandbox could have written: what a sandbox
brings itself is compiled inside its own confinement and is gone with it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import subprocess
import sys
from functools import partial
from pathlib import Path

import anyio

from agentkernel.drivers.contract import Artifacts
from agentkernel.drivers.wasm.configuration import CONFIGURATION
from agentkernel.model.errors import Broken

CODE = "code"
"""Name of the file in its folder."""
CPUINFO = Path("/proc/cpuinfo")
COMPILER = "agentkernel.drivers.wasm.compile"
WORDS_KEPT = 600


async def native_code(artifacts: Artifacts, language: str) -> Path:
    """The compiled component of a language, made when it is not there: half a minute, once.

    Raises:
        AgentkernelError: the component cannot be had. Broken: it cannot be compiled.
    """
    component = await artifacts.component(language)
    inputs = {
        "for": "wasm",
        "component": component.digest,
        "wasmtime": importlib.metadata.version("wasmtime"),
        "configuration": CONFIGURATION,
        "machine": platform.machine(),
        "processor": hashlib.sha256(_processor().encode()).hexdigest(),
    }
    folder = await artifacts.template(inputs, partial(_compile, component.path))
    return folder / CODE


async def _compile(source: Path, folder: Path) -> None:
    command = [sys.executable, "-m", COMPILER, str(source), str(folder / CODE)]
    done = await anyio.run_process(command, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        words = done.stdout.decode("utf-8", "replace").strip()[-WORDS_KEPT:]
        raise Broken(
            f"{source.name} could not be compiled: {words}", hint="it takes about 1 GiB of memory for a moment"
        )
    (folder / CODE).chmod(0o444)  # a worker has a uid of its own; the folders above are the owner's alone


def _processor(cpuinfo: Path = CPUINFO) -> str:
    """Which instructions the compiler may use."""
    wanted = ("flags", "Features")
    return next((line for line in cpuinfo.read_text().splitlines() if line.startswith(wanted)), "")
