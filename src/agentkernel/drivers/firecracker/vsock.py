"""The host's end of a machine's vsock device: a Unix socket where one asks for a port of the guest.

Source: Firecracker, docs/vsock.md: `CONNECT PORT`, answered by `OK` and a number once the guest has taken it.
"""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from agentkernel.drivers.vmm.files import connect_below

ANSWER_BYTES = 32


async def connect(root: Path, name: str, port: int) -> socket.socket | None:
    """A connection to that port of the guest; None while nobody listens there.

    Raises:
        OSError: something else answers.
    """
    try:
        connection = connect_below(root, name)
    except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
        return None
    try:
        taken = await _taken(connection, port)
    except BaseException:
        connection.close()
        raise
    if not taken:
        connection.close()
        return None
    return connection


async def _taken(connection: socket.socket, port: int) -> bool:
    loop = asyncio.get_running_loop()
    said = b""
    try:
        await loop.sock_sendall(connection, f"CONNECT {port}\n".encode())
        # Byte by byte: what follows the line is the guest's and belongs to the link.
        while not said.endswith(b"\n") and len(said) < ANSWER_BYTES:
            some = await loop.sock_recv(connection, 1)
            if not some:
                return False
            said += some
    except ConnectionError:
        return False
    words = said.split()
    if len(words) != 2 or words[0] != b"OK" or not words[1].isdigit():
        raise OSError(f"the vsock device answers nonsense: {said!r}")
    return True
