"""Files that a simulated guest keeps in memory."""

from __future__ import annotations

import errno
import io
import json
import os
import posixpath
import tarfile
from collections.abc import Iterator
from typing import Self

from agentkernel.model.execution import FileEntry
from agentkernel.wire import files


def _error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)


class Tree:
    """Directories are paths with None as their content."""

    def __init__(self) -> None:
        self._nodes: dict[str, bytes | None] = dict.fromkeys(("/", "/workspace", "/tmp", "/scratch"))  # noqa: S108
        self._modes: dict[str, int] = {}

    def dump(self) -> bytes:
        """All of it."""
        nodes = {path: None if content is None else content.hex() for path, content in self._nodes.items()}
        return json.dumps([nodes, self._modes]).encode()

    @classmethod
    def load(cls, dumped: bytes) -> Self:
        """What was dumped."""
        tree = cls()
        nodes, tree._modes = json.loads(dumped)
        tree._nodes = {path: None if content is None else bytes.fromhex(content) for path, content in nodes.items()}
        return tree

    def _node(self, path: str) -> bytes | None:
        if path not in self._nodes:
            raise _error(errno.ENOENT, path)
        return self._nodes[path]

    def _below(self, path: str) -> Iterator[str]:
        prefix = path.rstrip("/") + "/"
        return (each for each in list(self._nodes) if each.startswith(prefix) and each != path)

    def _check_parent(self, path: str) -> None:
        if self._node(posixpath.dirname(path)) is not None:
            raise _error(errno.ENOTDIR, path)

    def read(self, path: str) -> bytes:
        """Content of a file."""
        content = self._node(path)
        if content is None:
            raise _error(errno.EISDIR, path)
        return content

    def write(self, path: str, content: bytes, mode: int, flags: int) -> None:
        """Make or replace a file."""
        if flags & files.MAKE_PARENTS:
            self.make_directory(posixpath.dirname(path), parents=True)
        self._check_parent(path)
        if path in self._nodes and self._nodes[path] is None:
            raise _error(errno.EISDIR, path)
        self._nodes[path] = content
        self._modes[path] = mode

    def make_directory(self, path: str, *, parents: bool) -> None:
        """Make a directory."""
        if path in self._nodes:
            if not parents or self._nodes[path] is not None:
                raise _error(errno.EEXIST, path)
            return
        if parents:
            self.make_directory(posixpath.dirname(path), parents=True)
        self._check_parent(path)
        self._nodes[path] = None

    def entry(self, path: str) -> FileEntry:
        """Facts of a path."""
        content = self._node(path)
        kind, size = ("d", 0) if content is None else ("f", len(content))
        mode = self._modes.get(path, 0o755)
        return FileEntry(posixpath.basename(path), kind, mode, size, modified_s=0, uid=1000, gid=1000)

    def entries(self, path: str) -> tuple[FileEntry, ...]:
        """What is in a directory."""
        if self._node(path) is not None:
            raise _error(errno.ENOTDIR, path)
        return tuple(self.entry(each) for each in self._below(path) if posixpath.dirname(each) == path)

    def remove(self, path: str, *, recursive: bool) -> None:
        """Remove a path."""
        self._node(path)
        below = list(self._below(path))
        if below and not recursive:
            raise _error(errno.ENOTEMPTY, path)
        for each in (path, *below):
            del self._nodes[each]

    def rename(self, source: str, target: str) -> None:
        """Rename a path, with what is below it."""
        self._node(source)
        self._check_parent(target)
        for each in (source, *self._below(source)):
            self._nodes[target + each[len(source) :]] = self._nodes.pop(each)

    def extract(self, directory: str, archive: bytes) -> int:
        """Extract files and directories of an archive; how many members that was."""
        self.make_directory(directory, parents=True)
        try:
            with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
                return sum(self._member(opened, member, directory) for member in opened)
        except tarfile.TarError as err:
            raise _error(errno.EBADMSG, directory) from err

    def _member(self, opened: tarfile.TarFile, member: tarfile.TarInfo, directory: str) -> int:
        if member.name.startswith("/") or ".." in member.name.split("/"):
            raise _error(errno.EPERM, member.name)
        path = posixpath.normpath(posixpath.join(directory, member.name))
        if member.isdir():
            self.make_directory(path, parents=True)
        elif (content := opened.extractfile(member)) is not None:
            self.write(path, content.read(), member.mode, files.MAKE_PARENTS)
        return 1
