"""Python, as a component: behaves as `python3` does when its output goes to a pipe.

Everything above `Program` runs once, while the component is built; its memory is what every instance starts from.
"""

from __future__ import annotations

import sys

AT_START = set(sys.modules)

import builtins
import importlib
import io
import os
import types

import stdlib
import wit_world
from command_line import VERSION, Command, Usage, parse

LIBRARY = stdlib.StandardLibrary()
LIBRARY.read()
sys.meta_path.insert(0, LIBRARY)

READY = """
_strptime abc argparse array ast asyncio base64 bisect calendar cmath collections collections.abc concurrent.futures
configparser contextlib contextvars copy csv dataclasses datetime decimal difflib email.message enum fnmatch fractions
functools getopt glob gzip hashlib heapq hmac html html.parser inspect io ipaddress itertools json linecache locale
logging math numbers operator pathlib pickle platform pprint queue random re runpy secrets selectors shlex shutil
signal sqlite3 statistics string struct subprocess tempfile textwrap threading time timeit tomllib traceback types
typing unicodedata unittest urllib.parse uuid warnings weakref xml.etree.ElementTree zipfile zlib zoneinfo
""".split()  # noqa: SIM905
"""What every instance finds imported: the rest is run when it is imported."""

for _name in READY:
    importlib.import_module(_name)

import atexit
import gc
import linecache
import random
import runpy
import traceback
import warnings

import event_loop

event_loop.install()
AT_START.update(("__main__", "stdlib", "command_line", "event_loop", "wit_world", "main"))
AT_START.update(name for name in sys.modules if name.startswith(("componentize_py", "encodings")))
AT_START.update(("os", "posixpath", "stat", "io", "codecs", "site", "abc", "_collections_abc", "genericpath"))
LIBRARY.put_aside(AT_START)
sys.meta_path.remove(LIBRARY)
sys.meta_path.append(LIBRARY)
sys.path_importer_cache.clear()


def _standard_streams(*, unbuffered: bool) -> None:
    """As for pipes: output in blocks, errors by the line."""
    raw = io.FileIO(1, "w", closefd=False)
    sys.stdin = io.TextIOWrapper(
        io.BufferedReader(io.FileIO(0, "r", closefd=False)), "utf-8", "surrogateescape", newline=None
    )
    sys.stdout = io.TextIOWrapper(
        raw if unbuffered else io.BufferedWriter(raw), "utf-8", "surrogateescape", write_through=unbuffered
    )
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(io.FileIO(2, "w", closefd=False)),
        "utf-8",
        "backslashreplace",
        line_buffering=True,
        write_through=True,
    )
    for name, stream in (("stdin", sys.stdin), ("stdout", sys.stdout), ("stderr", sys.stderr)):
        stream.mode = "r" if name == "stdin" else "w"
        setattr(sys, f"__{name}__", stream)


def _leave(code: int) -> None:
    """In place of `os._exit`: WASI 0.2 knows success and failure only."""
    wit_world.leave(code & 0xFF)


def _becomes(environment: list[bytes], folder: bytes) -> None:
    """Take on a program's environment and working directory."""
    os.environ.clear()
    for entry in environment:
        name, _, value = entry.partition(b"=")
        os.environb[name] = value
    os.chdir(folder)


def _run(command: Command) -> None:
    """Run it in `__main__`."""
    main = types.ModuleType("__main__")
    main.__builtins__ = builtins
    sys.modules["__main__"] = main
    sys.argv = command.argv
    match command.kind:
        case "code":
            sys.path.insert(0, "")
            _execute(command.text, "<string>", main)
        case "module":
            sys.path.insert(0, os.getcwd())
            runpy._run_module_as_main(command.text)
        case "file":
            _run_file(command.text, main)
        case _:
            sys.path.insert(0, "")
            _execute(sys.stdin.buffer.read(), "<stdin>", main)


