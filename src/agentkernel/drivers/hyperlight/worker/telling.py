"""A request as a machine's guest is told it: command lines read here, bytes as Latin-1, because JSON has none."""

from __future__ import annotations

import importlib.util
import os
import sys
from functools import cache
from importlib import resources
from types import ModuleType
from typing import Any

from agentkernel.drivers.worker.programs import Kind
from agentkernel.wire import program


class Refusal(Exception):
    """A command line that is none."""


@cache
def _command_line() -> ModuleType:
    """Options of `python3` as the wasm backend's Python reads them, by that guest's own module."""
    path = resources.files("agentkernel.images") / "guests/python/command_line.py"
    spec = importlib.util.spec_from_file_location("agentkernel_guest_command_line", str(path))
    if spec is None or spec.loader is None:
        raise ImportError(str(path))
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made
    spec.loader.exec_module(made)
    return made


def told_of(kind: Kind, request: program.Exec) -> dict[str, Any]:
    """The program, for the guest of that language. Raises Refusal."""
    words = [os.fsdecode(word) for word in request.argv]
    return _python(words, request) if kind is Kind.PYTHON else _javascript(words, request)


def _latin(text: str) -> str:
    return os.fsencode(text).decode("latin-1")


def _python(words: list[str], request: program.Exec) -> dict[str, Any]:
    module = _command_line()
    try:
        command = module.parse(words)
    except module.Usage as error:
        raise Refusal(str(error)) from None
    return {
        "kind": command.kind,
        "text": _latin(command.text),
        "argv": [_latin(word) for word in command.argv],
        "env": [entry.decode("latin-1") for entry in request.env],
        "cwd": _latin(request.cwd),
        "unbuffered": command.unbuffered or any(entry.startswith(b"PYTHONUNBUFFERED=") for entry in request.env),
    }


def _javascript(words: list[str], request: program.Exec) -> dict[str, Any]:
    told: dict[str, Any] = {
        "argv": [_shown(word) for word in words],
        "env": dict(entry.decode("utf-8", "replace").partition("=")[::2] for entry in request.env),
        "cwd": _shown(request.cwd),
    }
    match words[1:]:
        case ["-e" | "--eval", text, *_]:
            told["source"] = _shown(text)
        case [] | ["-", *_]:
            pass
        case [option, *_] if option.startswith("-"):
            raise Refusal(f"js: bad option: {option}\nusage: js [-e source | file | -] [argument] ...")
        case [path, *_]:
            told["path"] = _shown(path)
    return told


def _shown(text: str) -> str:
    return os.fsencode(text).decode("utf-8", "replace")
