"""JavaScript by QuickJS: its C interface, a prelude, and a loop of jobs and timers.

Source: the interface is that of the npm package quickjs-wasi (`qjs_*`), a build of QuickJS-NG.
"""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Callable
from pathlib import Path
from typing import Any

import wasmtime
from wasmtime import FuncType, ValType, WasmtimeError

from agentkernel.drivers.wasm.worker.instances import Instance
from agentkernel.drivers.worker.execution import Ended, Program
from agentkernel.drivers.worker.tree import Tree

PRELUDE = Path(__file__).parents[2] / "worker/prelude.js"
SCRIPT_WITH_AWAIT = 128
MODULE = 1
REJECTED = 2
UNCAUGHT = 1
USAGE = 2
MOST_FILE_BYTES = 64 << 20
STACK_BYTES = 192 << 10
"""Deep recursion is an error of the program before it is one of the engine's."""
HOST = "host"


class Refusal(Exception):
    """What a host function answers by an exception in the program."""


class JavaScript:
    """One engine, in one instance's store, on that instance's thread."""

    def __init__(self, engine: wasmtime.Engine, module: wasmtime.Module, instance: Instance, tree: Tree) -> None:
        self._instance, self._tree = instance, tree
        self._store = instance.configured(reads=False)
        self._program: Program | None = None
        self._unhandled: dict[int, int] = {}
        linker = wasmtime.Linker(engine)
        linker.define_wasi()
        for name, (arguments, act) in self._functions().items():
            results = [] if name == "host_promise_rejection" else [ValType.i32()]
            linker.define_func("env", name, FuncType([ValType.i32()] * arguments, results), act)
        self._exports = linker.instantiate(self._store, module).exports(self._store)
        memory = self._exports["memory"]
        if not isinstance(memory, wasmtime.Memory):
            raise WasmtimeError("the engine has no memory")
        self._memory = memory
        self._run("_initialize")
        self._run("qjs_init")
        self._run("qjs_set_max_stack_size", STACK_BYTES)
        self._run("qjs_set_promise_rejection_handler", 1)
        self._call_in = self._prelude()

    def _functions(self) -> dict[str, tuple[int, Callable[..., Any]]]:
        return {
            "host_call": (5, self._host_call),
            "host_interrupt": (0, lambda: 0),
            "host_promise_rejection": (3, self._rejection),
            "host_module_normalize": (2, lambda _base, name: self._run("strdup", name)),
            "host_module_load": (2, lambda _name, _length: 0),
            "host_get_timezone_offset": (2, lambda _high, _low: 0),
        }

    def _prelude(self) -> int:
        made = self._evaluate(PRELUDE.read_text(), "prelude.js", 0)
        name = self._put(HOST.encode())
        host = self._run("qjs_new_host_function", name, len(HOST), 0)
        call = self._call(made, host)
        if self._run("qjs_is_exception", call):
            raise WasmtimeError("the prelude failed")
        return call

    # --- the program

    def run(self, program: Program) -> Ended:
        """From its command line to its exit code."""
        self._program = program
        source, name = self._source([os.fsdecode(word) for word in program.argv[1:]])
        if source is None:
            program.stderr(f"{name}\n".encode("utf-8", "surrogateescape"))
            return Ended(USAGE)
        result = self._evaluate(source, name, MODULE if name.endswith(".mjs") else SCRIPT_WITH_AWAIT)
        if self._run("qjs_is_exception", result):
            return self._uncaught(self._run("qjs_get_exception"))
        return self._loop(result)

    def _source(self, arguments: list[str]) -> tuple[str | None, str]:
        """The text and its name; or nothing, and why."""
        match arguments:
            case ["-e" | "--eval", text, *_]:
                return text, "[eval]"
            case [] | ["-", *_]:
                return self._input(), "[stdin]"
            case [option, *_] if option.startswith("-"):
                return None, f"js: bad option: {option}\nusage: js [-e source | file | -] [argument] ..."
            case [path, *_]:
                try:
                    return self._read(path), path
                except Refusal as error:
                    return None, f"js: cannot open {path}: {error}"
        return None, "js: no program"

    def _loop(self, result: int) -> Ended:
        """Jobs, then timers, until there is neither. As Node, it ends at the first error that nobody caught."""
        while True:
            while self._run("qjs_is_job_pending"):
                self._run("qjs_execute_pending_job")
            if self._unhandled:
                return self._uncaught(next(iter(self._unhandled.values())))
            waited = self._call(self._call_in, self._text("tick"))
            if self._run("qjs_is_exception", waited):
                return self._uncaught(self._run("qjs_get_exception"))
            wait_ms = float(self._run("qjs_get_float64", waited))
            if wait_ms < 0:
                break
            if wait_ms and self._instance.pause(wait_ms / 1000):
                raise WasmtimeError("stopped")
        if self._run("qjs_promise_state", result) == REJECTED:
            return self._uncaught(self._run("qjs_promise_result", result))
        code = self._call(self._call_in, self._text("code"))
        return Ended(int(self._run("qjs_get_float64", code)) & 0xFF)

    def _uncaught(self, error: int) -> Ended:
        self._call(self._call_in, self._text("report"), error)
        return Ended(UNCAUGHT)

    # --- what it asks of us

    def _host_call(self, _name: int, _size: int, _this: int, count: int, values: int) -> int:
        words = [self._string(self._word(values + 4 * number)) for number in range(count)]
        try:
            answer = self._answer(*words)
        except Refusal as error:
            thrown = self._run("qjs_new_error")
            name = self._put(b"message")
            self._run("qjs_set_prop_string", thrown, name, self._text(str(error)))
            self._run("qjs_throw", thrown)
            return 0
        return int(self._run("qjs_get_undefined")) if answer is None else self._text(answer)

    def _answer(self, what: str = "", *values: str) -> str | None:
        program = self._program
        if program is None:
            raise Refusal("there is no program yet")
        match what, values:
            case "out", (text,):
                program.stdout(text.encode("utf-8", "surrogatepass"))
            case "err", (text,):
                program.stderr(text.encode("utf-8", "surrogatepass"))
            case "exit", (code,):
                self._instance.left = int(float(code)) & 0xFF if code.replace(".", "", 1).lstrip("-").isdigit() else 0
                raise WasmtimeError("left")
            case "facts", ():
                return _facts(program)
            case "read", (path,):
                return self._read(path)
            case "write", (path, text):
                self._write(path, text.encode("utf-8", "surrogatepass"))
            case "input", ():
                return self._input()
            case _:
                raise Refusal("no such function, or not with these arguments")
        return None

    def _input(self) -> str:
        content = bytearray()
        while some := self._instance.read_input(65536):
            content += some
        return content.decode("utf-8", "replace")

    def _path(self, path: str) -> str:
        cwd = os.fsdecode(self._program.cwd) if self._program else "/"
        return posixpath.join(cwd, path)

    def _read(self, path: str) -> str:
        try:
            with os.fdopen(self._tree.open(self._path(path), os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
                content = file.read(MOST_FILE_BYTES + 1)
        except OSError as error:
            raise Refusal(f"{error.strerror}: {path}") from error
        if len(content) > MOST_FILE_BYTES:
            raise Refusal(f"more than {MOST_FILE_BYTES >> 20} MiB: {path}")
        return content.decode("utf-8", "replace")

    def _write(self, path: str, content: bytes) -> None:
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK
            with os.fdopen(self._tree.open(self._path(path), flags, 0o644), "wb") as file:
                file.write(content)
        except OSError as error:
            raise Refusal(f"{error.strerror}: {path}") from error

    def _rejection(self, promise: int, reason: int, handled: int) -> None:
        identity = int(self._run("qjs_get_value_ptr", promise))
        if handled:
            self._unhandled.pop(identity, None)
        else:
            self._unhandled[identity] = reason

    # --- values and memory

    def _run(self, name: str, *arguments: int) -> Any:
        function = self._exports[name]
        if not isinstance(function, wasmtime.Func):
            raise WasmtimeError(f"the engine has no {name}")
        return function(self._store, *arguments)

    def _evaluate(self, source: str, name: str, flags: int) -> int:
        text = source.encode("utf-8", "surrogateescape")
        return int(self._run("qjs_eval", self._put(text), len(text), self._put(os.fsencode(name)), flags))

    def _call(self, function: int, *values: int) -> int:
        packed = b"".join(value.to_bytes(4, "little") for value in values)
        nothing = self._run("qjs_get_undefined")
        return int(self._run("qjs_call", function, nothing, len(values), self._put(packed)))

    def _put(self, content: bytes) -> int:
        """A copy in the engine's memory, with a NUL behind it."""
        place = int(self._run("wasm_malloc", len(content) + 1)) & 0xFFFFFFFF
        if not place:
            raise WasmtimeError("out of memory")
        self._memory.write(self._store, content + b"\0", place)
        return place

    def _word(self, place: int) -> int:
        return int.from_bytes(self._memory.read(self._store, place, place + 4), "little")

    def _text(self, text: str) -> int:
        content = text.encode("utf-8", "surrogateescape")
        place = self._put(content)
        value = int(self._run("qjs_new_string", place, len(content)))
        self._run("wasm_free", place)
        return value

    def _string(self, value: int) -> str:
        length_at = self._put(bytes(4))
        place = int(self._run("qjs_get_string_len", value, length_at)) & 0xFFFFFFFF
        content = bytes(self._memory.read(self._store, place, place + self._word(length_at))) if place else b""
        self._run("qjs_free_cstring", place)
        self._run("wasm_free", length_at)
        return content.decode("utf-8", "surrogatepass")


def _facts(program: Program) -> str:
    words = [os.fsdecode(word) for word in program.argv]
    environment = dict(os.fsdecode(entry).partition("=")[::2] for entry in program.env)
    return json.dumps({"argv": words, "env": environment, "cwd": os.fsdecode(program.cwd)})
