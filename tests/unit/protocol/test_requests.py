"""Lines to requests."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from agentkernel.model.errors import Refused, Unsupported
from agentkernel.model.kinds import Backend, Mode, Vmm
from agentkernel.protocol import requests
from agentkernel.protocol.codec import REQUESTS, Rejected, decode_request, encode_request
from agentkernel.protocol.lines import TooLong
from agentkernel.protocol.words import LATER, WireBackend, wire_backend

ORIGINALS = ["acquire", "release", "exec", "prewarm", "status", "shutdown"]


def line(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def refusal(text: bytes) -> Rejected:
    found = decode_request(text)
    assert isinstance(found, Rejected)
    return found


def test_an_original_exec_is_understood() -> None:
    found = decode_request(
        b'{"cmd":"exec","runtime":"python","command":["python3","-V"],"backend":"firecracker","compatibility_mode":"claude"}'
    )
    assert found == requests.Exec(
        runtime="python", command=["python3", "-V"], backend=WireBackend.FIRECRACKER, compatibility_mode=Mode.CLAUDE
    )


def test_absent_fields_have_the_published_defaults() -> None:
    found = decode_request(b'{"cmd":"acquire","runtime":"base"}')
    assert isinstance(found, requests.Acquire)
    assert (found.backend, found.compatibility_mode) == ("firecracker", "native")


@pytest.mark.parametrize(
    "text",
    [
        b'{"cmd":"release","id":"x"}',
        b'{"cmd":"prewarm","compatibility_mode":"gemini"}',
        b'{"cmd":"status"}',
        b'{"cmd":"shutdown"}',
        b'{"cmd":"hello"}',
        b'{"cmd":"exec_stdin","request_id":"1","data_base64":"aGk="}',
        b'{"cmd":"exec_close_stdin","request_id":"1"}',
        b'{"cmd":"exec_signal","request_id":"1","signal":15}',
        b'{"cmd":"exec_cancel","request_id":"1"}',
        b'{"cmd":"credit","request_id":"1","bytes":65536}',
        b'{"cmd":"archive_put","id":"l","path":"/workspace","content_base64":"aGk=","more":true}',
        b'{"cmd":"lease_renew","id":"l"}',
        b'{"cmd":"acquire","image":"debian:12"}',
        b'{"cmd":"exec","command":[],"image":"debian:12"}',
        b'{"cmd":"prewarm","compatibility_mode":"claude","backend":"docker"}',
    ],
)
def test_every_command_comes_back_from_its_own_encoding(text: bytes) -> None:
    found = decode_request(text)
    assert not isinstance(found, Rejected)
    assert encode_request(found) == text + b"\n"


def test_unknown_extra_fields_are_ignored() -> None:
    assert decode_request(b'{"cmd":"status","new":{"deep":[1,null]}}') == requests.Status()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "not JSON"),
        (b"nope", "not JSON"),
        (b'{"cmd":"status"', "not JSON"),
        (b'{"cmd":"status"} {}', "not JSON"),
        (b'{"cmd":"status","x":"\xff"}', "not UTF-8 at byte 21"),
        (b"\xff", "not UTF-8"),
        (b"[]", "not a JSON object"),
        (b'"status"', "not a JSON object"),
        (b"{}", "`cmd` is missing"),
        (b'{"cmd":7}', "`cmd` is missing or no string"),
        (b'{"cmd":"zzz"}', "unknown cmd `zzz`"),
        (b'{"cmd":"exec","command":[]}', "missing required field `runtime`"),
        (b'{"cmd":"exec","runtime":"base","image":"alpine","command":["ls"]}', "exclude each other"),
        (b'{"cmd":"acquire","runtime":"base","image":"alpine"}', "exclude each other"),
        (b'{"cmd":"acquire"}', "missing required field `runtime`"),
        (b'{"cmd":"exec","runtime":"base","command":"ls"}', "`$.command`"),
        (b'{"cmd":"exec","runtime":"base","command":[1]}', "$.command["),
        (b'{"cmd":"exec","runtime":"base","command":["a"],"backend":"xen"}', "'xen'"),
        (b'{"cmd":"exec","runtime":"base","command":["a"],"backend":null}', "`$.backend`"),
        (b'{"cmd":"exec","runtime":"base","command":["a"],"env":null}', "`$.env`"),
        (b'{"cmd":"exec","runtime":"base","command":["a"],"timeout_ms":null}', "`$.timeout_ms`"),
        (b'{"cmd":"exec","runtime":"base","command":["a"],"timeout_ms":0}', "`$.timeout_ms`"),
        (b'{"cmd":"exec","runtime":"base","command":["a\\u0000"]}', "NUL"),
        (b'{"cmd":"exec","runtime":"base","command":["a"],"cwd":"\\u0000"}', "NUL"),
        (b'{"cmd":"exec","runtime":"base","command":["a"],"user":"\\u0000"}', "NUL"),
        (b'{"cmd":"acquire","runtime":"base","user":"\\u0000"}', "NUL"),
        (b'{"cmd":"exec","runtime":"base","command":["a"],"stdin":"a"}', "base64"),
        (b'{"cmd":"exec","runtime":"base","command":["a"],"files":[{"path":"\\u0000","content_base64":""}]}', "NUL"),
        (
            b'{"cmd":"exec","runtime":"base","command":["a"],"files":[{"path":"a","content_base64":"","mode":2048}]}',
            "mode",
        ),
        (b'{"cmd":"archive_put","id":"l","path":"/a\\u0000","content_base64":""}', "NUL"),
        (b'{"cmd":"exec_start","runtime":"base","command":["a"]}', "request_id"),
        (b'{"cmd":"status","x":' + b"[" * 400_000, "not JSON"),
    ],
)
def test_what_is_no_request_is_refused_with_its_reason(text: bytes, says: str) -> None:
    cause = refusal(text).cause
    assert type(cause) is Refused
    assert cause.message.startswith("Invalid request: ")
    assert says in cause.message
    assert cause.hint


@pytest.mark.parametrize("runtime", ["../x", "/etc", "", "Base", "a/b", "base\n", "-x", "a" * 64, "é"])
def test_a_runtime_can_never_be_a_path(runtime: str) -> None:
    cause = refusal(line(cmd="exec", runtime=runtime, command=["true"])).cause
    assert cause.message.startswith("Invalid request: ")
    assert "base, python" in cause.hint


def test_the_longest_runtime_is_taken() -> None:
    assert isinstance(decode_request(line(cmd="acquire", runtime="a" * 63)), requests.Acquire)


def test_stdin_is_decoded_and_bounded() -> None:
    def exec_with(size: int) -> Any:
        struct = requests.Exec(runtime="base", command=["cat"], stdin=bytes(size))
        return decode_request(encode_request(struct))

    assert exec_with(512 * 1024).stdin == bytes(512 * 1024)
    assert "exec_stdin" in exec_with(512 * 1024 + 1).cause.hint


def test_a_line_that_was_too_long_is_refused_by_its_length() -> None:
    found = decode_request(TooLong(100))
    assert isinstance(found, Rejected)
    assert "longer than 100 bytes" in found.cause.message


def test_a_misspelt_command_is_told_the_nearest() -> None:
    assert refusal(b'{"cmd":"staus"}').cause.hint == "Did you mean status?"


@pytest.mark.parametrize("name", sorted(LATER))
def test_commands_of_later_are_unsupported_and_not_unknown(name: str) -> None:
    found = refusal(line(cmd=name, request_id="r"))
    assert isinstance(found.cause, Unsupported)
    assert found.cause.message.startswith("Unsupported: ")
    assert found.request_id == "r"


def test_no_command_is_both_carried_out_and_later() -> None:
    assert not LATER & set(REQUESTS)
    assert set(ORIGINALS) <= set(REQUESTS)


def test_the_request_id_is_recovered_from_what_is_refused() -> None:
    assert refusal(b'{"cmd":"exec","request_id":"r7","runtime":1}').request_id == "r7"
    assert refusal(b'{"cmd":"exec","request_id":7}').request_id == ""


def test_firecracker_on_the_wire_means_any_microvm() -> None:
    assert WireBackend.FIRECRACKER.choice is Backend.MICROVM
    assert WireBackend.AUTO.choice is None
    assert WireBackend.WASM.choice is Backend.WASM


@pytest.mark.parametrize("wire", [wire for wire in WireBackend if wire is not WireBackend.AUTO])
def test_a_reply_names_the_backend_by_the_word_of_the_request(wire: WireBackend) -> None:
    assert wire.choice is not None
    assert wire_backend(wire.choice) is wire


def test_only_requests_with_an_id_may_be_answered_out_of_order() -> None:
    assert not requests.may_overtake(requests.Status())
    assert requests.may_overtake(requests.Status(request_id="r"))


def test_credit_alone_has_no_reply() -> None:
    silent = requests.GrantCredit(request_id="r", bytes=1)
    assert not requests.is_answered(silent)
    assert requests.is_answered(requests.Status())


def test_a_pinned_vmm_is_given_and_an_absent_one_is_not() -> None:
    pinned = decode_request(b'{"cmd":"acquire","runtime":"base","vmm":"qemu"}')
    assert isinstance(pinned, requests.Acquire)
    assert requests.given(pinned.vmm) is Vmm.QEMU
    assert requests.given(pinned.minimum_isolation) is None


def test_a_file_has_its_published_default_mode() -> None:
    found = decode_request(
        line(cmd="exec", runtime="base", command=["a"], files=[{"path": "x", "content_base64": "aGk="}])
    )
    assert isinstance(found, requests.Exec)
    assert found.files == [requests.FilePut(path="x", content=b"hi", mode=0o644)]


def test_every_request_can_carry_an_id() -> None:
    for struct in REQUESTS.values():
        assert "request_id" in {found.encode_name for found in msgspec.structs.fields(struct)}
