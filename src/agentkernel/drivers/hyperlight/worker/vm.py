"""A machine's process: one micro-VM, from its snapshot to each program and back.

Arguments: descriptor of the socket to the worker, the language, its guest's code, MiB of memory, the folder of the
tree. It ends when the worker hangs up, is killed to end a program, and ends itself with a machine that is broken.
"""

from __future__ import annotations

import importlib
import json
import socket
from pathlib import Path
from typing import Any, Protocol

from agentkernel.drivers.hyperlight.worker import words
from agentkernel.drivers.hyperlight.worker.answers import Answers
from agentkernel.drivers.worker.programs import Kind
from agentkernel.drivers.worker.tree import Tree

GUESTS = Path(__file__).parents[1] / "guests"
PRELUDE = Path(__file__).parents[2] / "worker" / "prelude.js"
BACKEND = "hyperlight_sandbox_backend_wasm"
TOOL = "host"
START = {Kind.PYTHON: "_agentkernel()", Kind.JAVASCRIPT: "await __agentkernel()"}
HEAP = "25Mi"
"""Of the guest's runtime; what programs take comes out of the rest."""
LEAST_MEMORY_MIB = 48
"""What the guest needs to start."""
WORDS_KEPT = 400


class Sandbox(Protocol):
    """What is used of `hyperlight_sandbox_backend_wasm.WasmSandbox`."""

    def register_tool(self, name: str, act: Any) -> None: ...

    def run(self, code: str) -> Any: ...

    def snapshot(self) -> Any: ...

    def restore(self, snapshot: Any) -> None: ...


def main(arguments: list[str]) -> None:
    """Serve one worker."""
    number, language, code, memory_mib, root = arguments
    link = socket.socket(fileno=int(number))
    kind = Kind(language)
    answers = Answers(link, Tree(Path(root)))
    try:
        sandbox = _sandbox(code, int(memory_mib))
        sandbox.register_tool(TOOL, answers.answer)
        _run(sandbox, prelude(kind))
        snapshot = sandbox.snapshot()
        words.send(link, words.READY)
        while True:
            _, told = words.receive(link)
            answers.begin(json.loads(told))
            sandbox.restore(snapshot)
            _run(sandbox, START[kind])
            words.send(link, words.ENDED, b"%d" % (answers.code or 0))
    except (EOFError, BrokenPipeError):
        return
    except Exception as error:  # the package raises RuntimeError for all, and panics come as one that is none
        words.send(link, words.FAILED, cause(str(error)).encode())


def prelude(kind: Kind) -> str:
    """What a machine runs before its snapshot is taken."""
    if kind is Kind.PYTHON:
        return (GUESTS / "python.py").read_text() + (GUESTS / "library.py").read_text()
    return (GUESTS / "javascript.js").read_text().replace("PRELUDE", PRELUDE.read_text().rstrip().rstrip(";"))


def cause(said: str) -> str:
    """The last cause of a chain that says the same again and again."""
    parts = [part.strip() for part in said.split(": ") if part.strip()]
    kept = list(dict.fromkeys(parts))
    return ": ".join(kept)[:WORDS_KEPT]


def _sandbox(code: str, memory_mib: int) -> Sandbox:
    memory = f"{max(memory_mib, LEAST_MEMORY_MIB)}Mi"
    made: Sandbox = importlib.import_module(BACKEND).WasmSandbox(module_path=code, heap_size=HEAP, stack_size=memory)
    return made


def _run(sandbox: Sandbox, code: str) -> None:
    result = sandbox.run(code)
    if result.exit_code:
        raise RuntimeError((result.stderr or result.stdout or f"exit code {result.exit_code}").strip())
