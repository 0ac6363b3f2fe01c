"""Writes the vectors; see README.md. Run it in this folder after changing the protocol, and read the difference."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

HERE = Path(__file__).parent
EPOCH = bytes(range(0x10, 0x20))
TAG = EPOCH[:4]
Field = tuple[str, str, object]

KINDS = {
    "HELLO": 1,
    "REFRESH": 2,
    "QUIESCE": 3,
    "RESUME": 4,
    "PING": 5,
    "SHUTDOWN": 6,
    "MOUNT": 7,
    "PART": 15,
    "EXEC": 16,
    "STDIN": 17,
    "STDIN_END": 18,
    "SIGNAL": 19,
    "RESIZE": 20,
    "KILL": 21,
    "CREDIT": 22,
    "READ": 32,
    "WRITE": 33,
    "TAR_IN": 34,
    "STAT": 35,
    "LIST": 36,
    "MKDIR": 37,
    "REMOVE": 38,
    "RENAME": 39,
    "DATA": 48,
    "END": 49,
    "CANCEL": 50,
}
GUEST_KINDS = {
    "WELCOME": 65,
    "REFRESHED": 66,
    "QUIESCED": 67,
    "PONG": 69,
    "ENDING": 70,
    "MOUNTED": 71,
    "STARTED": 80,
    "STDOUT": 81,
    "STDERR": 82,
    "EXIT": 83,
    "FAILED": 84,
    "CREDIT": 86,
    "DATA": 96,
    "ENTRIES": 97,
    "DONE": 98,
}


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def string(value: str) -> bytes:
    raw = value.encode()
    return u32(len(raw)) + raw


def record(magic: bytes, epoch: bytes) -> bytes:
    return magic + epoch + u32(zlib.crc32(magic + epoch))


def frame(channel: int, kind: int, payload: bytes, tag: bytes = TAG) -> bytes:
    return tag + struct.pack("<IIB3x", len(payload), channel, kind) + payload


def shown(raw: bytes) -> str:
    return raw.hex() or "-"


def encode_entry(entry: Sequence[object]) -> bytes:
    name, letter, *numbers = entry
    return string(str(name)) + str(letter).encode() + struct.pack("<IQQII", *numbers)


def encode(kind: str, value: object) -> bytes:
    match kind, value:
        case "u8", int():
            return struct.pack("<B", value)
        case "u32", int():
            return u32(value)
        case "u64", int():
            return struct.pack("<Q", value)
        case "str", str():
            return string(value)
        case "hex", bytes():
            return value
        case "list", list():
            return u32(len(value)) + b"".join(string(item) for item in value)
        case "limits", list():
            return u32(len(value)) + b"".join(struct.pack("<IQQ", *item) for item in value)
        case "entry", tuple():
            return encode_entry(value)
        case "entries", list():
            return u32(len(value)) + b"".join(encode_entry(item) for item in value)
    raise ValueError(kind)


def show_entry(entry: Sequence[object]) -> str:
    name, *rest = entry
    return "|".join([quote(str(name), safe=""), *map(str, rest)])


def show(kind: str, value: object) -> str:
    match kind, value:
        case (("u8" | "u32" | "u64"), _):
            return str(value)
        case "str", str():
            return quote(value, safe="/")
        case "hex", bytes():
            return shown(value)
        case "list", list():
            return ",".join([str(len(value)), *(quote(item, safe="/") for item in value)])
        case "limits", list():
            return ",".join([str(len(value)), *("/".join(map(str, item)) for item in value)])
        case "entry", tuple():
            return show_entry(value)
        case "entries", list():
            return ",".join([str(len(value)), *map(show_entry, value)])
    raise ValueError(kind)


ENTRY = ("Grüße aus a/b", "f", 0o644, 1234567890123, 1700000000, 1000, 1000)
FRAMES: list[tuple[str, str, int, list[Field]]] = [
    (
        "host",
        "HELLO",
        0,
        [
            ("u32", "generation", 1),
            ("hex", "entropy", bytes(range(32))),
            ("u64", "clock_ns", 1_700_000_000_123_456_789),
            ("str", "hostname", "sandbox-0123abcd"),
            ("hex", "machine_id", bytes(range(0xF0, 0x100))),
            ("u32", "pids", 512),
        ],
    ),
    ("host", "REFRESH", 0, [("u64", "clock_ns", 2**63 + 5), ("hex", "entropy", bytes(32))]),
    ("host", "QUIESCE", 0, []),
    ("host", "RESUME", 0, []),
    ("host", "PING", 0, [("u64", "nonce", 2**64 - 1)]),
    ("host", "SHUTDOWN", 0, []),
    (
        "host",
        "MOUNT",
        0,
        [
            ("str", "serial", "scratch"),
            ("str", "filesystem", "ext4"),
            ("u32", "owner", 1000),
            ("list", "pairs", ["work:/workspace", "scratch:/scratch"]),
        ],
    ),
    ("host", "PART", 1, [("hex", "bytes", b"\x00\x01prefix")]),
    (
        "host",
        "EXEC",
        1,
        [
            ("u32", "flags", 5),
            ("u32", "rows", 0),
            ("u32", "columns", 0),
            ("list", "argv", ["sh", "-c", 'echo "ü" $HOME', ""]),
            ("list", "environment", ["PATH=/usr/bin:/bin", "EMPTY="]),
            ("str", "cwd", "/workspace"),
            ("str", "user", ""),
            ("limits", "rlimits", [(7, 1024, 4096), (9, 2**64 - 1, 2**64 - 1)]),
        ],
    ),
    (
        "host",
        "EXEC",
        2**32 - 1,
        [
            ("u32", "flags", 0),
            ("u32", "rows", 24),
            ("u32", "columns", 80),
            ("list", "argv", ["/bin/true"]),
            ("list", "environment", []),
            ("str", "cwd", "/"),
            ("str", "user", "1000:100"),
            ("limits", "rlimits", []),
        ],
    ),
    ("host", "STDIN", 1, [("hex", "bytes", b"hello\n\x00\xff")]),
    ("host", "STDIN_END", 1, []),
    ("host", "SIGNAL", 1, [("u32", "signal", 15)]),
    ("host", "RESIZE", 1, [("u32", "rows", 50), ("u32", "columns", 132)]),
    ("host", "KILL", 1, []),
    ("host", "CREDIT", 1, [("u32", "bytes", 65536)]),
    ("host", "READ", 2, [("str", "path", "/etc/hosts"), ("u64", "offset", 0), ("u64", "most", 2**64 - 1)]),
    (
        "host",
        "WRITE",
        3,
        [("str", "path", "/workspace/a b"), ("u32", "mode", 0o755), ("u32", "flags", 5), ("str", "owner", "root")],
    ),
    ("host", "TAR_IN", 4, [("str", "directory", "/workspace"), ("u32", "flags", 0), ("str", "owner", "")]),
    ("host", "STAT", 5, [("str", "path", "/")]),
    ("host", "LIST", 6, [("str", "path", "/workspace")]),
    (
        "host",
        "MKDIR",
        7,
        [("str", "path", "/a/b"), ("u32", "mode", 0o700), ("u32", "flags", 1), ("str", "owner", "1000:1000")],
    ),
    ("host", "REMOVE", 8, [("str", "path", "/a"), ("u32", "flags", 1)]),
    ("host", "RENAME", 9, [("str", "from", "/a"), ("str", "to", "/b")]),
    ("host", "DATA", 3, [("hex", "bytes", bytes(range(256)))]),
    ("host", "END", 3, []),
    ("host", "CANCEL", 3, []),
    (
        "guest",
        "WELCOME",
        0,
        [
            ("u32", "generation", 1),
            ("list", "features", ["exec", "stdin", "files"]),
            ("list", "refused", ["pty", "tar-out", "stream"]),
            ("list", "facts", ["arch=x86_64", "transport=virtio-serial"]),
        ],
    ),
    ("guest", "REFRESHED", 0, [("u64", "count", 3)]),
    ("guest", "QUIESCED", 0, []),
    (
        "guest",
        "PONG",
        0,
        [("u64", "nonce", 1), ("u32", "processes", 2), ("u64", "available_kib", 3), ("u32", "channels", 4)],
    ),
    ("guest", "ENDING", 0, []),
    ("guest", "MOUNTED", 0, [("u32", "errno", 19), ("str", "what", "device: scratch")]),
    ("guest", "STARTED", 1, [("u32", "pid", 4194304)]),
    ("guest", "STDOUT", 1, [("hex", "bytes", b"out")]),
    ("guest", "STDERR", 1, [("hex", "bytes", b"\x80err")]),
    (
        "guest",
        "EXIT",
        1,
        [
            ("u8", "how", 1),
            ("u32", "code", 9),
            ("u64", "user_us", 1_000_001),
            ("u64", "system_us", 2),
            ("u64", "peak_kib", 3072),
        ],
    ),
    ("guest", "FAILED", 1, [("u32", "errno", 2), ("str", "what", "program: nosuch")]),
    ("guest", "CREDIT", 1, [("u32", "bytes", 262144)]),
    ("guest", "DATA", 2, [("hex", "bytes", b"\x00" * 3)]),
    ("guest", "ENTRIES", 6, [("entries", "entries", [ENTRY, ("link", "l", 0o777, 4, 0, 0, 0)])]),
    ("guest", "DONE", 2, [("u64", "size", 2**40), ("u32", "mode", 0o640)]),
    ("guest", "DONE", 3, [("u64", "bytes", 5)]),
    ("guest", "DONE", 4, [("u64", "entries", 6)]),
    ("guest", "DONE", 5, [("entry", "entry", ENTRY)]),
    ("guest", "DONE", 6, []),
]


def records() -> list[str]:
    attach, echo = record(b"AKLINK-ATT1\n", EPOCH), record(b"AKLINK-ECH1\n", EPOCH)
    wrong_crc = attach[:-1] + bytes([attach[-1] ^ 1])
    bad_tag = record(b"AKLINK-ATT1\n", b"AKLI" + EPOCH[4:])
    lines = [
        f"attach {EPOCH.hex()} {attach.hex()}",
        f"attach {'00' * 16} {record(b'AKLINK-ATT1' + bytes([10]), bytes(16)).hex()}",
    ]
    lines += [f"echo {EPOCH.hex()} {echo.hex()}"]
    lines += [
        f"not-attach wrong-crc {wrong_crc.hex()}",
        f"not-attach forbidden-tag {bad_tag.hex()}",
        f"not-attach an-echo {echo.hex()}",
        f"not-attach one-byte-short {attach[:-1].hex()}",
        f"not-attach a-frame {frame(0, 4, b'').hex()}",
    ]
    return lines


def frames() -> list[str]:
    lines = []
    for side, kind, channel, fields in FRAMES:
        number = (KINDS if side == "host" else GUEST_KINDS)[kind]
        payload = b"".join(encode(type_, value) for type_, _, value in fields)
        told = " ".join(f"{type_}:{name}={show(type_, value)}" for type_, name, value in fields)
        lines.append(
            f"{side} {kind} {number} {channel} {TAG.hex()} {frame(channel, number, payload).hex()} {told}".rstrip()
        )
    return lines


def header(length: int, channel: int = 1, kind: int = 17, zeros: bytes = bytes(3)) -> bytes:
    return TAG + struct.pack("<IIB", length, channel, kind) + zeros


def invalid() -> list[str]:
    exec_head = u32(0) * 3
    exec_tail = string("/") + string("") + u32(0)
    good = exec_head + u32(1) + string("a") + u32(0) + exec_tail
    attach = record(b"AKLINK-ATT1\n", EPOCH)
    cases = [
        ("frame", "wrong-tag", TAG.hex(), b"\xff" + TAG[1:]),
        ("frame", "tag-of-an-older-epoch", TAG.hex(), frame(0, 4, b"", tag=bytes(4))),
        ("frame", "length-65537-before-its-body", TAG.hex(), header(65537)[:8]),
        ("frame", "length-4-GiB", TAG.hex(), header(2**32 - 1)[:8]),
        ("frame", "not-zero-13", TAG.hex(), header(0, zeros=b"\x01\x00\x00")),
        ("frame", "not-zero-15", TAG.hex(), header(0, zeros=b"\x00\x00\x80")),
        ("frame", "attach-record-with-a-wrong-crc", TAG.hex(), attach[:-1] + b"\x00"),
        ("frame", "an-echo", TAG.hex(), record(b"AKLINK-ECH1\n", EPOCH)),
        ("wait", "half-a-tag", TAG.hex(), TAG[:2]),
        ("wait", "header-without-its-last-byte", TAG.hex(), header(0)[:15]),
        ("wait", "payload-without-its-last-byte", TAG.hex(), header(65536) + bytes(65535)),
        ("wait", "half-an-attach-record", TAG.hex(), attach[:20]),
        ("payload", "empty", "HELLO 1", b""),
        ("payload", "truncated", "HELLO 1", u32(1) + bytes(32)),
        ("payload", "one-byte-more", "HELLO 1", u32(1) + bytes(40) + string("h") + bytes(16) + u32(0) + b"\x00"),
        ("payload", "nul-in-hostname", "HELLO 1", u32(1) + bytes(40) + string("a\0b") + bytes(16) + u32(0)),
        ("payload", "one-byte-more", "EXEC 16", good + b"\x00"),
        ("payload", "one-byte-less", "EXEC 16", good[:-1]),
        ("payload", "argv-count-that-cannot-fit", "EXEC 16", exec_head + u32(2**32 - 1) + exec_tail),
        ("payload", "argv-count-one-too-many", "EXEC 16", exec_head + u32(7) + bytes(24)),
        ("payload", "string-longer-than-the-rest", "EXEC 16", exec_head + u32(1) + u32(2**31) + exec_tail),
        ("payload", "nul-in-argument", "EXEC 16", exec_head + u32(1) + string("a\0") + u32(0) + exec_tail),
        ("payload", "rlimit-count-that-cannot-fit", "EXEC 16", good[:-4] + u32(1 << 28)),
        ("payload", "rlimit-truncated", "EXEC 16", good[:-4] + u32(1) + bytes(19)),
        (
            "payload",
            "pairs-count-that-cannot-fit",
            "MOUNT 7",
            string("s") + string("ext4") + u32(0) + u32(3) + string("a:/b"),
        ),
        ("payload", "empty", "READ 32", b""),
        ("payload", "without-its-numbers", "READ 32", string("/a")),
        ("payload", "nul-in-path", "STAT 35", string("/a\0b")),
        ("payload", "one-byte-more", "LIST 36", string("/a") + b"x"),
        ("payload", "without-a-target", "RENAME 39", string("/a")),
        ("payload", "owner-longer-than-the-rest", "WRITE 33", string("/a") + u32(0) * 2 + u32(5) + b"root"),
    ]
    return [f"{sort} {reason} {context} {shown(raw)}" for sort, reason, context, raw in cases]


def render() -> dict[str, str]:
    head = "# Written by generate.py; README.md says how to read it.\n"
    files = {"records.txt": records(), "frames.txt": frames(), "invalid.txt": invalid()}
    return {name: head + "\n".join(lines) + "\n" for name, lines in files.items()}


if __name__ == "__main__":
    for name, content in render().items():
        (HERE / name).write_text(content)
