"""File channels: what is read goes out under credit, what is written comes in under a window."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import threading
from typing import Protocol

from agentkernel.drivers.worker.archive import extract
from agentkernel.drivers.worker.feeder import Feeder
from agentkernel.drivers.worker.tree import Tree
from agentkernel.wire import files, program
from agentkernel.wire.fields import Payload
from agentkernel.wire.frames import MOST_ENTRIES, MOST_PAYLOAD_BYTES

OWNERS = frozenset({"", "sandbox", "1000", "1000:1000"})
ENTRIES_AT_ONCE = 128
"""So that even the longest names fit in a frame."""
WRITE_FLAGS = files.ATOMIC | files.APPEND | files.MAKE_PARENTS | files.EXCLUSIVE


class Line(Protocol):
    """What a transfer needs of the peer."""

    credit: threading.Condition

    def say(self, number: int, message: Payload) -> None: ...

    def room(self, number: int) -> int: ...

    def is_open(self, number: int) -> bool: ...


class Transfers:
    """All file channels of one peer. Called under the peer's lock."""

    def __init__(self, tree: Tree, line: Line) -> None:
        self._tree = tree
        self._line = line
        self._reading: dict[int, _Reading] = {}
        self._writing: dict[int, _Writing] = {}
        self._extracting: dict[int, _Extracting] = {}

    def feeders(self) -> list[Feeder]:
        """Those that may wait for their pipe."""
        return [extracting.feeder for extracting in self._extracting.values()]

    def forget(self) -> None:
        """Abandon everything."""
        for reading in self._reading.values():
            reading.close()
        for writing in self._writing.values():
            writing.abandon()
        for extracting in self._extracting.values():
            extracting.feeder.close()
        self._reading.clear()
        self._writing.clear()
        self._extracting.clear()

    def open(self, number: int, request: Payload) -> None:
        """A request. What fails is answered so."""
        try:
            answer = self._do(number, request)
        except OSError as error:
            answer = _failed(error)
        if answer is not None:
            self._line.say(number, answer)

    def _do(self, number: int, request: Payload) -> Payload | None:
        match request:
            case files.Read():
                self._reading[number] = _Reading(self._tree, request)
                return None
            case files.Write():
                _check_owner(request.owner)
                self._writing[number] = _Writing(self._tree, request)
                return None
            case files.TarIn():
                _check_owner(request.owner)
                if request.flags:
                    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), request.directory)
                self._extracting[number] = _Extracting(self._tree, request.directory, number, self)
                return None
            case files.Stat(path=path):
                return files.StatDone(self._tree.entry(path))
            case files.ListDirectory(path=path):
                return self._list(number, path)
            case files.MakeDirectory(path=path, mode=mode, flags=flags, owner=owner):
                _check_owner(owner)
                self._tree.make_directory(path, mode, parents=bool(flags & files.WITH_PARENTS))
            case files.Remove(path=path, flags=flags):
                self._tree.remove(path, recursive=bool(flags & files.RECURSIVE))
            case files.Rename(source=source, target=target):
                self._tree.rename(source, target)
        return files.Done()

    def _list(self, number: int, path: str) -> Payload:
        entries = self._tree.entries(path)
        if len(entries) > MOST_ENTRIES:
            raise OSError(errno.E2BIG, os.strerror(errno.E2BIG), path)
        for start in range(0, len(entries), ENTRIES_AT_ONCE):
            self._line.say(number, files.Entries(tuple(entries[start : start + ENTRIES_AT_ONCE])))
        return files.Done()

    def input(self, number: int, message: Payload) -> None:
        """DATA, END or CANCEL."""
        if isinstance(message, files.Cancel):
            self._cancel(number)
            return
        extracting = self._extracting.get(number)
        if extracting is not None:
            if isinstance(message, files.HostData):
                extracting.feeder.put(message.data)
            else:
                extracting.feeder.end()
            return
        writing = self._writing.get(number)
        if writing is None:
            return
        try:
            if isinstance(message, files.HostData):
                writing.write(message.data)
                self._line.say(number, program.GuestCredit(len(message.data)))
                return
            answer: Payload = files.CountDone(writing.finish())
        except OSError as error:
            writing.abandon()
            answer = _failed(error, writing.path)
        del self._writing[number]
        self._line.say(number, answer)

    def _cancel(self, number: int) -> None:
        if (reading := self._reading.pop(number, None)) is not None:
            reading.close()
        if (writing := self._writing.pop(number, None)) is not None:
            writing.abandon()
        if (extracting := self._extracting.pop(number, None)) is not None:
            extracting.feeder.close()
        self._line.say(number, program.Failed(errno.ECANCELED, ""))

    def go_on(self) -> None:
        """Send what there is room for."""
        for number, reading in list(self._reading.items()):
            if not self._line.is_open(number):
                reading.close()
                del self._reading[number]
                continue
            answer = self._send_some(number, reading)
            if answer is not None:
                reading.close()
                del self._reading[number]
                self._line.say(number, answer)

    def _send_some(self, number: int, reading: _Reading) -> Payload | None:
        """The end of it, when there is one."""
        try:
            while reading.left_bytes:
                room = min(self._line.room(number), MOST_PAYLOAD_BYTES, reading.left_bytes)
                if not room:
                    return None
                data = reading.read(room)
                if not data:
                    break
                self._line.say(number, files.GuestData(data))
            return files.ReadDone(reading.size, reading.mode)
        except OSError as error:
            return _failed(error)

    # From an extracting thread:

    def extracted(self, number: int, extracting: _Extracting, answer: Payload) -> None:
        """It is done, unless it was abandoned meanwhile."""
        with self._line.credit:
            if self._extracting.get(number) is extracting:
                del self._extracting[number]
                extracting.feeder.close()
                self._line.say(number, answer)

    def took(self, number: int, size: int) -> None:
        """An archive's bytes went on."""
        self._line.say(number, program.GuestCredit(size))


