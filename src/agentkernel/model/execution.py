"""One command in a sandbox: what is asked, what happens, how it ends."""

from __future__ import annotations

from dataclasses import dataclass

from agentkernel.model.spec import Rlimit


@dataclass(frozen=True, slots=True)
class ExecRequest:
    """A program to start, complete: a guest adds nothing but HOME, USER and LOGNAME.

    Attributes:
        argv: program and arguments, at least one; never passed through a shell.
        env: `NAME=value` texts.
        cwd: absolute path, made when missing if `make_cwd`.
        user: name or `uid[:gid]`; empty is uid 1000.
        stdin: whether input will be sent; else /dev/null.
        terminal: rows and columns of a pty, or None for separate stdout and stderr.
    """

    argv: tuple[bytes, ...]
    env: tuple[bytes, ...] = ()
    cwd: str = "/workspace"
    user: str = ""
    rlimits: tuple[Rlimit, ...] = ()
    stdin: bool = False
    terminal: tuple[int, int] | None = None
    make_cwd: bool = False


@dataclass(frozen=True, slots=True)
class Started:
    """The program runs; `pid` is its number inside the sandbox."""

    pid: int


@dataclass(frozen=True, slots=True)
class Stdout:
    """Bytes of standard output, at most 64 KiB."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Stderr:
    """Bytes of standard error, at most 64 KiB."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Exited:
    """The program ended; nothing follows.

    Attributes:
        code: its exit code, or 128 + the signal that killed it.
        signal: that signal, or None.
        user_us, system_us: processor time in microseconds.
        peak_kib: largest resident size.
    """

    code: int
    signal: int | None = None
    user_us: int = 0
    system_us: int = 0
    peak_kib: int = 0


@dataclass(frozen=True, slots=True)
class NotStarted:
    """The program could not be started.

    Attributes:
        errno: Linux error number.
        what: `program: NAME`, `cwd: PATH`, `user: NAME`, `rlimit: N` or `fork: `, as the guest says it.
    """

    errno: int
    what: str


ExecEvent = Started | Stdout | Stderr | Exited | NotStarted


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One name in a directory. `kind` is `f`, `d`, `l` or `o` (anything else); times in seconds since 1970."""

    name: str
    kind: str
    mode: int
    size: int
    modified_s: int
    uid: int
    gid: int
