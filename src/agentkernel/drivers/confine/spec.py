"""What a confined program is given, and the supervisor's command line for it."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agentkernel.model.ids import SandboxId

PROCESS_NAME = "agentkernel-sandbox"
"""argv[0] of every supervisor; argv[1] is the sandbox's id."""

SUPERVISOR = Path(__file__).parents[2] / "_bin" / f"supervisor-{platform.machine()}"
"""The binary that `make -C host` builds and the wheel carries."""


@dataclass(frozen=True, slots=True)
class Bind:
    """A directory or file of the host, read-only at `target` inside. A symbolic link is copied as a link."""

    source: Path
    target: str


@dataclass(frozen=True, slots=True)
class Confinement:
    """One program and everything that it may see.

    Attributes:
        argv: the program, absolute inside its tree, and its arguments.
        tree: the self-contained tree that becomes its root, `Tool.root`; `/` gives it the system's /usr and libraries.
        binds: more to show it.
        pass_fds: descriptors it gets, under the same numbers. They may be closed here once the block is entered.
        env: its whole environment.
        kvm: whether it gets `/dev/kvm`.
        jailer: the program confines itself and is a path of the host: it gets namespaces and root's rights, and neither
            `tree` nor `binds`, `pass_fds`, `kvm`. For a daemon of root.
        nesting: it makes namespaces of its own (runsc): it is root of a user namespace that holds no uid but its own,
            and its filter leaves those calls in.
        stdio_fd: one of `pass_fds` that is its stdin and stdout; else they are /dev/null and the log.
        covers: with `nesting`, files inside that are seen in place of others: source, target.
        group_fds: open `cgroup.procs` that it moves itself into before anything else. They may be closed here once the
            block is entered.
        uid: as whom it runs where the daemon is root (gid alike); None derives it from the sandbox's id. An ordinary
            user's programs run as that user.
        remove: directory that the supervisor removes when the daemon is gone; the sandbox's id must stand in its path.
        open_files, threads, locked_bytes: resource limits.
        tmp_bytes: size of its /tmp.
        log_bytes: how much of its output is kept; later output fails to be written.
        oom_score_adj: 0 to 1000; above the daemon's, so that memory pressure ends a sandbox first.
    """

    argv: tuple[str, ...]
    tree: Path
    binds: tuple[Bind, ...] = ()
    pass_fds: tuple[int, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    kvm: bool = False
    jailer: bool = False
    nesting: bool = False
    stdio_fd: int | None = None
    covers: tuple[tuple[str, str], ...] = ()
    group_fds: tuple[int, ...] = ()
    uid: int | None = None
    remove: Path | None = None
    open_files: int = 256
    threads: int = 128
    locked_bytes: int = 64 * 1024
    tmp_bytes: int = 1024 * 1024
    log_bytes: int = 64 * 1024
    oom_score_adj: int = 500


def system_binds(root: Path = Path("/")) -> tuple[Bind, ...]:
    """What a program of the system needs: libraries, the loader's cache, alternatives that libraries hide behind."""
    wanted = ("usr", "lib", "lib32", "lib64", "bin", "sbin", "etc/ld.so.cache", "etc/alternatives")
    return tuple(Bind(root / name, f"/{name}") for name in wanted if (root / name).exists())


def command_line(
    spec: Confinement, sandbox: SandboxId, *, control_fd: int, log_fd: int, uid: int | None
) -> tuple[str, ...]:
    """argv of the supervisor. `uid` is None where the daemon is an ordinary user."""
    return (PROCESS_NAME, sandbox, *_options(spec, control_fd, log_fd, uid), "--", *spec.argv)


def _options(spec: Confinement, control_fd: int, log_fd: int, uid: int | None) -> Iterator[str]:
    yield from ("--control-fd", str(control_fd), "--log-fd", str(log_fd))
    if uid is not None:
        yield from ("--uid", str(uid), "--gid", str(uid))
    system = spec.tree == Path("/") and not spec.jailer
    if spec.jailer:
        yield "--jailer"
    elif not system:
        yield from ("--tree", str(spec.tree))
    for bind in (*(system_binds() if system else ()), *spec.binds):
        yield from ("--bind", str(bind.source), bind.target)
    for number in spec.pass_fds:
        yield from ("--pass", str(number))
    if spec.nesting:
        yield from ("--profile", "nesting")
    for source, target in spec.covers:
        yield from ("--cover", source, target)
    for number in spec.group_fds:
        yield from ("--cgroup-fd", str(number))
    if spec.stdio_fd is not None:
        yield from ("--stdio-fd", str(spec.stdio_fd))
    for name, value in spec.env.items():
        yield from ("--env", f"{name}={value}")
    yield from ("--rlimit", f"nofile={spec.open_files}", "--rlimit", f"nproc={spec.threads}")
    yield from ("--rlimit", f"memlock={spec.locked_bytes}")
    yield from ("--tmp-bytes", str(spec.tmp_bytes), "--oom-score-adj", str(spec.oom_score_adj))
    if spec.kvm:
        yield "--kvm"
    if spec.remove is not None:
        yield from ("--remove", str(spec.remove))
