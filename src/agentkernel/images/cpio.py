"""An initramfs archive in the `newc` format. Pure and deterministic: the same members give the same bytes.

Source: Documentation/driver-api/early-userspace/buffer-format.rst of the Linux kernel.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass

_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Member:
    """One entry. `name` is relative; a directory's mode carries S_IFDIR and its content is empty; `rdev` is (major,
    minor)."""

    name: str
    mode: int
    content: bytes = b""
    rdev: tuple[int, int] = (0, 0)


def directory(name: str, mode: int = 0o755) -> Member:
    """A directory."""
    return Member(name, stat.S_IFDIR | mode)


def regular(name: str, content: bytes, mode: int = 0o644) -> Member:
    """A regular file."""
    return Member(name, stat.S_IFREG | mode, content)


def character_device(name: str, major: int, minor: int, mode: int = 0o600) -> Member:
    """A character device node."""
    return Member(name, stat.S_IFCHR | mode, b"", (major, minor))


def archive(members: Iterable[Member]) -> bytes:
    """All members in the order given, owned by root, dated 1970. Parents must come before what is in them."""
    parts = [_entry(member, inode) for inode, member in enumerate(members, start=1)]
    parts.append(_entry(Member("TRAILER!!!", 0), 0))
    whole = b"".join(parts)
    return whole + bytes(-len(whole) % _BLOCK)


def _entry(member: Member, inode: int) -> bytes:
    name = member.name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(member.mode) else 1
    numbers = (inode, member.mode, 0, 0, links, 0, len(member.content), 0, 0, *member.rdev, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % number for number in numbers)
    return _padded(header + name) + _padded(member.content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
