"""Captured bytes to reply text, under a cap that holds for the text as it stands encoded in the reply."""

from __future__ import annotations

import codecs
from dataclasses import dataclass

import msgspec

OUTPUT_CAP_BYTES = 4 * 1024 * 1024
_STEP_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Text:
    """One stream of a reply.

    Attributes:
        text: at most the cap when encoded as JSON; U+FFFD for what is not UTF-8.
        raw: the bytes that `text` stands for, when it lost something; else None. Their base64 is at most 4/3 of the
            cap plus 4.
        dropped_bytes: how many bytes of output `text` does not stand for.
    """

    text: str
    raw: bytes | None
    dropped_bytes: int


class Capture:
    """Keeps the first bytes of one stream and counts the rest; memory stays below twice the cap however much comes.

    A byte of output never takes less than a byte of encoded text, so more than the cap need never be kept.

    Args:
        cap_bytes: the most that `text` may take in the reply, its JSON escapes included and its quotes not.
    """

    def __init__(self, cap_bytes: int = OUTPUT_CAP_BYTES) -> None:
        self._cap_bytes = cap_bytes
        self._kept = bytearray()
        self.total_bytes = 0

    def feed(self, data: bytes) -> None:
        """More output."""
        self._kept += data[: self._cap_bytes - len(self._kept)]
        self.total_bytes += len(data)

    def text(self) -> Text:
        """What the reply says. A cut never falls inside a character, so it invents no U+FFFD."""
        kept = bytes(self._kept)
        text, used = _fit(kept, self._cap_bytes, complete=len(kept) == self.total_bytes)
        raw = None if text.encode() == kept[:used] else kept[:used]
        return Text(text, raw, self.total_bytes - used)


def truncation(stdout: Text, stderr: Text) -> dict[str, int] | None:
    """The reply's `truncated`: bytes dropped per stream that was cut; None when nothing was."""
    cut = {"stdout": stdout.dropped_bytes, "stderr": stderr.dropped_bytes}
    return {name: dropped for name, dropped in cut.items() if dropped} or None


def encoded_bytes(text: str) -> int:
    """How long a text is inside a JSON string: escapes counted, quotes not."""
    return len(msgspec.json.encode(text)) - 2


def _fit(kept: bytes, cap_bytes: int, *, complete: bool) -> tuple[str, int]:
    """The longest text that fits, and how many bytes it stands for. An unfinished character at the end counts only if
    `complete`.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    texts: list[str] = []
    used = size = 0
    for start in range(0, len(kept), _STEP_BYTES):
        step = kept[start : start + _STEP_BYTES]
        text = decoder.decode(step, complete and start + len(step) == len(kept))
        end = start + len(step) - len(decoder.getstate()[0])
        size += encoded_bytes(text)
        if size > cap_bytes:
            last, last_used = _cut(kept[used:end], cap_bytes - size + encoded_bytes(text))
            return "".join([*texts, last]), used + last_used
        texts.append(text)
        used = end
    return "".join(texts), used


def _cut(piece: bytes, cap_bytes: int) -> tuple[str, int]:
    """As `_fit`, for a piece that begins and ends between characters and does not fit as a whole: one character at a
    time.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    texts: list[str] = []
    used = size = 0
    for index in range(len(piece)):
        text = decoder.decode(piece[index : index + 1])
        size += encoded_bytes(text)
        if size > cap_bytes:
            break
        if text:
            texts.append(text)
            used = index + 1 - len(decoder.getstate()[0])
    return "".join(texts), used