class _Reading:
    """A file on its way out."""

    def __init__(self, tree: Tree, request: files.Read) -> None:
        self._file = tree.open(request.path, os.O_RDONLY | os.O_NONBLOCK)
        facts = os.fstat(self._file)
        if not stat.S_ISREG(facts.st_mode):
            os.close(self._file)
            error = errno.EISDIR if stat.S_ISDIR(facts.st_mode) else errno.EINVAL
            raise OSError(error, os.strerror(error), request.path)
        self.size, self.mode = facts.st_size, stat.S_IMODE(facts.st_mode)
        self.left_bytes = min(request.most_bytes, max(0, facts.st_size - request.offset))
        self._offset = request.offset

    def read(self, most: int) -> bytes:
        data = os.pread(self._file, most, self._offset)
        self._offset += len(data)
        self.left_bytes -= len(data)
        return data

    def close(self) -> None:
        os.close(self._file)


class _Writing:
    """A file on its way in."""

    def __init__(self, tree: Tree, request: files.Write) -> None:
        flags = request.flags
        if flags & ~WRITE_FLAGS or (flags & files.ATOMIC and flags & files.APPEND):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), request.path)
        self.path, self._tree, self._written = request.path, tree, 0
        self._temporary = ""
        if flags & files.MAKE_PARENTS:
            tree.make_parents(request.path)
        if flags & files.EXCLUSIVE and _is_there(tree, request.path):
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), request.path)
        if flags & files.ATOMIC:
            if request.path.endswith("/") or _is_directory(tree, request.path):
                raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), request.path)
            folder = request.path.rpartition("/")[0]
            self._temporary = f"{folder}/.{secrets.token_hex(8)}.new"
        self._file = self._opened(request)

    def _opened(self, request: files.Write) -> int:
        with self._tree.parent(self._temporary or request.path) as (folder, name):
            how = os.O_APPEND if request.flags & files.APPEND else 0 if self._temporary else os.O_TRUNC
            how |= os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            try:
                file = os.open(name, how | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
            except FileExistsError:
                file = os.open(name, how, dir_fd=folder)
                if not stat.S_ISREG(os.fstat(file).st_mode):
                    os.close(file)
                    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), request.path) from None
            else:
                os.fchmod(file, request.mode & 0o777)
        return file

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]
        self._written += len(data)

    def finish(self) -> int:
        os.close(self._file)
        self._file = -1
        if self._temporary:
            self._tree.rename(self._temporary, self.path)
            self._temporary = ""
        return self._written

    def abandon(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        if self._temporary:
            self._tree.remove(self._temporary, recursive=False)
            self._temporary = ""


class _Extracting:
    """An archive on its way in: a thread reads it from a pipe."""

    def __init__(self, tree: Tree, directory: str, number: int, transfers: Transfers) -> None:
        tree.make_directory(directory, 0o755, parents=True)
        if tree.entry(directory).kind != "d":
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), directory)
        reading, writing = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(writing, False)
        self.feeder = Feeder(writing, lambda size: transfers.took(number, size))

        def work() -> None:
            with os.fdopen(reading, "rb") as pipe:
                try:
                    answer: Payload = files.CountDone(extract(tree, directory, pipe))
                except OSError as error:
                    answer = _failed(error)
                else:
                    while pipe.read(65536):
                        """What follows the end of an archive is nobody's."""
            transfers.extracted(number, self, answer)

        threading.Thread(target=work, daemon=True).start()


def _check_owner(owner: str) -> None:
    if owner not in OWNERS:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM), owner)


def _is_there(tree: Tree, path: str) -> bool:
    try:
        tree.entry(path)
    except FileNotFoundError:
        return False
    return True


def _is_directory(tree: Tree, path: str) -> bool:
    try:
        return tree.entry(path).kind == "d"
    except FileNotFoundError:
        return False


def _failed(error: OSError, path: str = "") -> program.Failed:
    what = error.filename if isinstance(error.filename, str) else path
    return program.Failed(error.errno or errno.EIO, what)
