"""What a machine runs before its snapshot is taken: Python that behaves as `python3` does, its output in pipes.

It runs inside, in CPython for WASI without files, sockets and most of the standard library; `call_tool` is the one way
out. Everything here is in the snapshot; `_agentkernel` runs one program after it was restored.
"""

import binascii
import builtins
import errno
import io
import json
import os
import random
import sys
import time
import types
from _frozen_importlib import ModuleSpec

_MOST = 9000
_READ = 128 << 10
_MODES = {"r", "w", "a", "x"}
_ENDS = ("leave", "code")
_OURS = globals()
_call = call_tool


class _Left(BaseException):
    """Never raised for long: the machine is gone when `leave` is asked."""


def _host(what, *arguments):
    answer = json.loads(_call("host", request=json.dumps([what, *arguments])))
    if "errno" in answer:
        number = getattr(errno, answer["errno"], errno.EIO)
        path = arguments[0] if arguments and isinstance(arguments[0], str) and what not in _ENDS else None
        raise OSError(number, answer["text"], path) if path is not None else OSError(number, answer["text"])
    return answer["value"]


def _bytes_of(text):
    return binascii.a2b_base64(text)


def _text_of(data):
    return binascii.b2a_base64(data, newline=False).decode()


class _State:
    cwd = "/workspace"
    sources = {}


class _Output(io.RawIOBase):
    def __init__(self, number):
        self._number = number
        self.mode = "w"
        self.name = "<stdout>" if number == 1 else "<stderr>"

    def writable(self):
        return True

    def fileno(self):
        return self._number

    def write(self, data):
        piece = bytes(data[:_MOST])
        _host("out", self._number, _text_of(piece))
        return len(piece)


class _Input(io.RawIOBase):
    name, mode = "<stdin>", "r"

    def readable(self):
        return True

    def fileno(self):
        return 0

    def readinto(self, room):
        data = _bytes_of(_host("input", min(len(room), _READ)))
        room[: len(data)] = data
        return len(data)


class _File(io.RawIOBase):
    def __init__(self, path, mode):
        self.name, self.mode = path, mode
        self._handle = _host("open", _absolute(path), mode)

    def readable(self):
        return "r" in self.mode or "+" in self.mode

    def writable(self):
        return self.mode[0] != "r" or "+" in self.mode

    def seekable(self):
        return True

    def fileno(self):
        return self._handle

    def readinto(self, room):
        if not self.readable():
            raise io.UnsupportedOperation("not readable")
        data = _bytes_of(_host("read", self._handle, min(len(room), _READ)))
        room[: len(data)] = data
        return len(data)

    def write(self, data):
        if not self.writable():
            raise io.UnsupportedOperation("not writable")
        return _host("write", self._handle, _text_of(bytes(memoryview(data).cast("B")[:_MOST])))

    def seek(self, offset, whence=0):
        return _host("seek", self._handle, offset, whence)

    def tell(self):
        return self.seek(0, 1)

    def truncate(self, size=None):
        size = self.tell() if size is None else size
        _host("truncate", self._handle, size)
        return size

    def close(self):
        if not self.closed:
            try:
                super().close()
            finally:
                _host("close", self._handle)


def _absolute(path):
    text = os.fsdecode(path)
    return text if text.startswith("/") else f"{_State.cwd.rstrip('/')}/{text}"


def _open(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):
    if isinstance(file, int):
        raw = {0: _Input, 1: lambda: _Output(1), 2: lambda: _Output(2)}[file]()
        kind = mode
    else:
        kind = mode.replace("b", "").replace("t", "")
        if not kind or kind[0] not in _MODES or set(kind[1:]) - {"+"}:
            raise ValueError(f"invalid mode: {mode!r}")
        raw = _File(os.fspath(file), kind)
    if buffering == 0:
        if "b" not in mode:
            raise ValueError("can't have unbuffered text I/O")
        return raw
    size = io.DEFAULT_BUFFER_SIZE if buffering < 2 else buffering
    if "+" in kind:
        buffered = io.BufferedRandom(raw, size)
    elif raw.writable():
        buffered = io.BufferedWriter(raw, size)
    else:
        buffered = io.BufferedReader(raw, size)
    if "b" in mode:
        return buffered
    text = io.TextIOWrapper(buffered, encoding or "utf-8", errors, newline, line_buffering=buffering == 1)
    text.mode = mode
    return text


