"""What a confined worker sees of this host: an interpreter, its library, some packages, and ours; nothing else."""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from agentkernel.drivers.confine import Bind
from agentkernel.drivers.worker.entry import LIBRARIES, start_of
from agentkernel.model.errors import Unsupported

ROOT = "/tmp/root"  # noqa: S108  # in the sandbox's own mount namespace
"""The sandbox's file tree, in a tmpfs of its own."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """This interpreter, for a worker.

    Attributes:
        argv: how it starts; arguments of the worker follow.
        binds: what it needs to see besides the system's libraries.
    """

    argv: tuple[str, ...]
    binds: tuple[Bind, ...]


def package_folder(name: str, extra: str) -> Path:
    """An installed package, which is not imported. Raises Unsupported where it is not: `extra` of ours has it."""
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise Unsupported(f"the package {name} is not installed", hint=f"pip install 'agentkernel[{extra}]'")
    return Path(next(iter(found.submodule_search_locations)))


def interpreter(entry: str, packages: Iterable[Path]) -> Interpreter:
    """The interpreter that runs us, without its site-packages.

    Args:
        entry: module of ours whose `main` gets the arguments.
        packages: folders of what it imports besides.
    """
    program = Path(getattr(sys, "_base_executable", "") or sys.executable).resolve()
    binds = [Bind(folder, f"{LIBRARIES}/{folder.name}") for folder in (*packages, Path(__file__).parents[2])]
    for place in _places(program):
        if not place.is_relative_to("/usr"):
            binds.append(Bind(place, str(place)))
    return Interpreter((str(program), "-I", "-S", "-B", "-c", start_of(entry)), tuple(binds))


def _places(program: Path) -> list[Path]:
    """The program, its standard library, and the shared library that it may be linked with."""
    paths = sysconfig.get_paths(vars={"base": sys.base_prefix, "platbase": sys.base_exec_prefix})
    places = dict.fromkeys([program, Path(paths["stdlib"]), Path(paths["platstdlib"])])
    folder, name = sysconfig.get_config_vars("LIBDIR", "INSTSONAME")
    if folder and name and str(name).endswith((".so", ".so.1.0")) and (library := Path(folder) / name).is_file():
        places[library] = None
    return list(places)
