"""What the confined worker sees of this host: an interpreter, its library, wasmtime, and this package; nothing else."""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from agentkernel.drivers.confine import Bind
from agentkernel.model.errors import Unsupported

LIBRARIES = "/agentkernel/python"
"""Where the worker finds packages."""
NATIVE = "/agentkernel/native"
"""Where it finds compiled code."""
ROOT = "/tmp/root"  # noqa: S108  # in the sandbox's own mount namespace
"""The sandbox's file tree, in a tmpfs of its own."""
WORKER = "agentkernel.drivers.wasm.worker.main"
START = f"import sys; sys.path.append({LIBRARIES!r}); sys.argv[:1] = []; from {WORKER} import main; main(sys.argv)"


@dataclass(frozen=True, slots=True)
class Interpreter:
    """This interpreter, for a worker.

    Attributes:
        argv: how it starts; arguments of the worker follow.
        binds: what it needs to see besides the system's libraries.
    """

    argv: tuple[str, ...]
    binds: tuple[Bind, ...]


def wasmtime_folder() -> Path:
    """The package. Raises Unsupported where it is not installed."""
    found = importlib.util.find_spec("wasmtime")
    if found is None or not found.submodule_search_locations:
        raise Unsupported("the package wasmtime is not installed", hint="pip install 'agentkernel[wasm]'")
    return Path(next(iter(found.submodule_search_locations)))


def interpreter() -> Interpreter:
    """The interpreter that runs us, without its site-packages. Raises Unsupported."""
    program = Path(getattr(sys, "_base_executable", "") or sys.executable).resolve()
    package = Path(__file__).parents[2]
    binds = [Bind(wasmtime_folder(), f"{LIBRARIES}/wasmtime"), Bind(package, f"{LIBRARIES}/agentkernel")]
    for place in _places(program):
        if not place.is_relative_to("/usr"):
            binds.append(Bind(place, str(place)))
    return Interpreter((str(program), "-I", "-S", "-B", "-c", START), tuple(binds))


def _places(program: Path) -> list[Path]:
    """The program, its standard library, and the shared library that it may be linked with."""
    paths = sysconfig.get_paths(vars={"base": sys.base_prefix, "platbase": sys.base_exec_prefix})
    places = dict.fromkeys([program, Path(paths["stdlib"]), Path(paths["platstdlib"])])
    folder, name = sysconfig.get_config_vars("LIBDIR", "INSTSONAME")
    if folder and name and str(name).endswith((".so", ".so.1.0")) and (library := Path(folder) / name).is_file():
        places[library] = None
    return list(places)
