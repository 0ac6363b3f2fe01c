"""Attach records."""

import zlib

import pytest

from agentkernel.wire import attach

EPOCH = bytes(range(16))


def test_records_are_spelled_as_on_the_page() -> None:
    assert attach.encode_attach(EPOCH)[:28] == b"AKLINK-ATT1\n" + EPOCH
    assert attach.encode_echo(EPOCH)[:28] == b"AKLINK-ECH1\n" + EPOCH
    for record in (attach.encode_attach(EPOCH), attach.encode_echo(EPOCH)):
        assert record[28:] == zlib.crc32(record[:28]).to_bytes(4, "little")


def test_only_a_whole_and_true_record_is_taken() -> None:
    record = attach.encode_attach(EPOCH)
    assert attach.decode_attach(record) == EPOCH
    assert attach.decode_attach(record[:-1]) is None
    assert attach.decode_attach(attach.encode_echo(EPOCH)) is None
    for at in range(len(record)):
        assert attach.decode_attach(record[:at] + bytes([record[at] ^ 1]) + record[at + 1 :]) is None


def test_an_epoch_never_looks_like_a_record() -> None:
    for wrong in (b"AKLI" + bytes(12), b"short"):
        with pytest.raises(ValueError, match="epoch"):
            attach.encode_attach(wrong)
    lying = b"AKLINK-ATT1\nAKLI" + bytes(12)
    assert attach.decode_attach(lying + zlib.crc32(lying).to_bytes(4, "little")) is None
