"""Attach records: the 32 bytes that begin an epoch.

Source: guest/PROTOCOL.md 1.
"""

from __future__ import annotations

import struct
import zlib

ATTACH_MAGIC = b"AKLINK-ATT1\n"
ECHO_MAGIC = b"AKLINK-ECH1\n"
MARK = b"AKLI"
"""First four bytes of every attach record; no tag is ever this."""

RECORD_BYTES = 32
EPOCH_BYTES = 16
MOST_HUNTED_BYTES = 4 * 1024 * 1024
"""How much of an older conversation a host throws away before it gives up."""


FLUSH = bytes(65_536 + RECORD_BYTES)
"""Zeros that end whatever frame an earlier host may have stopped in, and then are a framing error: the guest hunts."""


def _record(magic: bytes, epoch: bytes) -> bytes:
    if len(epoch) != EPOCH_BYTES or epoch.startswith(MARK):
        raise ValueError("an epoch is 16 bytes and does not begin like an attach record")
    return magic + epoch + struct.pack("<I", zlib.crc32(magic + epoch))


def encode_attach(epoch: bytes) -> bytes:
    """The record that a host begins an epoch with."""
    return _record(ATTACH_MAGIC, epoch)


def encode_echo(epoch: bytes) -> bytes:
    """The record that a guest answers it with."""
    return _record(ECHO_MAGIC, epoch)


def decode_attach(record: bytes) -> bytes | None:
    """The epoch of a valid ATTACH record of exactly 32 bytes, or None."""
    epoch = record[12:28]
    if len(epoch) != EPOCH_BYTES or epoch.startswith(MARK):
        return None
    return epoch if record == encode_attach(epoch) else None
