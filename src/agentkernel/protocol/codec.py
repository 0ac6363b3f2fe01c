"""One line to one request, one reply to one line; and the same from the client's side."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Any, get_args

import msgspec

from agentkernel.model.errors import DOORS, AgentkernelError, Broken, Refused, Unsupported, code_of
from agentkernel.model.kinds import Isolation, Mode, Vmm
from agentkernel.protocol.lines import TooLong
from agentkernel.protocol.replies import ErrorReply, Reply
from agentkernel.protocol.requests import Request
from agentkernel.protocol.words import LATER, WireBackend

MESSAGE_CAP_CHARS = 4096

REQUESTS: dict[str, type[msgspec.Struct]] = {str(struct.__struct_config__.tag): struct for struct in get_args(Request)}
"""Every command that is carried out, by its name."""

_requests: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)
_replies: msgspec.json.Decoder[Reply] = msgspec.json.Decoder(Reply)
_encoder = msgspec.json.Encoder()

_RULES = {
    "runtime": "It is the name of a recipe and matches [a-z0-9][a-z0-9._-]{0,62}: base, python, node, and so on.",
    "backend": "One of: " + " ".join(WireBackend),
    "compatibility_mode": "One of: " + " ".join(Mode),
    "vmm": "One of: " + " ".join(Vmm),
    "minimum_isolation": "One of: " + " ".join(Isolation),
    "stdin": "Base64 of at most 512 KiB; send more by exec_start with stdin_open, and exec_stdin.",
    "count": "How many copies, 1 to 16.",
    "request_id": "A text of 1 to 128 characters.",
    "timeout_ms": "Milliseconds, a whole number above 0; leave it out for no deadline.",
}


@dataclass(frozen=True, slots=True)
class Rejected:
    """A line that is no request. `request_id` is what could be recovered of it, or empty."""

    cause: Refused
    request_id: str = ""


class _Envelope(msgspec.Struct):
    cmd: Any = None
    request_id: Any = None


_envelopes = msgspec.json.Decoder(_Envelope)


def decode_request(line: bytes | TooLong) -> Request | Rejected:
    """What a line asks for, or why it cannot be understood. Never raises."""
    if isinstance(line, TooLong):
        hint = "Send large content in pieces: exec_stdin, archive_put."
        return Rejected(_invalid(f"the line is longer than {line.cap_bytes} bytes", hint=hint))
    try:
        line.decode()  # msgspec skips unknown fields without looking at their bytes
        return _requests.decode(line)
    except UnicodeDecodeError as err:
        return Rejected(_invalid(f"not UTF-8 at byte {err.start}", hint="Encode the line as UTF-8."))
    except (msgspec.MsgspecError, RecursionError) as err:
        return _explain(line, err)


def _explain(line: bytes, err: Exception) -> Rejected:
    try:
        envelope = _envelopes.decode(line)
    except msgspec.ValidationError:
        return Rejected(_invalid("not a JSON object", hint='A request is one object on one line: {"cmd":"status"}'))
    except (msgspec.MsgspecError, RecursionError) as broken:
        return Rejected(_invalid(f"not JSON: {broken}", hint="Send one complete JSON object per line."))
    request_id = envelope.request_id if isinstance(envelope.request_id, str) else ""
    return Rejected(_cause(envelope.cmd, err), request_id[:128])


def _cause(cmd: object, err: Exception) -> Refused:
    if not isinstance(cmd, str):
        return _invalid("the field `cmd` is missing or no string", hint="One of: " + " ".join(REQUESTS))
    if cmd in LATER:
        return Unsupported(f"Unsupported: {cmd} is not part of this version", hint="`hello` lists the commands.")
    if cmd not in REQUESTS:
        near = difflib.get_close_matches(cmd, REQUESTS, n=1)
        hint = f"Did you mean {near[0]}?" if near else "One of: " + " ".join(REQUESTS)
        return _invalid(f"unknown cmd `{cmd[:64]}`", hint=hint)
    field = re.search(r"`\$\.(\w+)", str(err))
    fields = " ".join(found.encode_name for found in msgspec.structs.fields(REQUESTS[cmd]))
    rule = _RULES.get(field[1]) if field else None
    return _invalid(f"{cmd}: {err}", hint=rule or f"The fields of {cmd}: {fields}.")


def _invalid(what: str, *, hint: str) -> Refused:
    return Refused(f"Invalid request: {what}", hint=hint)


def encode_request(request: Request) -> bytes:
    """One line, newline included. What has its default is left out: the defaults are the same at both ends."""
    return _encoder.encode(request) + b"\n"


def encode_reply(reply: Reply) -> bytes:
    """One line, newline included."""
    return _encoder.encode(reply) + b"\n"


def decode_reply(line: bytes) -> Reply:
    """What a daemon answered. Unknown fields are ignored: a newer daemon may add some.

    Raises:
        Broken: the line is no reply.
    """
    try:
        return _replies.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as err:
        raise Broken(f"The daemon sent what is no reply: {err}", hint="Restart it: agentkernel daemon restart") from err


def error_reply(cause: BaseException, request_id: str | None = None) -> ErrorReply:
    """What any exception becomes. Texts are made valid UTF-8 (file names may not be), one line, and kept short.

    A cause that is not ours is named by its type and text under the code `internal`; callers that must not tell that
    much wrap it.
    """
    code = code_of(cause)
    message = cause.message if isinstance(cause, AgentkernelError) else str(cause) or type(cause).__name__
    hint = cause.hint if isinstance(cause, AgentkernelError) else ""
    return ErrorReply(
        message=_clean(message),
        code=code,
        retryable=DOORS[code].retryable,
        hint=_clean(hint) or msgspec.UNSET,
        request_id=request_id or msgspec.UNSET,
    )


def _clean(text: str) -> str:
    line = " ".join(text[:MESSAGE_CAP_CHARS].splitlines())
    return line.encode("utf-8", "replace").decode("utf-8")
