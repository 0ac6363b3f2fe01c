"""The original program's replies, exactly: its names, tags, order and types. Unknown fields are ignored, nothing else
is forgiven.

Stands for every client that was written against the published messages.
"""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

U32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
I32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Usize = Annotated[int, Meta(ge=0)]


class Backend(StrEnum):
    FIRECRACKER = "firecracker"
    HYPERLIGHT = "hyperlight"
    DOCKER = "docker"
    APPLE = "apple"


class Mode(StrEnum):
    NATIVE = "native"
    CLAUDE = "claude"
    CODEX = "codex"
    GEMINI = "gemini"


class _Reply(Struct, tag_field="type", forbid_unknown_fields=False):
    pass


class Acquired(_Reply, tag="acquired", kw_only=True):
    id: str
    cid: U32 | msgspec.UnsetType = msgspec.UNSET
    vsock_path: str | msgspec.UnsetType = msgspec.UNSET
    backend: Backend


class Released(_Reply, tag="released"):
    pass


class Executed(_Reply, tag="executed"):
    exit_code: I32
    stdout: str
    stderr: str


class Status(_Reply, tag="status"):
    warm: Usize
    in_use: Usize
    min_warm: Usize
    max_warm: Usize
    backends: list[str]
    agent_stats: dict[str, Usize] = {}


class Prewarmed(_Reply, tag="prewarmed"):
    compatibility_mode: Mode
    count: Usize


class ShuttingDown(_Reply, tag="shutting_down"):
    pass


class Error(_Reply, tag="error"):
    message: str


OriginalReply = Acquired | Released | Executed | Status | Prewarmed | ShuttingDown | Error
_decoder = msgspec.json.Decoder(OriginalReply)


def decode(line: bytes) -> OriginalReply:
    """The reply, or an exception. Also checks the transport's part: one line, compact, original fields first and in
    order.
    """
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    reply = _decoder.decode(line)
    pairs = json.loads(line, object_pairs_hook=list)
    names = [name for name, _ in pairs]
    original = ["type", *(field.encode_name for field in msgspec.structs.fields(reply))]
    sent = [name for name in original if name in names]
    assert names[: len(sent)] == sent, "original fields come first, in the published order"
    assert json.dumps(json.loads(line), separators=(",", ":"), ensure_ascii=False).encode() + b"\n" == line, "compact"
    assert all(value is not None for _, value in pairs), "left out, never null"
    return reply
