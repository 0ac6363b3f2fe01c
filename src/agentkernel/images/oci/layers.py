"""What a layer's entries mean: what they take away from the layers below, and what they add. Pure.

A layer is looked at as a whole before anything of it is done, so that what it takes away is taken from below it alone,
wherever it stands in the archive. Source: the OCI image specification 1.1, "Image Layer Filesystem Changeset".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from agentkernel.images.oci.tarstream import Entry, Kind

_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
_RESERVED = b".wh..wh."
PATH_MOST = 4095
COMPONENT_MOST = 255
DEPTH_MOST = 256
OWNER_MOST = 2**32 - 2
"""The number after it means "leave it as it is" to the kernel."""
KEPT_XATTRS = (b"security.capability", b"user.")
"""Others are the host's business (labels), or would speak to the overlay of the guest (`trusted.overlay.`)."""
XATTR_MOST = 65536


class Unfit(ValueError):
    """An image that is not taken; says why in half a sentence."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What an image may take, all layers together: bytes of files, and entries."""

    content_bytes: int = 64 << 30
    entries: int = 4_000_000


@dataclass(slots=True)
class Tally:
    """What an image has taken so far."""

    limits: Limits
    content_bytes: int = 0
    entries: int = 0
    devices: int = 0

    def count(self, entry: Entry) -> None:
        """Raises Unfit when it is too much."""
        self.entries += 1
        self.content_bytes += entry.size
        if self.entries > self.limits.entries:
            raise Unfit(f"it has more than {self.limits.entries} entries")
        if self.content_bytes > self.limits.content_bytes:
            raise Unfit(f"it unpacks to more than {self.limits.content_bytes} bytes")


@dataclass(slots=True)
class Changes:
    """One layer, looked at: paths without a leading slash.

    Attributes:
        removed: gone, with all below them.
        emptied: directories that stay, and what was in them goes.
    """

    removed: list[bytes] = field(default_factory=list)
    emptied: list[bytes] = field(default_factory=list)


def changes(entries: Iterable[Entry], tally: Tally) -> Changes:
    """Look at a whole layer.

    Raises:
        Unfit: it has what no honest tool puts there.
    """
    found = Changes()
    seen: dict[bytes, Kind] = {}
    for entry in entries:
        tally.count(entry)
        path = checked_path(entry.name)
        folder, _, name = path.rpartition(b"/")
        if name == _OPAQUE:
            found.emptied.append(folder)
        elif name.startswith(_WHITEOUT):
            if not name.startswith(_RESERVED):
                found.removed.append(_whited_out(folder, name))
        else:
            _check(entry)
            if path in seen and not (seen[path] is Kind.DIRECTORY is entry.kind):
                raise Unfit(f"{shown(path)} is in it twice")
            seen[path] = entry.kind
            tally.devices += entry.kind is Kind.DEVICE
    return found


def is_made(entry: Entry) -> bool:
    """Whether a looked-at entry becomes a file: not so whiteouts, and device nodes, which the guest's own /dev has."""
    return entry.kind is not Kind.DEVICE and not entry.name.rstrip(b"/").rpartition(b"/")[2].startswith(_WHITEOUT)


def checked_path(name: bytes) -> bytes:
    """A name without `./` and trailing slashes; empty for the root itself.

    Raises:
        Unfit: it is absolute, leads up, or is longer than a name may be.
    """
    if name.startswith(b"/"):
        raise Unfit(f"{shown(name)} is an absolute name")
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise Unfit(f"{shown(name)} leads up")
    if len(name) > PATH_MOST or len(parts) > DEPTH_MOST or any(len(part) > COMPONENT_MOST for part in parts):
        raise Unfit(f"{shown(name)} is too long a name")
    if any(part.startswith(_WHITEOUT) for part in parts[:-1]) and not parts[0].startswith(_RESERVED):
        raise Unfit(f"{shown(name)} is below what is taken away")
    return b"/".join(parts)


def kept_xattrs(entry: Entry) -> list[tuple[bytes, bytes]]:
    """Those that mean something in a guest."""
    return [(name, value) for name, value in entry.xattrs if _is_kept(name)]


def shown(name: bytes) -> str:
    """A name for a message: short, and without control characters."""
    return ascii(name[:100].decode(errors="backslashreplace"))


def _is_kept(name: bytes) -> bool:
    return name == KEPT_XATTRS[0] or (name.startswith(KEPT_XATTRS[1]) and not name.startswith(b"user.overlay."))


def _whited_out(folder: bytes, name: bytes) -> bytes:
    gone = name[len(_WHITEOUT) :]
    if gone in (b"", b".", b".."):
        raise Unfit(f"{shown(name)} takes away a name that is none")
    return folder + b"/" + gone if folder else gone


def _check(entry: Entry) -> None:
    path = shown(entry.name)
    if entry.uid > OWNER_MOST or entry.gid > OWNER_MOST:
        raise Unfit(f"{path} has an owner that is none")
    if entry.kind is Kind.HARD_LINK:
        if not checked_path(entry.target):
            raise Unfit(f"{path} is a hard link to nothing")
    elif entry.kind is Kind.SYMLINK and not 0 < len(entry.target) <= PATH_MOST:
        raise Unfit(f"{path} is a symbolic link to {len(entry.target)} bytes")
    if entry.kind is not Kind.DIRECTORY and not checked_path(entry.name):
        raise Unfit("the root is no directory in it")
    if any(len(value) > XATTR_MOST for _, value in entry.xattrs):
        raise Unfit(f"{path} has an extended attribute that is too long")