def _run_file(path: str, main: types.ModuleType) -> None:
    try:
        if os.path.isdir(path):
            sys.path.insert(0, path)
            runpy._run_module_as_main("__main__", alter_argv=False)
            return
        with open(path, "rb") as file:
            source = file.read()
    except OSError as error:
        name = sys.executable
        print(
            f"{name}: can't open file {os.path.abspath(path)!r}: [Errno {error.errno}] {error.strerror}",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
    main.__file__ = path if os.path.isabs(path) else os.path.join(os.getcwd(), path)
    main.__cached__ = None
    _execute(source, main.__file__, main)


def _execute(source: bytes | str, name: str, main: types.ModuleType) -> None:
    if name.startswith("<"):
        text = source if isinstance(source, str) else source.decode("utf-8", "replace")
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    exec(compile(source, name, "exec", dont_inherit=True), main.__dict__)


OURS = frozenset({"/0/main.py", "main.py", __file__})


def _report(error: BaseException) -> None:
    """As the interpreter does, without the frames below the program."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename in OURS:
        trace = trace.tb_next
    if sys.excepthook is sys.__excepthook__:
        traceback.print_exception(type(error), error, trace, file=sys.stderr)
    else:
        sys.excepthook(type(error), error.with_traceback(trace), trace)


def _code_of(end: SystemExit) -> int:
    if end.code is None:
        return 0
    if isinstance(end.code, int):
        return end.code & 0xFF
    print(end.code, file=sys.stderr)
    return 1


def _guarded(act) -> int:
    """The exit code of something that may raise anything."""
    try:
        act()
    except SystemExit as end:
        return _code_of(end)
    except KeyboardInterrupt as error:
        _report(error)
        return 130
    except BaseException as error:
        _report(error)
        return 1
    return 0


def _finish() -> int:
    """What the interpreter does at its end; 120 when output cannot be written any more."""
    atexit._run_exitfuncs()
    try:
        if not sys.stdout.closed:
            sys.stdout.flush()
    except (OSError, ValueError) as error:
        print(f"Exception ignored while flushing sys.stdout:\n{type(error).__name__}: {error}", file=sys.stderr)
        return 120
    return 0


def _main(arguments: list[str]) -> int:
    try:
        command = parse(arguments)
    except Usage as error:
        print(error, file=sys.stderr)
        return 2
    if command.kind == "version":
        print(VERSION, flush=True)
        return 0
    if command.unbuffered or os.environ.get("PYTHONUNBUFFERED"):
        _standard_streams(unbuffered=True)
    for wanted in command.warnings:
        warnings._setoption(wanted)
    paths = os.environ.get("PYTHONPATH", "")
    sys.path[:] = [*(path for path in paths.split(":") if path), stdlib.FOLDER]
    code = _guarded(lambda: _run(command))
    return _finish() or code


REHEARSALS = 20
"""As often as the interpreter wants to have seen its own bytecode before it specialises it."""
REHEARSED = [b"python3", b"-c", b"print(1)"]
"""A program that changes nothing."""


def _rehearse() -> None:
    """Run a program whose output nobody hears. The memory that any program writes to is this instance's own afterwards:
    copied, while nobody waits, from what all instances share.
    """
    _main([os.fsdecode(argument) for argument in REHEARSED])
    linecache.cache.clear()


class WitWorld(wit_world.WitWorld):
    """The component's one export."""

    def run(self) -> int:
        """Wait for a program, be it."""
        # What does not depend on the program is done before it is there: an instance waits in this call of `take`.
        random.seed()
        os._exit = _leave
        sys.executable = sys._base_executable = "/usr/bin/python3"
        sys.prefix = sys.base_prefix = sys.exec_prefix = sys.base_exec_prefix = "/usr"
        _standard_streams(unbuffered=False)
        _rehearse()
        folder, count, *rest = wit_world.take().encode("latin-1").split(b"\0")
        arguments, environment = rest[: int(count)], rest[int(count) :]
        try:
            _becomes(environment, folder)
            return _main([os.fsdecode(argument) for argument in arguments])
        except BaseException as error:
            traceback.print_exception(error)
            return 1


_standard_streams(unbuffered=False)
for _ in range(REHEARSALS):
    _rehearse()

# What is there now stays: a collector that went through it would touch, and so copy, all of it in every instance.
gc.collect()
gc.freeze()
