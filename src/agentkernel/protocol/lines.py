"""Bytes to lines, with a cap on the length of a line and so on memory."""

from __future__ import annotations

from dataclasses import dataclass

LINE_CAP_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class TooLong:
    """A line of more than `cap_bytes`; what else comes of it is skipped."""

    cap_bytes: int


class LineSplitter:
    """Splits a stream at newlines. Holds at most `cap_bytes` of an unfinished line, and looks at each byte once.

    Args:
        cap_bytes: longest line, the newline not counted.
    """

    def __init__(self, cap_bytes: int = LINE_CAP_BYTES) -> None:
        self._cap_bytes = cap_bytes
        self._begun = bytearray()
        self._skipping = False

    def feed(self, data: bytes) -> list[bytes | TooLong]:
        """Lines that these bytes complete, without their newline. An over-long line is reported once, as soon as that
        is certain.
        """
        found: list[bytes | TooLong] = []
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            self._extend(data, start, end, found)
            if not self._skipping:
                found.append(bytes(self._begun))
            self._begun.clear()
            self._skipping = False
            start = end + 1
        self._extend(data, start, len(data), found)
        return found

    def finish(self) -> list[bytes | TooLong]:
        """At the end of the stream: a last line without newline is a line too."""
        found: list[bytes | TooLong] = [bytes(self._begun)] if self._begun else []
        self._begun.clear()
        self._skipping = False
        return found

    def _extend(self, data: bytes, start: int, end: int, found: list[bytes | TooLong]) -> None:
        if self._skipping:
            return
        if len(self._begun) + end - start > self._cap_bytes:
            found.append(TooLong(self._cap_bytes))
            self._begun.clear()
            self._skipping = True
        else:
            self._begun += data[start:end]
