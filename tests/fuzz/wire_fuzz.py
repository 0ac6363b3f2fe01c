"""Coverage-guided fuzzing of both ends of the guest link. Run it with libFuzzer's arguments:

    python tests/fuzz/wire_fuzz.py -max_total_time=60 [corpus directory]

The first byte of an input chooses what is fed and how large its chunks are; any exception but LinkError is a crash.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["agentkernel"]):
    from agentkernel.model.execution import ExecRequest
    from agentkernel.wire import GuestLink, HostLink, LinkError, attach, control, files, program
    from agentkernel.wire.fields import Payload
    from agentkernel.wire.frames import HEADER, encode_frame

EPOCH = bytes(range(1, 17))
TAG = EPOCH[:4]
HELLO = control.Hello(1, bytes(32), 0, "h", bytes(16), 0)
ASKED: list[Payload] = [HELLO, control.Ping(1), control.Refresh(0, bytes(32)), control.Mount("s", "f", 0, ())]
REQUESTS: list[Payload] = [
    program.Exec.of(ExecRequest((b"a",), stdin=True)),
    files.Read("/a", 0, 1000),
    files.Write("/a", 0, 0, ""),
    files.ListDirectory("/a"),
    files.Stat("/a"),
]


def framed(noise: bytes) -> bytes:
    """Noise with true headers in front of its pieces, so that the fuzzer need not guess tags and lengths."""
    frames, at = [], 0
    while at + 3 <= len(noise):
        number, kind, length = noise[at : at + 3]
        payload = noise[at + 3 : at + 3 + length]
        frames.append(HEADER.pack(TAG, len(payload), number % 8, kind) + payload)
        at += 3 + length
    return b"".join(frames)


def feed_host(stream: bytes, size: int) -> None:
    """A host that waits for everything."""
    link = HostLink(EPOCH)
    link.feed(attach.encode_echo(EPOCH))
    for message in ASKED:
        link.send_control(message)
    for request in REQUESTS:
        link.send_request(request)
    try:
        for at in range(0, len(stream), size):
            link.feed(stream[at : at + size])
    except LinkError as error:
        assert error.reason.isprintable()


def feed_guest(stream: bytes, size: int) -> None:
    """A guest that was greeted; whatever comes, it can be attached to again."""
    link = GuestLink()
    link.feed(attach.encode_attach(EPOCH) + encode_frame(TAG, 0, HELLO.kind, HELLO.encode()))
    for at in range(0, len(stream), size):
        link.feed(stream[at : at + size])
        link.replies()
    link.feed(bytes(70_000) + attach.encode_attach(bytes(16)))
    assert link.replies().endswith(attach.encode_echo(bytes(16)))


def one_input(data: bytes) -> None:
    """One run of the fuzzer."""
    if not data:
        return
    choice, noise = data[0], data[1:]
    stream = framed(noise) if choice & 1 else noise
    size = 1 + (choice >> 2) * 7
    (feed_guest if choice & 2 else feed_host)(stream, size)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
