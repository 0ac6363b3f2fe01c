"""WebAssembly instances: one program each, then gone. A language's are made ahead, up to where they want a program."""

from __future__ import annotations

import ctypes
import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import wasmtime
from wasmtime import ExitTrap, Store, WasiConfig, WasmtimeError, component
from wasmtime import _bindings as bindings

from agentkernel.drivers.wasm.compile import is_component
from agentkernel.drivers.worker.execution import Ended, Output, Program, Stopped

RUN = "wasi:cli/run@0.2."
EIO = 5
ABORT = 6
"""SIGABRT: what a trap is told as, as wasmtime's own command line does."""


class Instance:
    """One store, and the thread that runs it. `stop` may be called by any thread, at any time.

    Args:
        root: the folder that the program sees as `/`.
        memory_bytes: most linear memory.
    """

    def __init__(self, engine: wasmtime.Engine, root: Path, memory_bytes: int) -> None:
        self.program: Program | None = None
        self.stopped = False
        self.taken = False
        self.left: int | None = None
        self._given = threading.Event()
        self._halted = threading.Event()
        self._engine = engine
        self._store = Store(engine)
        self._stdin_read, self.stdin = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.stdin, False)
        self._root, self._memory_bytes = root, memory_bytes
        self._number = _watch(self, self._store)

    def give(self, program: Program) -> None:
        """What it waits for."""
        self.program = program
        self._given.set()

    def stop(self) -> None:
        """End it: where it computes, at once; where it waits for input or for a program, too."""
        self.stopped = True
        self._halted.set()
        self._engine.increment_epoch()
        self._given.set()

    def take(self) -> Program:
        """Wait for `give`. Raises Stopped."""
        self._given.wait()
        if self.stopped or self.program is None:
            raise Stopped
        self.taken = True
        return self.program

    def pause(self, seconds: float) -> bool:
        """Wait; True when it was stopped meanwhile."""
        return self._halted.wait(seconds)

    def read_input(self, most: int) -> bytes:
        """Bytes of its standard input, for a language that the host reads for; b"" at the end."""
        return os.read(self._stdin_read, most)

    def close(self) -> None:
        """Free all of it."""
        self._store.close()
        _watched.pop(self._number, None)
        self.drop_input()

    def drop_input(self) -> None:
        """Close our end of its standard input that it reads from."""
        if self._stdin_read >= 0:
            os.close(self._stdin_read)
            self._stdin_read = -1

    def configured(self, program: Program | None = None, folder: int = -1, *, reads: bool = True) -> Store:
        """Its store, with WASI set up. Once.

        Args:
            folder: descriptor of the program's working directory.
            reads: whether it reads standard input by WASI, which takes it ahead of time.
        """
        wasi = WasiConfig()
        if program is not None:
            wasi.argv = [word.decode("utf-8", "replace") for word in program.argv]
            wasi.env = [entry.decode("utf-8", "replace").split("=", 1) for entry in program.env]
            wasi.preopen_dir(f"/proc/self/fd/{folder}", ".")
        if reads:
            wasi.stdin_file = f"/proc/self/fd/{self._stdin_read}"
        wasi.stdout_custom = lambda data: self._write(data, "stdout")
        wasi.stderr_custom = lambda data: self._write(data, "stderr")
        wasi.preopen_dir(str(self._root), "/")
        self._store.set_wasi(wasi)
        self._store.set_limits(memory_size=self._memory_bytes)
        self._store.set_epoch_deadline(1)
        return self._store

    def _write(self, data: bytes, name: str) -> int:
        program = self.program
        if program is None or not self.taken:  # nothing that it says before is the program's
            return len(data)
        output: Output = program.stdout if name == "stdout" else program.stderr
        return len(data) if output(data) else -EIO

    def run_language(self, linker: component.Linker, code: component.Component) -> Ended:
        """Instantiate a language's component, have it wait for its program, run that one to its end."""
        _local.instance = self
        store = self.configured()
        self.drop_input()
        run = linker.instantiate(store, code).get_func(store, "run")
        if run is None:
            raise WasmtimeError("the component does not export run")
        return self.ended(lambda: Ended(int(run(store))))

    def run_module(self, content: bytes, folder: int) -> Callable[[], Ended]:
        """Compile a WASI command, component or core module; returns what runs it. Raises WasmtimeError.

        Args:
            folder: descriptor of its working directory, which is preopened as `.`: WASI has no other way to say it.
        """
        program = self.take()
        if is_component(content):
            made = component.Component(self._engine, content)
            store = self.configured(program, folder)
            self.drop_input()
            linker = component.Linker(self._engine)
            linker.add_wasip2()
            start = _exported_run(store, made, linker.instantiate(store, made))
            return lambda: self.ended(lambda: _of_result(start(store)))
        module = wasmtime.Module(self._engine, content)
        store = self.configured(program, folder)
        self.drop_input()
        core = wasmtime.Linker(self._engine)
        core.define_wasi()
        instantiated = core.instantiate(store, module)
        main = instantiated.exports(store).get("_start")
        if not isinstance(main, wasmtime.Func):
            raise WasmtimeError("the module does not export _start")
        return lambda: self.ended(lambda: _nothing(main(store)))

    def ended(self, act: Callable[[], Ended]) -> Ended:
        """How something ends that runs inside. Raises Stopped where it was told to end."""
        try:
            if self.stopped:
                raise Stopped
            return act()
        except ExitTrap as end:
            return Ended(end.code & 0xFF)
        except (WasmtimeError, wasmtime.Trap) as error:
            if self.stopped:
                raise Stopped from error
            if self.left is not None:
                return Ended(self.left)
            return Ended(0, ABORT, trap_words(str(error)))


