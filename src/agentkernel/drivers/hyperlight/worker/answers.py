"""What a program in a machine may ask of its process: its streams, the sandbox's files, time.

It comes as JSON in one text and is answered as JSON in another: Hyperlight checks arguments against a signature, and a
call may carry some 16 KB out of the machine. Bytes are base64, in Latin-1 where they are short.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import socket
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from agentkernel.drivers.hyperlight.worker import words
from agentkernel.drivers.worker.tree import Tree

MOST_HANDLES = 256
MOST_READ_BYTES = 256 << 10
MOST_TEXT_BYTES = 8 << 20
LONGEST_WAIT_S = 3600.0
FLAGS = {
    "r": os.O_RDONLY,
    "w": os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    "a": os.O_WRONLY | os.O_CREAT | os.O_APPEND,
    "x": os.O_WRONLY | os.O_CREAT | os.O_EXCL,
}


@dataclass
class Answers:
    """One machine's calls. `told`: the program as it is told; `code`: what it ended with, once it has."""

    link: socket.socket
    tree: Tree
    told: dict[str, Any] = field(default_factory=dict)
    code: int | None = None
    _handles: dict[int, int] = field(default_factory=dict)

    def begin(self, told: dict[str, Any]) -> None:
        """For another program: nothing of the one before."""
        for number in self._handles.values():
            os.close(number)
        self._handles.clear()
        self.told, self.code = told, None

    def answer(self, request: str = "") -> str:
        """One call. What the tree refuses is told by its error's name, whose number the machine has its own for."""
        try:
            what, *arguments = json.loads(request)
            value = self._acts()[what](*arguments)
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, "EIO")
            return json.dumps({"errno": name, "text": error.strerror or name})
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            return json.dumps({"errno": "EINVAL", "text": f"{type(error).__name__}: {error}"})
        return json.dumps({"value": value})

    def _acts(self) -> dict[str, Callable[..., Any]]:
        return {
            "program": lambda: self.told,
            "out": lambda number, data: self._out(int(number), base64.b64decode(data)),
            "text": lambda number, text: self._out(int(number), str(text).encode("utf-8", "replace")),
            "input": lambda most: base64.b64encode(self._input(int(most))).decode(),
            "input_text": self._input_text,
            "wait": lambda seconds: time.sleep(min(max(0.0, float(seconds)), LONGEST_WAIT_S)),
            "code": self._ended,
            "leave": self._leave,
            "open": self._open,
            "read": lambda handle, most: base64.b64encode(
                os.read(self._handles[handle], min(int(most), MOST_READ_BYTES))
            ).decode(),
            "write": lambda handle, data: os.write(self._handles[handle], base64.b64decode(data)),
            "seek": lambda handle, offset, whence: os.lseek(self._handles[handle], int(offset), int(whence)),
            "truncate": lambda handle, size: os.ftruncate(self._handles[handle], int(size)),
            "close": lambda handle: os.close(self._handles.pop(handle)),
            "stat": self._stat,
            "list": lambda path: [entry.name for entry in self.tree.entries(str(path))],
            "mkdir": lambda path, mode: self.tree.make_directory(str(path), int(mode), parents=False),
            "remove": self._remove,
            "rename": lambda old, new: self.tree.rename(str(old), str(new)),
            "read_text": self._read_text,
            "write_text": self._write_text,
        }

    def _out(self, number: int, data: bytes) -> None:
        words.send(self.link, words.STDERR if number == 2 else words.STDOUT, data)

    def _input(self, most: int) -> bytes:
        words.send(self.link, words.INPUT, b"%d" % min(max(1, most), MOST_READ_BYTES))
        kind, data = words.receive(self.link)
        return data if kind == words.INPUT else b""

    def _input_text(self) -> str:
        got = bytearray()
        while len(got) < MOST_TEXT_BYTES and (chunk := self._input(MOST_READ_BYTES)):
            got += chunk
        return got.decode("utf-8", "replace")

    def _ended(self, code: int) -> None:
        self.code = int(code) & 0xFF

    def _leave(self, code: int) -> None:
        """At once, without a word more from inside: the machine ends with its program."""
        words.send(self.link, words.LEFT, b"%d" % (int(code) & 0xFF))
        os._exit(0)

    def _open(self, path: str, mode: str) -> int:
        if len(self._handles) >= MOST_HANDLES:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        flags = FLAGS[mode[0]]
        if "+" in mode:
            flags = flags & ~os.O_WRONLY | os.O_RDWR
        number = self.tree.open(path, flags | os.O_NONBLOCK, 0o644 if flags & os.O_CREAT else 0)
        if stat.S_ISDIR(os.fstat(number).st_mode):
            os.close(number)
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        handle = max(self._handles, default=2) + 1
        self._handles[handle] = number
        return handle

    def _stat(self, path: str, follow: bool) -> list[int]:
        if not follow:
            entry = self.tree.entry(path)
            kind = {"f": stat.S_IFREG, "d": stat.S_IFDIR, "l": stat.S_IFLNK}.get(entry.kind, stat.S_IFIFO)
            return [kind | entry.mode, entry.size, entry.modified_s]
        number = self.tree.open(path, os.O_PATH)
        try:
            facts = os.fstat(number)
        finally:
            os.close(number)
        return [facts.st_mode, facts.st_size, int(facts.st_mtime)]

    def _remove(self, path: str, directory: bool) -> None:
        kind = self.tree.entry(path).kind
        if directory != (kind == "d"):
            wrong = errno.ENOTDIR if directory else errno.EISDIR
            raise OSError(wrong, os.strerror(wrong), path)
        self.tree.remove(path, recursive=False)

    def _read_text(self, path: str) -> str:
        with os.fdopen(self.tree.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            content = file.read(MOST_TEXT_BYTES + 1)
        if len(content) > MOST_TEXT_BYTES:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
        return content.decode("utf-8", "replace")

    def _write_text(self, path: str, text: str) -> None:
        with os.fdopen(self.tree.open(path, FLAGS["w"], 0o644), "wb") as file:
            file.write(text.encode("utf-8", "replace"))
