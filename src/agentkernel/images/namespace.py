"""Where trees with foreign owners are made: private namespaces, entered as root or with the user's range of
subordinate ids."""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from agentkernel.images import process
from agentkernel.images.trouble import ChildError
from agentkernel.model.errors import Unsupported

_PRIVATE = ("unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child")

_FORBIDDEN = ("unshare: unshare failed", "unshare: write failed", "newuidmap: ", "unshare: cannot change root")


def entry() -> list[str]:
    """The command that enters the namespaces.

    Raises:
        Unsupported: this user has no way to make files for other owners; the hint says what to install.
    """
    if os.geteuid() == 0:
        return [*_PRIVATE, "--"]
    user = user_name()
    if shutil.which("newuidmap") is None or not (_has_range("/etc/subuid", user) and _has_range("/etc/subgid", user)):
        raise Unsupported(
            "building an image without root needs a range of subordinate user ids",
            hint=f"install the package uidmap and give {user} a range in /etc/subuid and /etc/subgid, or run "
            "setup as root",
        )
    return [*_PRIVATE, "--user", "--map-root-user", "--map-auto", "--"]


def user_name() -> str:
    """Who we are; the number where it has no name, as in many containers."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _has_range(file: str, user: str) -> bool:
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    return any(line.split(":")[0] in (user, str(os.geteuid())) for line in lines)


def script() -> Path:
    """The script that does the work inside."""
    return Path(str(resources.files("agentkernel.images").joinpath("rootfs.sh")))


async def inside(*words: str | Path, on_line: Callable[[str], None] | None = None) -> str:
    """Run one verb of the script; all that it starts ends with it, and with us.

    Raises:
        Unsupported: this host does not let this user make namespaces.
        ChildError: the script failed.
    """
    try:
        return await process.run([*entry(), "sh", script(), *words], on_line=on_line)
    except ChildError as error:
        if any(sign in error.output for sign in _FORBIDDEN):
            raise Unsupported(
                f"this host does not let this user make namespaces: {error.message}",
                hint="build images as root, or where user namespaces are allowed (not inside an ordinary container)",
            ) from error
        raise


async def remove(folder: Path) -> None:
    """Remove a tree, whoever owns the files in it; what cannot be removed stays."""
    if os.geteuid() == 0:
        await process.run(["rm", "-rf", "--", folder])
        return
    try:
        await inside("remove", folder)
    except (Unsupported, ChildError):
        await process.run(["sh", "-c", 'rm -rf -- "$1" || true', "sh", folder])
