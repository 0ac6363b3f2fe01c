"""A client of the daemon in ten lines, with nothing but the standard library: one request, one reply.

The daemon must run: `agentkernel daemon start`.
"""

import json
import os
import socket

HOME = os.environ.get("AGENTKERNEL_HOME") or os.environ["HOME"] + "/.agentkernel"
PATH = os.environ.get("AGENTKERNEL_SOCKET") or HOME + "/daemon.sock"

with socket.socket(socket.AF_UNIX) as daemon:
    daemon.connect(PATH)
    request = {"cmd": "exec", "runtime": "base", "command": ["uname", "-sm"], "timeout_ms": 60_000}
    daemon.sendall(json.dumps(request).encode() + b"\n")
    reply = json.loads(daemon.makefile().readline())

if reply["type"] == "error":
    raise SystemExit(f"{reply['code']}: {reply['message']} ({reply.get('hint', '')})")
print(reply["stdout"], end="")
print("exit code", reply["exit_code"], "in", reply["isolation"])
