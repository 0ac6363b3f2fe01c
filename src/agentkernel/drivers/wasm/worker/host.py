"""Which instance a program gets: a language's that waits already, or one made of a file in the sandbox."""

from __future__ import annotations

import errno
import os
import posixpath
import threading
from collections.abc import Callable
from pathlib import Path

import wasmtime
from wasmtime import WasmtimeError
from wasmtime.component import Component

from agentkernel.drivers.wasm.engine import new_engine
from agentkernel.drivers.wasm.worker.instances import ABORT, Instance, language_linker, trap_words
from agentkernel.drivers.wasm.worker.javascript import JavaScript
from agentkernel.drivers.wasm.worker.modules import run_module
from agentkernel.drivers.worker.execution import Ended, Stopped
from agentkernel.drivers.worker.programs import Foreign, Kind, program_of
from agentkernel.drivers.worker.requests import settle
from agentkernel.drivers.worker.run import KILL, Run
from agentkernel.drivers.worker.tree import Tree
from agentkernel.wire import program

MOST_MODULE_BYTES = 256 << 20
Runner = Callable[[Instance], Ended]
"""Has an instance become a language, wait for its program, and run it."""


class Language:
    """Runs source code. One instance waits for a program; when that one is over, the next is made."""

    def __init__(self, new: Callable[[], Instance], run: Runner) -> None:
        self._new_instance, self._run = new, run
        self._waiting: list[_Prepared] = []
        self._lock = threading.Lock()

    def prepare(self) -> _Prepared | None:
        """The one that is to wait, for the caller to make; None if one waits. Whoever starts a program from now on gets
        this one: two that are made at once are in each other's way.
        """
        with self._lock:
            if self._waiting:
                return None
            self._waiting.append(self._new())
            return self._waiting[-1]

    def start(self, run: Run) -> None:
        """Give it the program: at once, or as soon as one is ready."""
        with self._lock:
            prepared = self._waiting.pop() if self._waiting else self._new()
        prepared.make()
        prepared.begin(run)

    def _new(self) -> _Prepared:
        instance = self._new_instance()
        return _Prepared(instance, lambda: self._run(instance), self.prepare)


class _Prepared:
    """An instance on its way to its program."""

    def __init__(self, instance: Instance, act: Callable[[], Ended], next_one: Callable[[], _Prepared | None]) -> None:
        self._instance = instance
        self._act = act
        self._next_one = next_one
        self._run: Run | None = None
        self._ended: Ended | None = None
        self._made = False
        self._lock = threading.Lock()

    def make(self) -> None:
        """Start its thread, if it has none. Any thread."""
        with self._lock:
            made, self._made = self._made, True
        if not made:
            threading.Thread(target=self._live, daemon=True).start()

    def begin(self, run: Run) -> None:
        """This program. An instance that came to nothing before it had one ends it at once."""
        run.started()
        with self._lock:
            self._run, ended = run, self._ended
        run.begin(self._instance)
        if ended is not None:
            run.finished(ended)

    def _live(self) -> None:
        try:
            ended = self._act()
        except Stopped:
            ended = Ended(0, KILL)
        except WasmtimeError as error:
            ended = Ended(0, ABORT, trap_words(str(error)))
        with self._lock:
            run, self._ended = self._run, ended
        if run is not None:  # else it would fail again and again
            after = self._next_one()
            run.finished(ended)
            if after is not None:
                after.make()
        self._instance.close()


class Host:
    """Starts programs.

    Args:
        languages: native code of components, by kind.
    """

    def __init__(self, tree: Tree, memory_bytes: int, languages: dict[Kind, Path]) -> None:
        self._tree = tree
        self._memory_bytes = memory_bytes
        self._engine = new_engine()
        self._languages = {kind: Language(self._new, self._runner(kind, str(path))) for kind, path in languages.items()}
        for language in self._languages.values():
            if first := language.prepare():
                first.make()

    def _new(self) -> Instance:
        return Instance(self._engine, self._tree.path, self._memory_bytes)

    def _runner(self, kind: Kind, native: str) -> Runner:
        if kind is Kind.PYTHON:
            code, linker = Component.deserialize_file(self._engine, native), language_linker(self._engine)
            return lambda instance: instance.run_language(linker, code)
        module = wasmtime.Module.deserialize_file(self._engine, native)

        def javascript(instance: Instance) -> Ended:
            ready = JavaScript(self._engine, module, instance, self._tree)
            program_given = instance.take()
            return instance.ended(lambda: ready.run(program_given))

        return javascript

    def start(self, run: Run) -> program.Failed | None:
        """Begin a program on a thread of its own, or say why not."""
        refusal = settle(run, self._tree)
        if refusal is not None:
            return refusal
        name = os.fsdecode(run.request.argv[0])
        kind = program_of(name)
        if isinstance(kind, Foreign):
            return program.Failed(errno.ENOENT, f"program: {kind}")
        if kind is Kind.MODULE:
            return self._start_module(run, name)
        language = self._languages.get(kind)
        if language is None:
            return program.Failed(errno.ENOENT, f"program: {name}")
        language.start(run)
        return None

    def _start_module(self, run: Run, name: str) -> program.Failed | None:
        try:
            content = self._read(posixpath.join(run.request.cwd, name))
            folder = self._tree.open(run.request.cwd, os.O_PATH | os.O_DIRECTORY)
        except OSError as error:
            return program.Failed(error.errno or errno.EIO, f"program: {name}")
        instance = self._new()
        run.begin(instance)

        def live() -> None:
            run_module(run, instance, content, folder)
            instance.close()

        threading.Thread(target=live, daemon=True).start()
        return None

    def _read(self, path: str) -> bytes:
        with os.fdopen(self._tree.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            content = file.read(MOST_MODULE_BYTES + 1)
        if len(content) > MOST_MODULE_BYTES:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
        return content
