"""A sandbox kept for several steps: `acquire`, `archive_put`, `exec` in it, the guest protocol, `release`."""

import base64
import io
import json
import os
import socket
import struct
import sys
import tarfile
from typing import Any

from agentkernel.client import Connection

HOME = os.environ.get("AGENTKERNEL_HOME") or os.environ["HOME"] + "/.agentkernel"
PATH = os.environ.get("AGENTKERNEL_SOCKET") or HOME + "/daemon.sock"


def archive(files: dict[str, bytes]) -> bytes:
    """A tar stream of files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def ask_guest(guest: socket.socket, **request: Any) -> dict[str, Any]:
    """One request of the guest protocol: a length of four bytes, little-endian, then JSON, both ways."""
    body = json.dumps({"id": "1", **request}).encode()
    guest.sendall(struct.pack("<I", len(body)) + body)
    reader = guest.makefile("rb")
    (length,) = struct.unpack("<I", reader.read(4))
    reply: dict[str, Any] = json.loads(reader.read(length))
    return reply


def main() -> int:
    """Put a folder into a sandbox, work on it in two ways, and give the sandbox back."""
    with Connection(PATH) as daemon:
        lease = daemon.ask("acquire", runtime="base")
        try:
            content = base64.b64encode(archive({"notes/a.txt": b"one\n", "notes/b.txt": b"two\n"})).decode()
            put = daemon.ask("archive_put", id=lease["id"], path="/workspace", content_base64=content)
            print(put["entries"], "entries put")

            done = daemon.ask("exec", runtime="base", sandbox=lease["id"], command=["sh", "-c", "cat notes/*"])
            print(done["stdout"], end="")

            with socket.socket(socket.AF_UNIX) as guest:
                guest.connect(lease["vsock_path"])
                guest.sendall(b"CONNECT 52000\n")
                if not guest.recv(64).startswith(b"OK "):
                    raise SystemExit("the guest did not answer")
                ask_guest(guest, type="write_file", path="/workspace/c.txt", content_base64="dGhyZWUK")
                print(ask_guest(guest, type="run", command=["cat", "/workspace/c.txt"])["stdout"], end="")
        finally:
            daemon.ask("release", id=lease["id"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
