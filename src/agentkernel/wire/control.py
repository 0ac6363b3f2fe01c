"""Payloads of channel 0.

Source: guest/PROTOCOL.md 3.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from agentkernel.wire.errors import LinkError
from agentkernel.wire.fields import FOREIGN, TEXT, U32, U64, Cursor, Field, Fixed, Many, Payload, decode_exactly
from agentkernel.wire.frames import GENERATION, GuestKind, HostKind

FEATURES = frozenset(
    "exec stdin signal user-root files tar-in pty tar-out stream cgroup mount clock hostname".split()  # noqa: SIM905
)
"""Every feature of this generation; a guest lists each one as had or as refused. What it lists nowhere it does not
have.
"""

_FEATURE = re.compile(r"[a-z0-9-]{1,32}\Z")
MOST_ERRNO = 4095


def check_errno(errno: int, *, least: int) -> None:
    """Raise LinkError unless this is a number that a Linux kernel returns."""
    if not least <= errno <= MOST_ERRNO:
        raise LinkError(f"{errno} is no error number")


@dataclass(frozen=True, slots=True)
class Hello(Payload):
    """Full identity. `clock_ns` counts from 1970; `pids` is 0 for no limit. Of another generation nothing but its
    number is known.
    """

    generation: int
    entropy: bytes
    clock_ns: int
    hostname: str
    machine_id: bytes
    pids: int

    kind: ClassVar[int] = HostKind.HELLO
    layout: ClassVar[tuple[Field, ...]] = (U32, Fixed(32), U64, TEXT, Fixed(16), U32)

    @classmethod
    def decode(cls, payload: bytes | memoryview) -> Hello:
        """As every payload; a host of another generation may say more, or less, after its number."""
        generation = U32.take(Cursor(memoryview(payload)))
        if generation == GENERATION:
            return decode_exactly(cls, payload)
        return cls(generation, bytes(32), 0, "", bytes(16), 0)


@dataclass(frozen=True, slots=True)
class Welcome(Payload):
    """What the guest is. Of another generation nothing but the number, which comes first, is known."""

    generation: int
    features: tuple[str, ...]
    refused: tuple[str, ...]
    facts: tuple[str, ...]

    kind: ClassVar[int] = GuestKind.WELCOME
    layout: ClassVar[tuple[Field, ...]] = (U32, Many(TEXT), Many(TEXT), Many(TEXT))

    @classmethod
    def decode(cls, payload: bytes | memoryview) -> Welcome:
        """As every payload; a guest of another generation may say more, or less, after its number."""
        generation = U32.take(Cursor(memoryview(payload)))
        return decode_exactly(cls, payload) if generation == GENERATION else cls(generation, (), (), ())

    def verify(self) -> None:
        """No feature twice or in both lists, every fact `key=value`, printable, and once."""
        named = (*self.features, *self.refused)
        if len(set(named)) != len(named) or not all(map(_FEATURE.match, named)):
            raise LinkError("a feature is listed twice or has no proper name")
        keys = [fact.partition("=")[0] for fact in self.facts]
        if len(set(keys)) != len(keys) or not all(fact.isprintable() and "=" in fact for fact in self.facts):
            raise LinkError("a fact is not printable `key=value`, or is there twice")


@dataclass(frozen=True, slots=True)
class Refresh(Payload):
    """Clock and entropy alone."""

    clock_ns: int
    entropy: bytes

    kind: ClassVar[int] = HostKind.REFRESH
    layout: ClassVar[tuple[Field, ...]] = (U64, Fixed(32))


@dataclass(frozen=True, slots=True)
class Refreshed(Payload):
    """How many times the guest was given an identity or a refresh."""

    count: int

    kind: ClassVar[int] = GuestKind.REFRESHED
    layout: ClassVar[tuple[Field, ...]] = (U64,)


@dataclass(frozen=True, slots=True)
class Quiesce(Payload):
    """Finish the frame, acknowledge, fall silent."""

    kind: ClassVar[int] = HostKind.QUIESCE


@dataclass(frozen=True, slots=True)
class Quiesced(Payload):
    """The last frame before silence."""

    kind: ClassVar[int] = GuestKind.QUIESCED


@dataclass(frozen=True, slots=True)
class Resume(Payload):
    """Speak again."""

    kind: ClassVar[int] = HostKind.RESUME


@dataclass(frozen=True, slots=True)
class Ping(Payload):
    """Answer with the same number."""

    nonce: int

    kind: ClassVar[int] = HostKind.PING
    layout: ClassVar[tuple[Field, ...]] = (U64,)


@dataclass(frozen=True, slots=True)
class Pong(Payload):
    """The answer, and the guest's load."""

    nonce: int
    processes: int
    available_kib: int
    channels: int

    kind: ClassVar[int] = GuestKind.PONG
    layout: ClassVar[tuple[Field, ...]] = (U64, U32, U64, U32)


@dataclass(frozen=True, slots=True)
class Shutdown(Payload):
    """Sync and power off."""

    kind: ClassVar[int] = HostKind.SHUTDOWN


@dataclass(frozen=True, slots=True)
class Ending(Payload):
    """File systems are synced; nothing follows."""

    kind: ClassVar[int] = GuestKind.ENDING


@dataclass(frozen=True, slots=True)
class Mount(Payload):
    """Mount a disk and bind directories of it. `binds` are `directory:target`."""

    serial: str
    file_system: str
    owner_uid: int
    binds: tuple[str, ...]

    kind: ClassVar[int] = HostKind.MOUNT
    layout: ClassVar[tuple[Field, ...]] = (TEXT, TEXT, U32, Many(FOREIGN))


@dataclass(frozen=True, slots=True)
class Mounted(Payload):
    """How it went: 0, or an error number and what failed."""

    errno: int
    what: str

    kind: ClassVar[int] = GuestKind.MOUNTED
    layout: ClassVar[tuple[Field, ...]] = (U32, FOREIGN)

    def verify(self) -> None:
        """An error number, or 0."""
        check_errno(self.errno, least=0)
