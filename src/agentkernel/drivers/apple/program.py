"""Runs `container`: found on PATH, each command with a deadline and a bounded answer."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import anyio
from anyio.abc import ByteReceiveStream, Process

from agentkernel.drivers.apple.answers import WORDS_KEPT, complaint
from agentkernel.drivers.link import PlainSocket
from agentkernel.model.errors import Broken, Unsupported

ANSWER_BYTES = 8 << 20
COMMAND_S = 30.0
END_GRACE_S = 5.0
WORDS_S = 0.5
USUAL = "/usr/local/bin:/opt/homebrew/bin"
"""Where installers put it; a daemon that the system starts has a short PATH."""


@dataclass(frozen=True, slots=True)
class Attached:
    """A command that runs.

    Attributes:
        stream: its standard input and output.
    """

    stream: PlainSocket
    process: Process

    def kill(self) -> None:
        """End it; nothing to do is fine."""
        with suppress(ProcessLookupError):
            self.process.kill()

    async def last_words(self) -> str:
        """What it wrote to standard error, the first of it; asyncio reads no more ahead than it is asked for."""
        if self.process.stderr is None:
            return ""
        with anyio.move_on_after(WORDS_S), suppress(anyio.EndOfStream, anyio.ClosedResourceError):
            return (await self.process.stderr.receive(WORDS_KEPT)).decode("utf-8", "replace").strip()
        return ""


class Program:
    """The program.

    Args:
        path: folders to look into, as in PATH. Those that depend on the current directory are passed over.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def find(self) -> Path:
        """Raises Unsupported when there is none."""
        for folder in f"{self._path}:{USUAL}".split(":"):
            found = Path(folder) / "container"
            if folder.startswith("/") and found.is_file() and os.access(found, os.X_OK):
                return found
        raise Unsupported(
            "Apple's container is not installed", hint="install it from the releases of github.com/apple/container"
        )

    async def run(self, words: Sequence[str], *, deadline_s: float = COMMAND_S) -> str:
        """Run one command to its end; what it wrote to standard output.

        Raises:
            AgentkernelError: it failed; see `answers.complaint`.
            Broken: it took too long, or said too much.
        """
        process = await self._started(words, subprocess.DEVNULL, subprocess.PIPE)
        said: dict[str, bytes] = {}

        async def read(name: str, stream: ByteReceiveStream | None, most: int) -> None:
            said[name] = await _read(stream, most)

        async with _ending(process):
            with anyio.move_on_after(deadline_s) as scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(read, "out", process.stdout, ANSWER_BYTES)
                    group.start_soon(read, "error", process.stderr, ANSWER_BYTES)
                status = await process.wait()
        if scope.cancelled_caught:
            raise Broken(
                f"container {words[0]} did not end within {deadline_s:.0f} s",
                hint="container system stop, then container system start",
            )
        if status:
            raise complaint(words, status, said["error"].decode("utf-8", "replace"))
        if len(said["out"]) >= ANSWER_BYTES:
            raise Broken(f"container {words[0]} says too much")
        return said["out"].decode("utf-8", "replace")

    @asynccontextmanager
    async def attached(self, words: Sequence[str]) -> AsyncIterator[Attached]:
        """A command whose standard input and output are a stream of ours; it ends with the block."""
        ours, theirs = socket.socketpair()
        async with PlainSocket(ours) as stream:
            with theirs:
                process = await self._started(words, theirs, theirs)
            async with _ending(process):
                yield Attached(stream, process)

    async def _started(self, words: Sequence[str], stdin: int | socket.socket, stdout: int | socket.socket) -> Process:
        program = self.find()
        try:
            return await anyio.open_process(
                [str(program), *words],
                stdin=stdin if isinstance(stdin, int) else stdin.fileno(),
                stdout=stdout if isinstance(stdout, int) else stdout.fileno(),
                stderr=subprocess.PIPE,
                start_new_session=True,  # a terminal's signals are not for it
                cwd="/",
            )
        except OSError as err:
            raise Unsupported(f"{program} cannot be run: {err.strerror}", hint="install it again") from err


async def _read(stream: ByteReceiveStream | None, most: int) -> bytes:
    """All of it, of which the first `most` bytes are kept."""
    kept = b""
    if stream is not None:
        async for piece in stream:
            kept += piece[: most - len(kept)]
    return kept


@asynccontextmanager
async def _ending(process: Process) -> AsyncIterator[None]:
    """The process is gone when the block is left, and collected."""
    try:
        yield
    finally:
        with anyio.move_on_after(END_GRACE_S, shield=True):
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        with anyio.CancelScope(shield=True):
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    await stream.aclose()