def _nothing(_result: object) -> Ended:
    return Ended(0)


def _of_result(result: object) -> Ended:
    """`result` of `wasi:cli/run`: a variant of ok and err, without values."""
    return Ended(1 if getattr(result, "tag", "ok") == "err" or result is False else 0)


def _exported_run(store: Store, made: component.Component, instance: component.Instance) -> component.Func:
    for patch in range(16):
        outer = made.get_export_index(f"{RUN}{patch}")
        if outer is not None:
            inner = made.get_export_index("run", outer)
            run = instance.get_func(store, inner) if inner is not None else None
            if run is not None:
                return run
    raise WasmtimeError("the component does not export wasi:cli/run")


def trap_words(said: str) -> str:
    """The cause, without the backtrace before it."""
    cause = said.rpartition("Caused by:")[2].strip() if "Caused by:" in said else said.strip()
    return " ".join(cause.split())[:500]


def language_linker(engine: wasmtime.Engine) -> component.Linker:
    """WASI, and what a language's component asks of us besides."""
    linker = component.Linker(engine)
    linker.add_wasip2()
    with linker.root() as root:
        root.add_func("take", _take)
        root.add_func("leave", _leave)
    return linker


_local = threading.local()
"""Which instance a thread runs: calls from inside arrive on the thread that entered it."""


def _take(_store: object) -> str:
    instance: Instance = _local.instance
    try:
        program = instance.take()
    except Stopped:
        raise WasmtimeError("stopped") from None
    words = (program.cwd, b"%d" % len(program.argv), *program.argv, *program.env)
    return b"\0".join(words).decode("latin-1")


def _leave(_store: object, code: int) -> None:
    instance: Instance = _local.instance
    instance.left = code
    raise WasmtimeError("left")


# wasmtime's Python package has no name yet for the callback at an epoch's end; its C interface is documented.

_watched: dict[int, Instance] = {}
_numbers = itertools.count(1)
CONTINUE = 0
_Callback = ctypes.CFUNCTYPE(
    ctypes.c_size_t,
    ctypes.POINTER(bindings.wasmtime_context_t),
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_uint64),
    ctypes.POINTER(bindings.wasmtime_update_deadline_kind_t),
)
_Finalizer = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def _at_epoch(_context: object, number: int, delta: Any, kind: Any) -> int:
    """Somebody was stopped: if it is this one, it ends here, else it goes on until the next time."""
    instance = _watched.get(number)
    if instance is None or instance.stopped:
        error = WasmtimeError("stopped")
        return ctypes.cast(error._consume(), ctypes.c_void_p).value or 0
    delta[0], kind[0] = 1, CONTINUE
    return 0


_AT_EPOCH = _Callback(_at_epoch)
_NO_FINALIZER = ctypes.cast(0, _Finalizer)


def _watch(instance: Instance, store: Store) -> int:
    """Have the callback called for this store; returns its number."""
    number = next(_numbers)
    _watched[number] = instance
    bindings.wasmtime_store_epoch_deadline_callback(store.ptr(), _AT_EPOCH, ctypes.c_void_p(number), _NO_FINALIZER)
    return number
