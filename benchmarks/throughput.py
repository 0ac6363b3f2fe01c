"""Standard output through each part of its way: the agent alone, the microVM alone, and the whole path."""

from __future__ import annotations

import functools
import json
import platform
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from common import Daemon, Report, arguments, daemon, say
from machines import host

import agentkernel
from agentkernel.drivers.contract import Guest
from agentkernel.drivers.link import LinkGuest, PlainSocket
from agentkernel.engine.sandbox import new_identity
from agentkernel.model.execution import ExecRequest, Stdout

MIB = 1024 * 1024
PATH = (b"PATH=/usr/bin:/bin",)
CREDIT_BYTES = 262_144


async def main(rounds: int, mib: int, vm_mib: int, *, as_json: bool) -> None:
    """Measure and print."""
    report = Report("throughput")
    say("the agent on this host, without a machine around it")
    async with _native_agent() as guest:
        report.add("LinkGuest, agent on the host", [await _drain(guest, mib) for _ in range(rounds)], "MB/s")
    say("in a microVM")
    async with host() as here, here.booted() as (guest, _):
        report.add("LinkGuest, microVM", [await _drain(guest, vm_mib) for _ in range(rounds)], "MB/s")
    say("through the daemon")
    with daemon() as running:
        before = _resident_mib(running)
        figures = await anyio.to_thread.run_sync(lambda: _streams(running, rounds, vm_mib))
        report.add("exec_start, microVM, whole path", figures, "MB/s")
        report.add("memory that the daemon grew by", [_resident_mib(running) - before], "MiB")
    say("through the daemon, a simulated guest")
    with daemon(simulated=True) as running:
        figures = await anyio.to_thread.run_sync(lambda: _streams(running, rounds, mib, "yes"))
        report.add("exec_start, simulated guest", figures, "MB/s")
    report.finish(as_json=as_json)


def _writer(mib: int) -> tuple[str, ...]:
    return ("dd", "if=/dev/zero", "bs=65536", f"count={mib * 16}", "status=none")


async def _drain(guest: Guest, mib: int) -> float:
    """MB/s of standard output, read and thrown away."""
    argv = tuple(
        word.encode() for word in _writer(mib) if guest.facts.facts["transport"] == "stdio" or "status" not in word
    )
    began, size = time.perf_counter(), 0
    async for event in await guest.exec(ExecRequest(argv, PATH, cwd="/")):
        if isinstance(event, Stdout):
            size += len(event.data)
    assert size == mib * MIB, f"{size} bytes came"
    return size / 1e6 / (time.perf_counter() - began)


@asynccontextmanager
async def _native_agent() -> AsyncIterator[Guest]:
    """The real agent as a process of this host."""
    program = Path(agentkernel.__file__).parent / "_bin" / f"agent-{platform.machine()}"
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen([program, "--stdio"], stdin=theirs, stdout=theirs)  # noqa: ASYNC220
    try:
        async with PlainSocket(ours) as stream, LinkGuest.attach(stream, new_identity()) as guest:
            yield guest
    finally:
        process.kill()
        process.wait()


def _streams(running: Daemon, rounds: int, mib: int, program: str = "") -> list[float]:
    """Over a lease, once the sandbox that replaces it has booted: it would take a core meanwhile."""
    with running.connect() as connection:
        lease = connection.ask("acquire", runtime="base")["id"]
        running.wait_warm(connection)
        return [_streamed(running, lease, mib, program) for _ in range(rounds)]


def _streamed(running: Daemon, lease: str, mib: int, program: str) -> float:
    """MB/s of decoded output at a client that reads as fast as it can, from the first byte on."""
    command = [program] if program else list(_writer(mib)[:-1])
    message = {"cmd": "exec_start", "runtime": "base", "command": command, "request_id": "r", "sandbox": lease}
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(running.home / "daemon.sock"))
        client.sendall(json.dumps(message).encode() + b"\n")
        lines = client.makefile("rb", buffering=MIB)
        size, owed, began = 0, 0, 0.0
        for line in lines:
            event = json.loads(line)
            if event["type"] == "error":
                raise RuntimeError(event["message"])
            if event["type"] == "exit" or size >= mib * MIB:
                break
            if event["type"] == "stdout":
                began = began or time.perf_counter()
                count = len(event["data_base64"]) * 3 // 4
                size, owed = size + count, owed + count
            if owed >= CREDIT_BYTES:
                client.sendall(b'{"cmd":"credit","request_id":"r","bytes":%d}\n' % owed)
                owed = 0
        return size / 1e6 / (time.perf_counter() - began)


def _resident_mib(running: Daemon) -> float:
    lines = Path(f"/proc/{running.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


if __name__ == "__main__":
    options = arguments(__doc__, rounds=3, mib=256, vm_mib=64)
    run = functools.partial(main, options.rounds, options.mib, options.vm_mib, as_json=options.json)
    sys.exit(anyio.run(run))
