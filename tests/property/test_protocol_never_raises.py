"""Whatever comes over the socket is a request or a refusal, and every refusal can be sent."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from tests.support import original_shapes

from agentkernel.model.errors import Refused
from agentkernel.policy.environment import exec_request
from agentkernel.protocol.codec import (
    REQUESTS,
    Rejected,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
    error_reply,
)
from agentkernel.protocol.guest_json import GuestStream, decode_guest_request
from agentkernel.protocol.lines import LineSplitter, TooLong
from agentkernel.protocol.words import LATER

NAMES = sorted({name for struct in REQUESTS.values() for name in struct.__struct_encode_fields__} | {"cmd", "other"})
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
OBJECTS = st.builds(
    lambda cmd, fields: {"cmd": cmd, **fields},
    st.sampled_from(sorted(REQUESTS) + sorted(LATER)) | VALUES,
    st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=6),
)
PLAUSIBLE = st.fixed_dictionaries(
    {"cmd": st.sampled_from(["exec", "exec_start"]), "runtime": st.just("base"), "command": st.lists(st.text())},
    optional={
        "env": st.dictionaries(st.text(), st.text(), max_size=3),
        "cwd": st.text(max_size=8),
        "user": st.sampled_from(["", "root", "1:1", "x y"]),
        "timeout_ms": st.integers(),
        "request_id": st.text(max_size=4),
        "files": st.just([{"path": "a", "content_base64": "aGk="}]),
        "vmm": st.sampled_from(["qemu", "xen"]),
    },
)


def check(line: bytes | TooLong) -> None:
    found = decode_request(line)
    if isinstance(found, Rejected):
        assert found.cause.message.startswith(("Invalid request: ", "Unsupported: "))
        reply = error_reply(found.cause, found.request_id)
        assert decode_reply(encode_reply(reply)) == reply
        original_shapes.decode(encode_reply(reply))
    else:
        assert decode_request(encode_request(found)[:-1]) == found


@given(st.binary())
def test_any_bytes(data: bytes) -> None:
    check(data)
    decode_guest_request(data)
    GuestStream().feed(b"CONNECT 52000\n" + data)
    for line in LineSplitter(16).feed(data):
        check(line)


@given(OBJECTS | PLAUSIBLE, st.booleans())
def test_any_object(fields: dict[str, object], ascii_only: bool) -> None:
    check(json.dumps(fields, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass"))


@given(st.lists(st.text()), st.dictionaries(st.text(), st.text()), st.text(), st.text())
def test_any_command_becomes_a_request_to_a_guest_or_is_refused(
    command: list[str], env: dict[str, str], cwd: str, user: str
) -> None:
    try:
        found = exec_request(command, env=env, cwd=cwd, user=user)
    except Refused as err:
        assert err.message.startswith("Invalid request: ")
    else:
        assert b"\0" not in b"".join((*found.argv, *found.env))
        assert set(env) <= {text.partition(b"=")[0].decode() for text in found.env}