def _stat(path, *, dir_fd=None, follow_symlinks=True):
    mode, size, modified = _host("stat", _absolute(path), follow_symlinks)
    return os.stat_result((mode, 0, 0, 1, 1000, 1000, size, modified, modified, modified))


def _chdir(path):
    wanted = _absolute(path)
    if _stat(wanted).st_mode & 0o170000 != 0o040000:
        raise NotADirectoryError(errno.ENOTDIR, "Not a directory", path)
    _State.cwd = os.path.normpath(wanted)


def _sleep(seconds):
    _host("wait", seconds)


def _leave(code):
    _host("leave", code & 0xFF)
    raise _Left


builtins.open = io.open = _open
time.sleep = _sleep
os._exit = _leave
os.stat = _stat
os.lstat = lambda path, **_: _stat(path, follow_symlinks=False)
os.chdir = _chdir
os.getcwd = lambda: _State.cwd
os.listdir = lambda path=".": _host("list", _absolute(path))
os.mkdir = lambda path, mode=0o777, **_: _host("mkdir", _absolute(path), mode & 0o755)
os.remove = os.unlink = lambda path, **_: _host("remove", _absolute(path), False)
os.rmdir = lambda path, **_: _host("remove", _absolute(path), True)
os.rename = os.replace = lambda old, new, **_: _host("rename", _absolute(old), _absolute(new))


