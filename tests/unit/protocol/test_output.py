"""Captured bytes to reply text."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentkernel.protocol import output
from agentkernel.protocol.output import Capture, Text, truncation


def captured(data: bytes, cap_bytes: int) -> Text:
    capture = Capture(cap_bytes)
    for start in range(0, len(data), 7):
        capture.feed(data[start : start + 7])
    return capture.text()


def test_text_under_the_cap_is_whole() -> None:
    assert captured("grüße\n".encode(), 100) == Text("grüße\n", None, 0)


def test_bytes_that_are_no_text_come_beside_it() -> None:
    assert captured(b"a\xffb", 100) == Text("a\ufffdb", b"a\xffb", 0)


def test_a_true_replacement_character_is_no_loss() -> None:
    assert captured("\ufffd".encode(), 100) == Text("\ufffd", None, 0)


def test_escapes_count_against_the_cap() -> None:
    assert captured(b"\x00" * 10, 13) == Text("\x00\x00", None, 8)
    assert captured(b'"""', 5) == Text('""', None, 1)


def test_a_cut_never_falls_inside_a_character() -> None:
    assert captured("äöü".encode(), 3) == Text("ä", None, 4)
    assert captured("😀😀".encode(), 7) == Text("😀", None, 4)


def test_a_program_that_ends_inside_a_character_is_told_truthfully() -> None:
    assert captured(b"a\xf0\x9f", 100) == Text("a\ufffd", b"a\xf0\x9f", 0)


def test_an_unfinished_character_that_does_not_fit_is_dropped() -> None:
    assert captured(b"aaaa\xf0\x9f", 6) == Text("aaaa", None, 2)


def test_a_hundred_megabytes_stay_flat() -> None:
    capture = Capture()
    for _ in range(1600):
        capture.feed(bytes(64 * 1024))
    assert len(capture._kept) == output.OUTPUT_CAP_BYTES
    assert capture.total_bytes == 100 * 1024 * 1024
    text = capture.text()
    assert len(text.text) == output.OUTPUT_CAP_BYTES // 6
    assert text.dropped_bytes == capture.total_bytes - len(text.text)


def test_truncated_is_absent_when_nothing_was_cut() -> None:
    whole, cut = Text("", None, 0), Text("", None, 5)
    assert truncation(whole, whole) is None
    assert truncation(whole, cut) == {"stderr": 5}
    assert truncation(cut, cut) == {"stdout": 5, "stderr": 5}


PIECES = st.one_of(st.binary(max_size=4), st.text(max_size=4).map(lambda text: text.encode("utf-8", "replace")))


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of five bytes meet every kind of border soon."""
    monkeypatch.setattr(output, "_STEP_BYTES", 5)


def test_any_output_fits_and_is_accounted_for() -> None:
    @given(st.lists(PIECES, max_size=20).map(b"".join), st.integers(0, 60))
    @example(b"\xf0\x9f\x98", 3)
    @example(b"aaaa\xc3\xa4", 5)
    def check(data: bytes, cap_bytes: int) -> None:
        found = captured(data, cap_bytes)
        used = len(data) - found.dropped_bytes
        assert output.encoded_bytes(found.text) <= cap_bytes
        assert len(json.dumps(found.text, ensure_ascii=False).encode()) >= len(found.text.encode())
        assert data[:used].decode("utf-8", "replace") == found.text, "stands for exactly these bytes"
        lossless = found.text.encode() == data[:used]
        assert (found.raw is None) == lossless
        assert found.raw in {None, data[:used]}
        if found.dropped_bytes:
            following = data[:used].decode("utf-8", "replace"), data.decode("utf-8", "replace")
            assert following[1].startswith(following[0]), "a cut invents nothing"

    check()
