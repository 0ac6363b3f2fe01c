"""Identifiers. All are lower-case hexadecimal text; how many bits are random is part of their meaning."""

from __future__ import annotations

import secrets
from typing import NewType

SandboxId = NewType("SandboxId", str)
"""128 random bits. Every host resource of a sandbox carries it (directory, process name, label), so it is no secret."""

LeaseId = NewType("LeaseId", str)
"""128 random bits. Knowing one is the right to use the sandbox behind it, so it is in no name, no log and no process
list.
"""

SnapshotId = NewType("SnapshotId", str)
"""128 random bits. Knowing one is the right to restore what was saved, and to remove it."""

Digest = NewType("Digest", str)
"""SHA-256 of an artefact's inputs or content, 64 digits."""


def new_sandbox_id() -> SandboxId:
    """A fresh identifier of 32 digits."""
    return SandboxId(secrets.token_hex(16))


def new_lease_id() -> LeaseId:
    """A fresh capability of 32 digits."""
    return LeaseId(secrets.token_hex(16))


def new_snapshot_id() -> SnapshotId:
    """A fresh capability of 32 digits."""
    return SnapshotId(secrets.token_hex(16))
