"""Modules that the caller brings: compiled inside the confinement, run as WASI commands."""

from __future__ import annotations

import errno
import os

from wasmtime import WasmtimeError

from agentkernel.drivers.wasm.worker.instances import Instance, trap_words
from agentkernel.drivers.worker.execution import Ended, Stopped
from agentkernel.drivers.worker.run import KILL, Run

NOT_EXECUTABLE = 126
QUICKLY_COMPILED_BYTES = 4 << 20
"""Larger modules count as started before they are compiled: a host waits 20 s for a start, and no longer."""


def run_module(run: Run, instance: Instance, content: bytes, folder: int) -> None:
    """A WASI command from its bytes to its end, on a thread of its own.

    Args:
        folder: descriptor of its working directory; closed here.
    """
    name = os.fsdecode(run.request.argv[0])
    started = len(content) > QUICKLY_COMPILED_BYTES
    if started:
        run.started()
    try:
        try:
            act = instance.run_module(content, folder)
        finally:
            os.close(folder)
        if not started:
            run.started()
        run.finished(act())
    except Stopped:
        run.finished(Ended(0, KILL))
    except WasmtimeError as error:
        if started:
            run.finished(Ended(NOT_EXECUTABLE, words=f"{name}: {trap_words(str(error))}"))
        else:
            run.failed(errno.ENOEXEC, f"program: {name} ({trap_words(str(error))})")
