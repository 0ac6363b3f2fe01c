"""Bytes to lines."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentkernel.protocol.lines import LineSplitter, TooLong


def test_many_lines_in_one_chunk_come_in_order() -> None:
    assert LineSplitter().feed(b"a\nb\n\nc") == [b"a", b"b", b""]


def test_a_line_may_come_in_pieces() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b"ab") == []
    assert splitter.feed(b"c") == []
    assert splitter.feed(b"\n") == [b"abc"]


def test_a_line_of_exactly_the_cap_is_taken() -> None:
    assert LineSplitter(4).feed(b"abcd\n") == [b"abcd"]


def test_an_over_long_line_is_reported_once_and_its_rest_skipped() -> None:
    splitter = LineSplitter(4)
    assert splitter.feed(b"abcde") == [TooLong(4)]
    assert splitter.feed(b"fgh" * 100) == []
    assert splitter.feed(b"end\nnext\n") == [b"next"]


def test_an_over_long_line_in_one_chunk_leaves_its_neighbours() -> None:
    assert LineSplitter(4).feed(b"a\nabcdefgh\nb\n") == [b"a", TooLong(4), b"b"]


def test_a_last_line_without_newline_is_a_line() -> None:
    splitter = LineSplitter()
    splitter.feed(b"a\nlast")
    assert splitter.finish() == [b"last"]
    assert splitter.finish() == []


def test_the_rest_of_a_skipped_line_is_no_line_at_the_end() -> None:
    splitter = LineSplitter(2)
    assert splitter.feed(b"abc") == [TooLong(2)]
    assert splitter.finish() == []


@given(st.lists(st.binary(max_size=12)), st.integers(1, 8))
def test_any_chunking_gives_the_same_lines(chunks: list[bytes], cap_bytes: int) -> None:
    whole = LineSplitter(cap_bytes)
    expected = whole.feed(b"".join(chunks)) + whole.finish()
    splitter = LineSplitter(cap_bytes)
    found = [line for chunk in chunks for line in splitter.feed(chunk)] + splitter.finish()
    assert found == expected
    lines = b"".join(chunks).split(b"\n")
    lines = lines if lines[-1] else lines[:-1]
    assert found == [line if len(line) <= cap_bytes else TooLong(cap_bytes) for line in lines]
