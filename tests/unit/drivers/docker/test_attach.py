"""Records of an attached stream."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkernel.drivers.docker.attach import WORDS_KEPT, Records

OUTPUT = st.tuples(st.sampled_from([1, 2]), st.binary(max_size=300))


def record(stream: int, content: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(content).to_bytes(4, "big") + content


@given(st.lists(OUTPUT, max_size=8), st.lists(st.integers(1, 40), min_size=1, max_size=20))
def test_any_chunking_gives_standard_output_whole_and_the_end_of_standard_error(
    said: list[tuple[int, bytes]], sizes: list[int]
) -> None:
    raw = b"".join(record(*each) for each in said)
    records, output, at, turn = Records(), b"", 0, 0
    while at < len(raw):
        size = sizes[turn % len(sizes)]
        output += records.feed(raw[at : at + size])
        at, turn = at + size, turn + 1
    assert output == b"".join(content for stream, content in said if stream == 1)
    assert records.words == b"".join(content for stream, content in said if stream == 2)


def test_of_standard_error_only_the_end_is_kept() -> None:
    records = Records()
    for number in range(100):
        records.feed(record(2, bytes([number]) * 1000))
    assert len(records.words) == WORDS_KEPT
    assert records.words.endswith(bytes([99]) * 1000)


@pytest.mark.parametrize("head", [b"\0\0\0\0\0\0\0\1", b"\3\0\0\0\0\0\0\1", b"\1\1\0\0\0\0\0\1", b"HTTP/1.1"])
def test_what_is_no_record_is_an_error(head: bytes) -> None:
    with pytest.raises(ValueError, match="record"):
        Records().feed(head)
