"""Which kernel modules a guest needs, and in what order they load. Pure, over modules already read.

The order comes from the modules themselves (`depends=` and `softdep=` in their `.modinfo`), because a kernel package
has no modules.dep:
that is made by depmod where the package is installed.
Source: include/linux/module.h, MODULE_INFO and MODULE_SOFTDEP.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

WANTED = (
    "virtio_pci",
    "virtio_console",
    "virtio_blk",
    "virtio_rng",
    "overlay",
    "erofs",
    "squashfs",
    "ext4",
    "vmw_vsock_virtio_transport",
)
"""What a guest loads besides what these need; a name that is built in, or that this kernel lacks, is left out."""

_FIELD = re.compile(rb"(?<![\w.])(depends|softdep)=([^\0]*)")
_ALIASES = {"crc32c": "crc32c_generic"}
"""Soft dependencies name an algorithm; this is the module that has it on every machine."""


def canonical(name: str) -> str:
    """A module's name as the kernel compares it."""
    plain = name.replace("-", "_")
    return _ALIASES.get(plain, plain)


def needs(module: bytes) -> list[str]:
    """What has to be loaded before this module: soft `pre:` dependencies, then hard ones, by canonical name."""
    soft: list[str] = []
    hard: list[str] = []
    for kind, value in _FIELD.findall(module):
        text = value.decode("ascii", "replace")
        if kind == b"depends":
            hard += [name for name in text.split(",") if name]
        elif "pre:" in text:
            soft += text.split("pre:")[1].split("post:")[0].split()
    return [canonical(name) for name in (*soft, *hard)]


def load_order(wanted: Iterable[str], read: Callable[[str], bytes | None]) -> list[str]:
    """Canonical names in the order of loading, everything after what it needs.

    Args:
        read: content of a module by canonical name; None for one that is built in or does not exist.
    """
    order: list[str] = []
    seen: set[str] = set()

    def visit(name: str) -> None:
        if name in seen:
            return
        seen.add(name)
        content = read(name)
        if content is None:
            return
        for needed in needs(content):
            visit(needed)
        order.append(name)

    for name in wanted:
        visit(canonical(name))
    return order
