"""A tiny host for the guest link, independent of `agentkernel.wire`, so that one mistake cannot be made twice alike."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

WINDOW_BYTES = 262_144
PAYLOAD_MOST_BYTES = 65_536
DEADLINE_S = 20.0

HELLO, REFRESH, QUIESCE, RESUME, PING, SHUTDOWN, MOUNT = 1, 2, 3, 4, 5, 6, 7
PART, EXEC, STDIN, STDIN_END, SIGNAL, RESIZE, KILL, CREDIT = 15, 16, 17, 18, 19, 20, 21, 22
READ, WRITE, TAR_IN, STAT, LIST, MKDIR, REMOVE, RENAME = 32, 33, 34, 35, 36, 37, 38, 39
DATA, END, CANCEL = 48, 49, 50
WELCOME, REFRESHED, QUIESCED, PONG, ENDING, MOUNTED = 65, 66, 67, 69, 70, 71
STARTED, STDOUT, STDERR, EXIT, FAILED, CREDIT_BACK = 80, 81, 82, 83, 84, 86
DATA_BACK, ENTRIES, DONE = 96, 97, 98


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return u32(len(raw)) + raw


def texts(values: Sequence[str | bytes]) -> bytes:
    return u32(len(values)) + b"".join(text(value) for value in values)


def record(magic: bytes, epoch: bytes) -> bytes:
    head = magic + epoch
    return head + u32(zlib.crc32(head))


class Frame(NamedTuple):
    channel: int
    kind: int
    payload: bytes


class Ended(NamedTuple):
    """What one command did: streams, `how` and code of EXIT, or errno and text of FAILED."""

    pid: int
    stdout: bytes
    stderr: bytes
    how: int
    code: int
    errno: int
    what: str


class LinkClosedError(Exception):
    """The agent closed the stream."""


class Peer:
    """The host's end of one link over a connected socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(DEADLINE_S)
        self.buffer = bytearray()
        self.tag = b""
        self.next_channel = 1
        self.stray: list[Frame] = []
        self.environment: dict[str, str] = {}

    def send(self, raw: bytes) -> None:
        self.sock.sendall(raw)

    def frame(self, channel: int, kind: int, payload: bytes = b"") -> bytes:
        return self.tag + struct.pack("<IIB3x", len(payload), channel, kind) + payload

    def tell(self, channel: int, kind: int, payload: bytes = b"") -> None:
        self.send(self.frame(channel, kind, payload))

    def fill(self) -> None:
        got = self.sock.recv(1 << 16)
        if not got:
            raise LinkClosedError
        self.buffer += got

    def attach(self, epoch: bytes | None = None) -> bytes:
        """Sends ATTACH and throws everything away until the ECHO; returns what was thrown away."""
        epoch = epoch or os.urandom(16)
        self.send(record(b"AKLINK-ATT1\n", epoch))
        echo = record(b"AKLINK-ECH1\n", epoch)
        while echo not in self.buffer:
            self.fill()
        at = self.buffer.index(echo)
        thrown = bytes(self.buffer[:at])
        del self.buffer[: at + len(echo)]
        self.tag = epoch[:4]
        self.next_channel = 1
        self.stray.clear()
        return thrown

    def hello_payload(self, pids: int = 0, generation: int = 1) -> bytes:
        clock = time.time_ns()
        return u32(generation) + os.urandom(32) + u64(clock) + text("sandbox-test") + os.urandom(16) + u32(pids)

    def greet(self, pids: int = 0) -> Frame:
        self.tell(0, HELLO, self.hello_payload(pids))
        return self.wait_for(0, WELCOME)

    def receive(self) -> Frame:
        while len(self.buffer) < 16:
            self.fill()
        assert bytes(self.buffer[:4]) == self.tag, f"no frame of this epoch: {bytes(self.buffer[:16])!r}"
        length, channel, kind = struct.unpack("<IIB3x", self.buffer[4:16])
        assert length <= PAYLOAD_MOST_BYTES
        while len(self.buffer) < 16 + length:
            self.fill()
        payload = bytes(self.buffer[16 : 16 + length])
        del self.buffer[: 16 + length]
        return Frame(channel, kind, payload)

    def wait_for(self, channel: int, *kinds: int) -> Frame:
        """The next frame of these kinds on that channel; others are kept for later."""
        for i, frame in enumerate(self.stray):
            if frame.channel == channel and frame.kind in kinds:
                return self.stray.pop(i)
        while True:
            frame = self.receive()
            if frame.channel == channel and frame.kind in kinds:
                return frame
            self.stray.append(frame)

    def silent_for(self, seconds: float) -> bool:
        self.sock.settimeout(seconds)
        try:
            self.fill()
        except TimeoutError:
            return True
        finally:
            self.sock.settimeout(DEADLINE_S)
        return False

    def ping(self, nonce: int = 7) -> tuple[int, int, int]:
        """Processes, available KiB, open channels."""
        self.tell(0, PING, u64(nonce))
        got, processes, memory_kib, channels = struct.unpack("<QIQI", self.wait_for(0, PONG).payload)
        assert got == nonce
        return processes, memory_kib, channels

    def channel(self) -> int:
        self.next_channel += 1
        return self.next_channel - 1

    def start(
        self,
        argv: Sequence[str | bytes],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        user: str = "",
        flags: int = 0,
        rlimits: Iterable[tuple[int, int, int]] = (),
        part_bytes: int = PAYLOAD_MOST_BYTES,
    ) -> int:
        """Sends EXEC (after PARTs, when it is long) on a new channel."""
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", **self.environment} if env is None else env
        limits = list(rlimits)
        request = u32(flags) + u32(0) + u32(0) + texts(argv)
        request += texts([f"{name}={value}" for name, value in environment.items()]) + text(cwd) + text(user)
        request += u32(len(limits)) + b"".join(struct.pack("<IQQ", *limit) for limit in limits)
        channel = self.channel()
        while len(request) > part_bytes:
            self.tell(channel, PART, request[:part_bytes])
            request = request[part_bytes:]
        self.tell(channel, EXEC, request)
        return channel

    def finish(self, channel: int) -> Ended:
        """Collects a command's output, giving credit, until it is over."""
        streams = {STDOUT: bytearray(), STDERR: bytearray()}
        pid = 0
        while True:
            frame = self.wait_for(channel, STARTED, STDOUT, STDERR, EXIT, FAILED)
            if frame.kind == STARTED:
                (pid,) = struct.unpack("<I", frame.payload)
            elif frame.kind in streams:
                assert frame.payload, "an empty piece of output"
                streams[frame.kind] += frame.payload
                self.tell(channel, CREDIT, u32(len(frame.payload)))
            elif frame.kind == EXIT:
                how, code = struct.unpack("<BI", frame.payload[:5])
                assert len(frame.payload) == 29
                return Ended(pid, bytes(streams[STDOUT]), bytes(streams[STDERR]), how, code, 0, "")
            else:
                return Ended(pid, b"", b"", -1, -1, *failure(frame))

    def run(self, argv: Sequence[str | bytes], **keywords: object) -> Ended:
        return self.finish(self.start(argv, **keywords))  # type: ignore[arg-type]

    def ask(self, kind: int, payload: bytes) -> Frame:
        """A file request that is answered at once: its DONE or FAILED."""
        channel = self.channel()
        self.tell(channel, kind, payload)
        return self.wait_for(channel, DONE, FAILED)

    def upload(self, kind: int, payload: bytes, content: bytes, piece_bytes: int = PAYLOAD_MOST_BYTES) -> Frame:
        """WRITE or TAR_IN with its data, kept within the window."""
        channel = self.channel()
        self.tell(channel, kind, payload)
        credit = WINDOW_BYTES
        while content:
            piece = content[: min(piece_bytes, credit)]
            content = content[len(piece) :]
            credit -= len(piece)
            self.tell(channel, DATA, piece)
            while credit == 0:
                frame = self.wait_for(channel, CREDIT_BACK, FAILED)
                if frame.kind == FAILED:
                    return frame
                credit += struct.unpack("<I", frame.payload)[0]
        self.tell(channel, END)
        return self.wait_for(channel, DONE, FAILED)

    def download(self, path: str, offset: int = 0, most: int = 2**64 - 1) -> tuple[bytes, Frame]:
        channel = self.channel()
        self.tell(channel, READ, text(path) + u64(offset) + u64(most))
        content = bytearray()
        while True:
            frame = self.wait_for(channel, DATA_BACK, DONE, FAILED)
            if frame.kind != DATA_BACK:
                return bytes(content), frame
            content += frame.payload
            self.tell(channel, CREDIT, u32(len(frame.payload)))


def failure(frame: Frame) -> tuple[int, str]:
    assert frame.kind == FAILED, frame
    number, length = struct.unpack("<II", frame.payload[:8])
    assert len(frame.payload) == 8 + length
    return number, frame.payload[8:].decode(errors="replace")


class Agent:
    """An agent process on a socketpair: its descriptors 0 and 1 are one end, the peer has the other."""

    def __init__(self, program: Path, *options: str, **keywords: object) -> None:
        ours, theirs = socket.socketpair()
        self.log = b""
        self.process = subprocess.Popen(
            [str(program), *options, "--stdio"],
            stdin=theirs,
            stdout=theirs,
            stderr=subprocess.PIPE,
            **keywords,  # type: ignore[call-overload]
        )
        theirs.close()
        self.peer = Peer(ours)

    def close(self) -> int:
        """Ends the stream; the agent must then end everything and itself."""
        self.peer.sock.close()
        _, self.log = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode
