"""Which uid a sandbox's program runs as, where the daemon is root."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from agentkernel.model.errors import Unsupported
from agentkernel.model.ids import SandboxId

FIRST_UID = 1_879_048_192
UID_COUNT = 268_304_384
"""The largest range that no convention gives to anybody, 1879048192 to 2147352575.

Source: systemd, "Users, Groups, UIDs and GIDs on systemd Systems", summary table.
"""

FEWEST_UIDS = 1024


@dataclass(frozen=True, slots=True)
class UidRange:
    """Consecutive uids that are ours to use."""

    first: int
    count: int


def uid_range(uid_map: str) -> UidRange:
    """The uids for sandboxes, given the text of `/proc/self/uid_map`.

    On the host itself that is the unassigned range. In a user namespace without it (root in a rootless container), the
    upper half of the largest piece that is mapped.

    Raises:
        Unsupported: so few uids are mapped here that sandboxes could not have one each.
    """
    pieces = [(int(first), int(count)) for first, _, count in (line.split() for line in uid_map.splitlines())]
    if any(first <= FIRST_UID and first + count >= FIRST_UID + UID_COUNT for first, count in pieces):
        return UidRange(FIRST_UID, UID_COUNT)
    first, count = max(pieces, key=lambda piece: piece[1], default=(0, 0))
    if count < 2 * FEWEST_UIDS:
        raise Unsupported(
            f"only {count} uids are mapped in this container",
            hint="map at least 65536 uids into it, or run the daemon as an ordinary user",
        )
    return UidRange(first + count // 2, count // 2)


def private_uid(sandbox: SandboxId, *, within: UidRange | None = None, taken: AbstractSet[int] = frozenset()) -> int:
    """The uid (and gid) of one sandbox, derived from its random id, so that it needs no register.

    Two of N live sandboxes share one with a chance of about N²/2 in 268 million (64 sandboxes: 1 in 130 000).
    Sharing is not a hole by itself: each still has user, pid and mount namespaces of its own. A caller that knows
    which are `taken` gets the next free one.
    """
    uids = within or UidRange(FIRST_UID, UID_COUNT)
    offset = int(sandbox, 16) % uids.count
    for step in range(len(taken) + 1):
        uid = uids.first + (offset + step) % uids.count
        if uid not in taken:
            return uid
    raise Unsupported("every private uid is taken")
