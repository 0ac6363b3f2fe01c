"""How fast the guest link is: the real agent on a socketpair, and the parser alone. Prints a table.

python benchmarks/guest_link.py [path of an agent]
"""

from __future__ import annotations

import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
from anyio.abc import UNIXSocketStream

from agentkernel.drivers.link import LinkGuest
from agentkernel.model.execution import ExecRequest, Stdout
from agentkernel.model.readiness import Identity
from agentkernel.wire.frames import FrameReader, encode_frame

AGENT = Path(__file__).parents[1] / "src" / "agentkernel" / "_bin" / f"agent-{platform.machine()}"
ENV = (b"PATH=/usr/bin:/bin",)
ROUNDS = 500
BULK_BYTES = 100_000_000


def row(name: str, value: str) -> None:
    """One line of the table."""
    print(f"{name:<42} {value:>24}")


async def latency(name: str, act: Callable[[], Awaitable[object]]) -> None:
    """Median and 99th percentile of one operation at a time."""
    took = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        await act()
        took.append((time.perf_counter() - began) * 1e6)
    took.sort()
    row(name, f"p50 {took[ROUNDS // 2]:6.0f} p99 {took[ROUNDS * 99 // 100]:6.0f} us")


async def throughput(name: str, act: Callable[[], Awaitable[int]]) -> None:
    """Bytes of one operation by its time."""
    began = time.perf_counter()
    size = await act()
    row(name, f"{size / 1e6 / (time.perf_counter() - began):6.0f} MB/s")


def parse_alone() -> None:
    """Frames of 64 KiB through the reader, in chunks as a socket gives them."""
    frame = encode_frame(b"\1\2\3\4", 1, 81, bytes(65_536))
    stream = frame * 64
    chunks = [stream[at : at + 262_144] for at in range(0, len(stream), 262_144)]
    reader, size, began = FrameReader(b"\1\2\3\4"), 0, time.perf_counter()
    for _ in range(20):
        for chunk in chunks:
            size += sum(len(bytes(payload)) for _, _, payload in reader.frames(chunk))
    row("parse frames of 64 KiB", f"{size / 1e6 / (time.perf_counter() - began):6.0f} MB/s")


async def measure(guest: LinkGuest, place: str) -> None:
    """Every operation that a caller waits for."""

    async def run(*argv: bytes) -> int:
        return sum([len(each.data) async for each in await guest.exec(request(*argv)) if isinstance(each, Stdout)])

    def request(*argv: bytes) -> ExecRequest:
        return ExecRequest(argv, ENV, cwd="/")

    async def write() -> int:
        await guest.write_file(f"{place}/file", bytes(BULK_BYTES))
        return BULK_BYTES

    async def read() -> int:
        return len(await guest.read_file(f"{place}/file"))

    await latency("ping", guest.ping)
    await latency("stat", lambda: guest.stat("/"))
    await latency("exec true, to its exit", lambda: run(b"/bin/true"))
    await throughput("output of one program", lambda: run(b"head", b"-c", b"%d" % BULK_BYTES, b"/dev/zero"))
    await throughput("write a file", write)
    await throughput("read a file", read)


async def main() -> None:
    """Start an agent, measure, end it."""
    program = sys.argv[1] if len(sys.argv) > 1 else str(AGENT)
    parse_alone()
    ours, theirs = socket.socketpair()
    with theirs, tempfile.TemporaryDirectory() as place:
        await anyio.Path(place).chmod(0o777)
        with subprocess.Popen([program, "--stdio"], stdin=theirs, stdout=theirs):  # noqa: ASYNC220  # nothing else runs
            theirs.close()
            identity = Identity("benchmark", bytes(16))
            async with (
                await UNIXSocketStream.from_socket(ours) as stream,
                LinkGuest.attach(stream, identity) as guest,
            ):
                await measure(guest, place)


if __name__ == "__main__":
    anyio.run(main)
