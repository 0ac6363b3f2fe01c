"""What is alike in all programs of a worker: what is refused, where they begin, who they are."""

from __future__ import annotations

import errno
from dataclasses import replace

from agentkernel.drivers.worker.run import Run
from agentkernel.drivers.worker.tree import Tree
from agentkernel.wire import program

KNOWN_FLAGS = program.STDIN_OPEN | program.TERMINAL | program.MAKE_CWD
USERS = frozenset({"", "sandbox", "1000", "1000:1000"})
HOME = {b"HOME": b"/home/sandbox", b"USER": b"sandbox", b"LOGNAME": b"sandbox"}


def settle(run: Run, tree: Tree) -> program.Failed | None:
    """Refuse what no worker has; make the directory that was asked for, and add who it is to the environment."""
    request = run.request
    if request.flags & ~KNOWN_FLAGS:
        return program.Failed(errno.EINVAL, "flags")
    if request.flags & program.TERMINAL:
        return program.Failed(errno.ENOTSUP, "terminal")
    if request.rlimits:
        return program.Failed(errno.ENOTSUP, f"rlimit: {request.rlimits[0].resource}")
    if request.user not in USERS:
        return program.Failed(errno.EPERM, f"user: {request.user}")
    if request.flags & program.MAKE_CWD:
        tree.make_directory(request.cwd, 0o755, parents=True)
    if not tree.is_directory(request.cwd):
        return program.Failed(errno.ENOENT, f"cwd: {request.cwd}")
    run.request = replace(request, env=_with_home(request.env))
    return None


def _with_home(env: tuple[bytes, ...]) -> tuple[bytes, ...]:
    given = {entry.partition(b"=")[0] for entry in env}
    return env + tuple(name + b"=" + value for name, value in HOME.items() if name not in given)
