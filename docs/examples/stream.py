"""Output as it comes, input as it is wanted: `exec_start`, `exec_stdin`, `credit`.

A stream has a window of 1 MiB: when that much output was sent and nothing was granted back by `credit`, the program
waits. So a client that reads slowly slows its own program down, and nobody else.
"""

import base64
import json
import os
import socket
import sys
from typing import Any

HOME = os.environ.get("AGENTKERNEL_HOME") or os.environ["HOME"] + "/.agentkernel"
PATH = os.environ.get("AGENTKERNEL_SOCKET") or HOME + "/daemon.sock"
PROGRAM = "read name; echo hello $name; echo trouble >&2; exit 3"


def main() -> int:
    """Run one program, feed it one line, and end with its exit code."""
    with socket.socket(socket.AF_UNIX) as daemon:
        daemon.connect(PATH)

        def send(**message: Any) -> None:
            daemon.sendall(json.dumps({"request_id": "one", **message}).encode() + b"\n")

        send(cmd="exec_start", runtime="base", command=["sh", "-c", PROGRAM], stdin_open=True)
        for line in daemon.makefile():
            event = json.loads(line)
            match event["type"]:
                case "progress":  # an image is built on first use
                    print(event["detail"], file=sys.stderr)
                case "started":
                    print(f"started in {event['isolation']}")
                    send(cmd="exec_stdin", data_base64=base64.b64encode(b"world\n").decode())
                    send(cmd="exec_close_stdin")
                case "stdout" | "stderr" as stream:
                    content = base64.b64decode(event["data_base64"])
                    print(f"{stream}: {content.decode()}", end="")
                    send(cmd="credit", bytes=len(content))
                case "accepted":  # input was passed on; whoever has much of it waits for this before sending more
                    pass
                case "exit":
                    return int(event["exit_code"])
                case "error":
                    raise SystemExit(f"{event['code']}: {event['message']}")
    raise SystemExit("the daemon ended the connection")


if __name__ == "__main__":
    sys.exit(main())
