"""A blocking connection to the daemon: a socket and JSON lines."""

from __future__ import annotations

import json
import socket
from types import TracebackType
from typing import Any, Self


class DaemonError(Exception):
    """The daemon answered `error`.

    Attributes:
        code: stable, see docs/reference/protocol.md.
        retryable: whether the same request may succeed later.
        hint: what to do, or empty.
    """

    def __init__(self, reply: dict[str, Any]) -> None:
        super().__init__(reply["message"])
        self.code: str = reply.get("code", "internal")
        self.retryable: bool = reply.get("retryable", False)
        self.hint: str = reply.get("hint", "")


class Connection:
    """One connection. Requests may be pipelined: `send` several, then `receive` as many.

    Args:
        path: the daemon's socket.
        timeout_s: for each read and write; None waits for ever.
    """

    def __init__(self, path: str, *, timeout_s: float | None = None) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout_s)
        try:
            self._socket.connect(path)
        except BaseException:
            self._socket.close()
            raise
        self._lines = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up. Commands that this connection runs are killed; leases live on."""
        self._lines.close()
        self._socket.close()

    def send(self, message: dict[str, Any]) -> None:
        """One request line."""
        self._socket.sendall(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    def receive(self) -> dict[str, Any]:
        """One reply line, an `error` too.

        Raises:
            ConnectionError: the daemon hung up.
        """
        line = self._lines.readline()
        if not line.endswith(b"\n"):
            raise ConnectionError("the daemon ended the connection")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def ask(self, cmd: str, **fields: Any) -> dict[str, Any]:
        """One request and its reply.

        Raises:
            DaemonError: the reply is an `error`.
            ConnectionError: the daemon hung up.
        """
        self.send({"cmd": cmd, **fields})
        reply = self.receive()
        if reply["type"] == "error":
            raise DaemonError(reply)
        return reply
