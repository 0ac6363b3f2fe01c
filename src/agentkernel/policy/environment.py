"""What a program finds when it starts: user, directory, environment. One table, the same on every driver."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from agentkernel.model.errors import Refused
from agentkernel.model.execution import ExecRequest
from agentkernel.model.spec import Rlimit

USER = "sandbox"
CWD = "/workspace"
HOME = "/home/sandbox"
BASE_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
}
STRING_CAP_BYTES = 128 * 1024 - 1
"""Longest argument or environment text that Linux takes (MAX_ARG_STRLEN, its NUL not counted)."""

TOTAL_CAP_BYTES = 1024 * 1024
"""Arguments and environment together; below what Linux takes and what one request to a guest holds (guest/PROTOCOL.md
4).
"""

_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}\$?|[0-9]{1,10}(?::[0-9]{1,10})?")


def exec_request(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    image_env: Mapping[str, str] | None = None,
    cwd: str = "",
    user: str = "",
    rlimits: tuple[Rlimit, ...] = (),
    stdin: bool = False,
) -> ExecRequest:
    """Everything that a guest needs to start a program.

    Args:
        command: program and arguments, at least one.
        env: the caller's; overrides the image's, which overrides the table.
        cwd: absolute; `/workspace` when empty.
        user: name or `uid[:gid]`; `sandbox` when empty.

    Raises:
        Refused: something is not well formed or too large; the message begins `Invalid request: `.
    """
    check_command(command)
    argv = tuple(_encoded("command", text) for text in command)
    texts = tuple(_encoded(name, f"{name}={value}") for name, value in environment(env, image_env, user=user).items())
    total = sum(map(len, argv)) + sum(map(len, texts))
    if total > TOTAL_CAP_BYTES:
        raise _invalid(
            f"command and env hold {total} bytes; at most {TOTAL_CAP_BYTES}",
            hint="Send large content as files or stdin.",
        )
    return ExecRequest(argv, texts, checked_cwd(cwd), checked_user(user), rlimits, stdin)


def check_command(command: Sequence[str]) -> None:
    """Refuse a command without a program."""
    if not command or not command[0]:
        raise _invalid("command is empty", hint='Give a program and its arguments: ["python3", "-V"].')


def environment(
    env: Mapping[str, str] | None = None, image_env: Mapping[str, str] | None = None, *, user: str = ""
) -> dict[str, str]:
    """The complete environment by name. For users other than `sandbox` and root the guest adds HOME, USER and
    LOGNAME, which it knows.
    """
    for name in env or ():
        if not name or "=" in name or "\0" in name:
            raise _invalid(f"env has the name {name[:64]!r}", hint="A name is not empty and holds neither = nor NUL.")
    who = user or USER
    identity = {"HOME": HOME, "USER": USER, "LOGNAME": USER} if who == USER else {}
    if who == "root":
        identity = {"HOME": "/root", "USER": "root", "LOGNAME": "root"}
    return {**BASE_ENVIRONMENT, **identity, **(image_env or {}), **(env or {})}


def checked_cwd(cwd: str) -> str:
    """The working directory. Raises Refused for one that is not absolute."""
    if cwd and (not cwd.startswith("/") or "\0" in cwd or len(cwd) > 4095):
        raise _invalid(f"cwd {cwd[:64]!r}", hint="Give an absolute path inside the sandbox, such as /workspace.")
    return cwd or CWD


def checked_user(user: str) -> str:
    """The user. Raises Refused for what is neither a name nor `uid[:gid]`."""
    if user and _USER.fullmatch(user) is None:
        raise _invalid(f"user {user[:64]!r}", hint="Give a name, or uid or uid:gid in decimal.")
    return user


def _encoded(name: str, text: str) -> bytes:
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        raise _invalid(f"{name[:64]} holds half a surrogate pair", hint="Send valid Unicode.") from None
    if b"\0" in encoded:
        raise _invalid(f"{name[:64]} holds a NUL character", hint="Leave it out.")
    if len(encoded) > STRING_CAP_BYTES:
        raise _invalid(
            f"{name[:64]} holds {len(encoded)} bytes; at most {STRING_CAP_BYTES}", hint="Send it as a file or as stdin."
        )
    return encoded


def _invalid(what: str, *, hint: str) -> Refused:
    return Refused(f"Invalid request: {what}", hint=hint)
