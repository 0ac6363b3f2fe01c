"""The JSON protocol behind `vsock_path`: a handshake line, then frames. Clients of the original program speak it; the
agent does not.

Each side sends a little-endian unsigned 32-bit length and that many bytes of JSON. Optional fields may be null here:
the original clients send them so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, get_args

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field

from agentkernel.protocol.requests import refuse_nul, tag_of

GUEST_PORT = 52000
FRAME_CAP_BYTES = 10 * 1024 * 1024
_HANDSHAKE_CAP_BYTES = 32


class Message(Struct, frozen=True, kw_only=True, tag_field="type", tag=tag_of):
    """A request to the guest. Its reply carries the same `id`."""

    id: str


class Run(Message, frozen=True, kw_only=True):
    """Run a program to its end."""

    command: Annotated[list[str], Meta(min_length=1)]
    cwd: str | None = None
    env: dict[str, str] | None = None

    def __post_init__(self) -> None:
        refuse_nul("command", *self.command)
        refuse_nul("cwd", self.cwd or "")


class Ping(Message, frozen=True, kw_only=True):
    """Answered with `exit_code` 0."""


class Shutdown(Message, frozen=True, kw_only=True):
    """End the sandbox."""


class _Path(Message, frozen=True, kw_only=True):
    path: Annotated[str, Meta(min_length=1)]

    def __post_init__(self) -> None:
        refuse_nul("path", self.path)


class WriteFile(_Path, frozen=True, kw_only=True):
    """Replace a file."""

    content: bytes = field(name="content_base64")


class ReadFile(_Path, frozen=True, kw_only=True):
    """Answered with `content_base64`."""


class RemoveFile(_Path, frozen=True, kw_only=True):
    """Remove a file."""


class Mkdir(_Path, frozen=True, kw_only=True):
    """Make a directory; with `recursive` its parents too."""

    recursive: bool | None = None


class Shell(Message, frozen=True, kw_only=True):
    """An interactive program. Answered `Unsupported` by this version, as are the three below."""

    command: list[str] | None = None
    rows: int | None = None
    cols: int | None = None


class ShellInput(Message, frozen=True, kw_only=True):
    """Input for a shell."""

    session_id: str
    input: bytes = field(name="input_base64")


class ShellResize(Message, frozen=True, kw_only=True):
    """A new size for a shell."""

    session_id: str
    rows: int | None = None
    cols: int | None = None


class ShellClose(Message, frozen=True, kw_only=True):
    """End a shell."""

    session_id: str


GuestRequest = (
    Run | Ping | Shutdown | WriteFile | ReadFile | RemoveFile | Mkdir | Shell | ShellInput | ShellResize | ShellClose
)


class GuestReply(Struct, frozen=True, kw_only=True):
    """The answer to one request: its `id`, and whichever of these it has."""

    id: str
    exit_code: int | UnsetType = UNSET
    stdout: str | UnsetType = UNSET
    stderr: str | UnsetType = UNSET
    error: str | UnsetType = UNSET
    content: bytes | UnsetType = field(default=UNSET, name="content_base64")
    session_id: str | UnsetType = UNSET
    output: bytes | UnsetType = field(default=UNSET, name="output_base64")
    shell_event: str | UnsetType = UNSET


@dataclass(frozen=True, slots=True)
class Connected:
    """The handshake is right: answer with `handshake_reply`."""


@dataclass(frozen=True, slots=True)
class Hangup:
    """Nothing more can be understood: close the connection."""

    reason: str


GuestEvent = Connected | Hangup | GuestReply | GuestRequest
"""What bytes from a client mean. A GuestReply is the answer to a request that is not well formed, ready to be sent."""

_requests: msgspec.json.Decoder[GuestRequest] = msgspec.json.Decoder(GuestRequest)
_encoder = msgspec.json.Encoder()
TYPES: frozenset[str] = frozenset(str(struct.__struct_config__.tag) for struct in get_args(GuestRequest))


class GuestStream:
    """One client's side of the conversation. Holds one frame at most; after Hangup everything is ignored."""

    def __init__(self) -> None:
        self._begun = bytearray()
        self._connected = False
        self._over = False

    def feed(self, data: bytes) -> list[GuestEvent]:
        """What these bytes complete, in order."""
        events: list[GuestEvent] = []
        if self._over:
            return events
        self._begun += data
        if not self._connected:
            events += self._handshake()
        while self._connected and not self._over and len(self._begun) >= 4:
            size = int.from_bytes(self._begun[:4], "little")
            if size > FRAME_CAP_BYTES:
                events.append(self._hang_up(f"a frame of {size} bytes; at most {FRAME_CAP_BYTES}"))
            elif len(self._begun) < 4 + size:
                break
            else:
                events.append(decode_guest_request(bytes(self._begun[4 : 4 + size])))
                del self._begun[: 4 + size]
        return events

    def _handshake(self) -> list[GuestEvent]:
        end = self._begun.find(b"\n")
        if end < 0 and len(self._begun) <= _HANDSHAKE_CAP_BYTES:
            return []
        line = bytes(self._begun[: end if end >= 0 else _HANDSHAKE_CAP_BYTES])
        if re.fullmatch(rb"CONNECT 0*%d\r?" % GUEST_PORT, line) is None:
            return [self._hang_up(f"not `CONNECT {GUEST_PORT}`")]
        del self._begun[: end + 1]
        self._connected = True
        return [Connected()]

    def _hang_up(self, reason: str) -> Hangup:
        self._over = True
        self._begun.clear()
        return Hangup(reason)


class _Envelope(Struct):
    id: Any = None
    type: Any = None


def decode_guest_request(body: bytes) -> GuestRequest | GuestReply:
    """What a frame asks for, or the reply that says why it cannot be understood; that reply's `id` is empty if none
    was readable.
    """
    try:
        body.decode()
        return _requests.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as err:
        try:
            envelope = msgspec.json.decode(body, type=_Envelope)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return GuestReply(id="", error=f"Invalid request: not a JSON object in UTF-8: {err}")
        given_id = envelope.id if isinstance(envelope.id, str) else ""
        known = envelope.type in TYPES if isinstance(envelope.type, str) else True
        what = str(err) if known else f"unknown type `{envelope.type[:64]}`; one of: {' '.join(sorted(TYPES))}"
        return GuestReply(id=given_id, error=f"Invalid request: {what}")


def unsupported(request: GuestRequest, remedy: str) -> GuestReply:
    """The answer for what a driver or this version lacks."""
    return GuestReply(id=request.id, error=f"Unsupported: {type(request).__struct_config__.tag}: {remedy}")


def handshake_reply(port: int) -> bytes:
    """`OK <port>`; the number is the caller's side of the connection and means nothing more."""
    return b"OK %d\n" % port


def encode_guest_reply(reply: GuestReply) -> bytes:
    """One frame. A reply over 10 MiB becomes an error that says so."""
    body = _encoder.encode(reply)
    if len(body) > FRAME_CAP_BYTES:
        error = f"Too large: the reply has {len(body)} bytes; at most {FRAME_CAP_BYTES}"
        body = _encoder.encode(GuestReply(id=reply.id[:256], error=error))
    return len(body).to_bytes(4, "little") + body
