"""The standard library, kept in the component's memory: a component has no files of its own.

Modules that are imported while the component is built are put aside and handed out again when a program imports them,
so that a program's own modules still come first, as in CPython. The others are kept as code, and run on import.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import marshal
import os
import sys
import zlib
from types import CodeType, ModuleType

FOLDER = f"/usr/lib/python{sys.version_info[0]}.{sys.version_info[1]}"
"""Where the modules say that they come from."""
BUILT_FROM = "/python"
LEFT_OUT = {"ensurepip", "idlelib", "site-packages", "test", "tkinter", "turtledemo", "venv", "__pycache__"}


class StandardLibrary(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Finder and loader of everything below `BUILT_FROM`."""

    def __init__(self) -> None:
        self._code: dict[str, bytes] = {}
        self._source: dict[str, bytes] = {}
        self._packages: set[str] = set()
        self._aside: dict[str, ModuleType] = {}
        self._together: dict[str, tuple[str, ...]] = {}

    def read(self) -> None:
        """Compile all that is there, while the component is built."""
        for folder, folders, files in os.walk(BUILT_FROM):
            folders[:] = sorted(set(folders) - LEFT_OUT)
            inside = os.path.relpath(folder, BUILT_FROM)
            parts = () if inside == "." else tuple(inside.split(os.sep))
            for file in sorted(files):
                if file.endswith(".py"):
                    self._keep((*parts, file.removesuffix(".py")), os.path.join(folder, file))

    def _keep(self, parts: tuple[str, ...], path: str) -> None:
        with open(path, "rb") as file:
            source = file.read()
        if parts[-1] == "__init__":
            parts = parts[:-1]
            self._packages.add(".".join(parts))
        name = ".".join(parts)
        try:
            code = compile(source, self.get_filename(name), "exec", dont_inherit=True)
        except (SyntaxError, ValueError):
            return
        self._code[name] = marshal.dumps(code)
        self._source[name] = zlib.compress(source, 9)

    def put_aside(self, loaded_at_start: set[str]) -> None:
        """Forget what was imported since, until it is asked for again."""
        for name in [name for name in sys.modules if name not in loaded_at_start]:
            module = sys.modules[name]
            if name in self._code or name in sys.builtin_module_names:
                self._aside[name] = module
                del sys.modules[name]
                if name in self._code:
                    module.__file__ = self.get_filename(name)
                    module.__cached__ = None
                if name in self._packages:
                    module.__path__ = [os.path.dirname(self.get_filename(name))]

        self._together = {name: self._needed_by(name) for name in self._aside}

    def _needed_by(self, name: str) -> tuple[str, ...]:
        """What is imported along with a module: modules look each other up in `sys.modules`."""
        found, waiting = set(), [name]
        while waiting:
            one = waiting.pop()
            if one in found or one not in self._aside:
                continue
            found.add(one)
            waiting.extend(other for other in self._aside if other.startswith(one + "."))
            for value in vars(self._aside[one]).values():
                source = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
                if isinstance(source, str):
                    waiting.append(source)
        return tuple(sorted(found - {name}))

    def find_spec(self, fullname, path=None, target=None):
        """Whatever is ours."""
        if fullname not in self._code:
            return None
        is_package = fullname in self._packages
        spec = importlib.machinery.ModuleSpec(fullname, self, origin=self.get_filename(fullname), is_package=is_package)
        spec.has_location = True
        spec.cached = None
        if is_package:
            spec.submodule_search_locations = [os.path.dirname(self.get_filename(fullname))]
        return spec

    def create_module(self, spec):
        """The one that was put aside, with all that was imported for it."""
        module = self._aside.get(spec.name)
        if module is not None:
            for name in self._together[spec.name]:
                sys.modules.setdefault(name, self._aside[name])
        return module

    def exec_module(self, module):
        """Run it, unless it ran while the component was built."""
        if self._aside.get(module.__name__) is not module:
            exec(self.get_code(module.__name__), module.__dict__)

    def get_code(self, fullname: str) -> CodeType:
        """Compiled, for `runpy` too."""
        try:
            return marshal.loads(self._code[fullname])
        except KeyError:
            raise ImportError(f"no module named {fullname!r}", name=fullname) from None

    def get_source(self, fullname: str) -> str:
        """As it was written: tracebacks show lines of it."""
        try:
            return zlib.decompress(self._source[fullname]).decode()
        except KeyError:
            raise ImportError(f"no module named {fullname!r}", name=fullname) from None

    def is_package(self, fullname: str) -> bool:
        """Whether it has modules below it."""
        return fullname in self._packages

    def get_filename(self, fullname: str) -> str:
        """Where it would lie on a disk."""
        tail = "/__init__.py" if fullname in self._packages else ".py"
        return f"{FOLDER}/{fullname.replace('.', '/')}{tail}"
