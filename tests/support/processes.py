"""The host's processes of one sandbox, found as an operator would find them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def command_lines() -> Iterator[tuple[int, list[bytes]]]:
    """Every process that can be looked at, and its arguments."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield int(path.parent.name), path.read_bytes().split(b"\0")
        except OSError:
            continue


def processes_of(sandbox: str) -> dict[str, int]:
    """The supervisor of a sandbox and the program that it holds."""
    for supervisor, words in command_lines():
        if words[:2] == [b"agentkernel-sandbox", sandbox.encode()]:
            children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
            return {"supervisor": supervisor, "program": int(children[0])}
    raise AssertionError(f"sandbox {sandbox} has no processes")


def naming(word: str) -> list[int]:
    """Processes that have that word somewhere in their arguments."""
    return [pid for pid, words in command_lines() if any(word.encode() in each for each in words)]
