"""The programs that a simulated guest knows.

echo WORD...      its words and a newline           cat              its input, to the end of it
true, false       exit 0, exit 1                    err WORD...      as echo, on standard error
exit N            exit N                            env, pwd         as everywhere
sleep SECONDS     wait; on the event loop's clock   yes              `y` for ever, as fast as it is read
die               output, then the sandbox is gone  hang             never answers, not even that it has started
deaf              the whole guest stops answering
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import anyio

from agentkernel.wire.program import Exec, Stderr, Stdout


class Surroundings(Protocol):
    """What a program sees of its guest."""

    request: Exec

    async def emit(self, kind: type[Stdout] | type[Stderr], data: bytes) -> None:
        """Write output, waiting for the host to read."""

    async def read(self) -> bytes:
        """Some input; b"" at its end."""

    def end_guest(self) -> None:
        """Let the whole guest die."""


Program = Callable[[Surroundings], Awaitable[int]]


async def _echo(here: Surroundings) -> int:
    await here.emit(Stdout, b" ".join(here.request.argv[1:]) + b"\n")
    return 0


async def _err(here: Surroundings) -> int:
    await here.emit(Stderr, b" ".join(here.request.argv[1:]) + b"\n")
    return 0


async def _cat(here: Surroundings) -> int:
    while data := await here.read():
        await here.emit(Stdout, data)
    return 0


async def _true(here: Surroundings) -> int:
    return 0


async def _false(here: Surroundings) -> int:
    return 1


async def _exit(here: Surroundings) -> int:
    return int(here.request.argv[1])


async def _env(here: Surroundings) -> int:
    await here.emit(Stdout, b"".join(entry + b"\n" for entry in here.request.env))
    return 0


async def _pwd(here: Surroundings) -> int:
    await here.emit(Stdout, here.request.cwd.encode() + b"\n")
    return 0


async def _sleep(here: Surroundings) -> int:
    await anyio.sleep(float(here.request.argv[1]))
    return 0


async def _yes(here: Surroundings) -> int:
    while True:
        await here.emit(Stdout, b"y\n" * 8192)


async def _die(here: Surroundings) -> int:
    await here.emit(Stdout, b"last words\n")
    here.end_guest()
    return await _hang(here)


async def _hang(here: Surroundings) -> int:
    await anyio.sleep_forever()
    return 0


PROGRAMS: dict[bytes, Program] = {
    b"echo": _echo,
    b"err": _err,
    b"cat": _cat,
    b"true": _true,
    b"false": _false,
    b"exit": _exit,
    b"env": _env,
    b"pwd": _pwd,
    b"sleep": _sleep,
    b"yes": _yes,
    b"die": _die,
    b"hang": _hang,
    b"deaf": _hang,
}
"""Name, as the last component of argv[0], to what it does."""
