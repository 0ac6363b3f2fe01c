"""The small files that cgroups are made of: words in, words out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def write(path: Path, text: str | int) -> None:
    """One write call, which is what the kernel takes for one order.

    Raises:
        OSError: the kernel refused it.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, str(text).encode("ascii"))
    finally:
        os.close(fd)


def number(path: Path) -> int | None:
    """The number in a file; None without that file, or when it says `max`."""
    try:
        text = path.read_text("ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def field(path: Path, name: str) -> int | None:
    """The number after a name, in a file of such lines."""
    with suppress(OSError):
        for line in path.read_text("ascii").splitlines():
            words = line.split()
            if len(words) == 2 and words[0] == name:
                return int(words[1])
    return None


def processes(group: Path) -> set[int]:
    """Every process in a group and the groups below it, as this process numbers them."""
    found: set[int] = set()
    for folder in below(group):
        with suppress(OSError):
            found.update(int(word) for word in (folder / "cgroup.procs").read_text("ascii").split())
    return found - {0}


def below(group: Path) -> Iterator[Path]:
    """A group and all below it, the deepest first."""
    for folder, _, _ in os.walk(group, topdown=False):
        yield Path(folder)


def remove(group: Path) -> bool:
    """Remove a group and all below it; False when something is still in it. One that is not there is removed."""
    for folder in below(group):
        try:
            folder.rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return True