class _Beside:
    """Imports what lies beside the program, or in PYTHONPATH."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        last = name.rpartition(".")[2]
        for folder in sys.path if path is None else path:
            if folder == "" or folder.startswith(("/workspace", "/scratch", "/tmp", "/home")):
                base = f"{folder or _State.cwd}/{last}"
                for file, package in ((f"{base}/__init__.py", True), (f"{base}.py", False)):
                    try:
                        _host("stat", _absolute(file), True)
                    except OSError:
                        continue
                    spec = ModuleSpec(name, _Beside, origin=file, is_package=package)
                    spec.has_location = True
                    if package:
                        spec.submodule_search_locations.append(base)
                    return spec
        return None

    @staticmethod
    def create_module(spec):
        return None

    @staticmethod
    def exec_module(module):
        _execute(_source(module.__spec__.origin), module.__spec__.origin, module)


sys.meta_path.append(_Beside)


def _source(path):
    with _open(path, "rb") as file:
        return file.read()


def _execute(source, name, module):
    text = source if isinstance(source, str) else source.decode("utf-8", "replace")
    _State.sources[name] = text.splitlines()
    exec(compile(source, name, "exec", dont_inherit=True), module.__dict__)


def _streams(unbuffered):
    sys.stdin = sys.__stdin__ = io.TextIOWrapper(io.BufferedReader(_Input()), "utf-8", "surrogateescape")
    sys.stdout = sys.__stdout__ = io.TextIOWrapper(
        io.BufferedWriter(_Output(1), 1 if unbuffered else 8192),
        "utf-8",
        "surrogateescape",
        write_through=unbuffered,
    )
    sys.stderr = sys.__stderr__ = io.TextIOWrapper(
        io.BufferedWriter(_Output(2)), "utf-8", "backslashreplace", line_buffering=True, write_through=True
    )


def _input(prompt=""):
    sys.stdout.write(str(prompt))
    sys.stdout.flush()
    line = sys.stdin.readline()
    if not line:
        raise EOFError("EOF when reading a line")
    return line.removesuffix("\n")


builtins.input = _input


def _report(error, seen=()):
    """As the interpreter does, without frames of ours."""
    say = sys.stderr.write
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None and before not in seen:
        _report(before, (*seen, error))
        how = (
            "The above exception was the direct cause of the following exception"
            if error.__cause__
            else "During handling of the above exception, another exception occurred"
        )
        say(f"\n{how}:\n\n")
    trace, frames = error.__traceback__, []
    while trace is not None:
        code = trace.tb_frame.f_code
        if trace.tb_frame.f_globals is not _OURS and code.co_filename in _State.sources:
            frames.append((code.co_filename, trace.tb_lineno, code.co_name))
        trace = trace.tb_next
    if frames:
        say("Traceback (most recent call last):\n")
    for file, number, name in frames:
        say(f'  File "{file}", line {number}, in {name}\n')
        lines = _State.sources[file]
        if 0 < number <= len(lines) and lines[number - 1].strip():
            say(f"    {lines[number - 1].strip()}\n")
    if isinstance(error, SyntaxError) and error.filename:
        say(f'  File "{error.filename}", line {error.lineno}\n')
        if error.text:
            say(f"    {error.text.strip()}\n")
    kind = type(error)
    name = (
        kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    )
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    say(f"{name}: {text}\n" if text else f"{name}\n")


def _code_of(end):
    if end.code is None:
        return 0
    if isinstance(end.code, int):
        return end.code & 0xFF
    print(end.code, file=sys.stderr)
    return 1


def _begin(told):
    main = types.ModuleType("__main__")
    main.__builtins__ = builtins
    sys.modules["__main__"] = main
    sys.argv = [word.encode("latin-1").decode("utf-8", "surrogateescape") for word in told["argv"]]
    os.environ.clear()
    for entry in told["env"]:
        name, _, value = entry.encode("latin-1").partition(b"=")
        os.environ[os.fsdecode(name)] = os.fsdecode(value)
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(":") if path]
    sys.path[:0] = paths
    kind, text = told["kind"], told["text"].encode("latin-1").decode("utf-8", "surrogateescape")
    if kind == "code":
        sys.path.insert(0, "")
        _execute(text, "<string>", main)
    elif kind == "file":
        try:
            source = _source(text)
        except OSError as error:
            print(
                f"/usr/bin/python3: can't open file {_absolute(text)!r}: [Errno {error.errno}] {error.strerror}",
                file=sys.stderr,
            )
            raise SystemExit(2) from None
        main.__file__ = _absolute(text)
        sys.path.insert(0, os.path.dirname(main.__file__))
        _execute(source, main.__file__, main)
    elif kind == "module":
        sys.path.insert(0, _State.cwd)
        spec = _Beside.find_spec(text)
        if spec is None:
            print(f"/usr/bin/python3: No module named {text}", file=sys.stderr)
            raise SystemExit(1)
        sys.argv[0] = main.__file__ = spec.origin
        _execute(_source(spec.origin), spec.origin, main)
    else:
        sys.path.insert(0, "")
        _execute(sys.stdin.buffer.read(), "<stdin>", main)


def _agentkernel():
    """One program, from its command line to its exit code."""
    told = _host("program")
    _State.cwd = told["cwd"].encode("latin-1").decode("utf-8", "surrogateescape")
    _streams(told["unbuffered"])
    random.seed()
    if told["kind"] == "version":
        told = told | {"kind": "code", "text": "print('Python ' + __import__('sys').version.split()[0])"}
    code = 0
    try:
        _begin(told)
    except SystemExit as end:
        code = _code_of(end)
    except KeyboardInterrupt as error:
        _report(error)
        code = 130
    except BaseException as error:
        _report(error)
        code = 1
    try:
        if not sys.stdout.closed:
            sys.stdout.flush()
    except (OSError, ValueError) as error:
        sys.stderr.write(f"Exception ignored while flushing sys.stdout:\n{type(error).__name__}: {error}\n")
        code = 120
    _host("code", code)
