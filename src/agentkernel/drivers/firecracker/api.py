"""One Firecracker's API: HTTP over a Unix socket, one request at a time, with a deadline, and failures explained."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from agentkernel.drivers.firecracker.machine import Request
from agentkernel.model.errors import AgentkernelError, Broken, Unsupported

if TYPE_CHECKING:
    import httpx

ORDER_DEADLINE_S = 30.0
"""How long Firecracker may take for one request; it takes a millisecond unless the host is out of breath."""
SNAPSHOT_DEADLINE_S = 300.0
"""The same where it writes all of a machine's memory."""
ANSWER_BYTES = 1 << 20
WORDS_KEPT = 300

_CAUSES = (
    ("No space left", Broken, "df -h shows which disk is full"),
    ("os error 28", Broken, "df -h shows which disk is full"),
    ("/dev/kvm", Unsupported, "load the kvm module; AGENTKERNEL_HOME must not be on a file system mounted nodev"),
    ("kvm", Unsupported, "[microvm] vmm = qemu works without; KVM is tried again after an hour"),
    ("Cannot allocate memory", Broken, "free -m shows the host's memory; lower [resources] memory_mb"),
    ("os error 12", Broken, "free -m shows the host's memory; lower [resources] memory_mb"),
    ("snapshot", Broken, "a template that does not load is made anew; another one will serve"),
)
"""What stands in Firecracker's complaint, what a caller can do about it, and how."""


class NotListening(Broken):
    """Nobody answers at the socket: Firecracker has not come up yet, or has ended."""


class Api:
    """Made by `connected`."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._asking = anyio.Lock()

    async def ask(self, request: Request, *, deadline_s: float | None = None) -> dict[str, Any]:
        """Send one request; the answer's body, empty where there is none.

        Raises:
            NotListening: not yet, or not any more.
            Broken: it was refused, it took too long, Firecracker ended, or talks nonsense.
            Unsupported: it was refused for want of KVM.
        """
        import httpx  # noqa: PLC0415  (two tenths of a second, for those only who have Firecracker)

        deadline_s = ORDER_DEADLINE_S if deadline_s is None else deadline_s
        async with self._asking:
            try:
                with anyio.fail_after(deadline_s):
                    return await self._ask(request)
            except TimeoutError as err:
                raise Broken(f"Firecracker did not answer {request.name} within {deadline_s:.0f} s") from err
            except httpx.ConnectError as err:
                raise NotListening(f"Firecracker has ended: nobody takes {request.name}") from err
            except httpx.HTTPError as err:
                raise Broken(f"Firecracker ended at {request.name}") from err

    async def _ask(self, request: Request) -> dict[str, Any]:
        async with self._client.stream(request.method, f"http://localhost{request.path}", json=request.body) as reply:
            content = b""
            async for piece in reply.aiter_bytes():
                content += piece
                if len(content) > ANSWER_BYTES:
                    raise Broken(f"Firecracker's answer to {request.name} does not end")
        refused = reply.status_code // 100 != 2
        body = _object(content, request, forgive=refused)
        if refused:
            raise refusal(request, reply.status_code, str(body.get("fault_message", "")))
        return body


def _object(content: bytes, request: Request, *, forgive: bool) -> dict[str, Any]:
    """A body, which has to be a JSON object or nothing. Of a refusal nonsense is taken too: its status says enough."""
    try:
        body = json.loads(content or b"{}")
    except ValueError:
        body = None
    if isinstance(body, dict):
        return body
    if forgive:
        return {}
    raise Broken(f"Firecracker talks nonsense at {request.name}")


def refusal(request: Request, status: int, fault: str) -> AgentkernelError:
    """What to raise for a refused request: a class that says what to do, Firecracker's own words, and a hint."""
    words = " ".join(fault.split())[:WORDS_KEPT] or f"status {status}"
    message = f"Firecracker refused {request.name}: {words}"
    for mark, kind, hint in _CAUSES:
        if mark.lower() in words.lower():
            return kind(message, hint=hint)
    return Broken(message, hint="agentkernel doctor tells which version was found and which is needed")


@asynccontextmanager
async def connected(root: Path, name: str) -> AsyncIterator[Api]:
    """The API behind the socket of that name in a jail's root. Nothing is sent yet, and nobody has to listen yet."""
    import httpx  # noqa: PLC0415

    # Through a descriptor of the folder: a socket address has 107 bytes, and jails lie deep.
    place = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        transport = httpx.AsyncHTTPTransport(uds=f"/proc/self/fd/{place}/{name}")
        # Neither a proxy of the environment nor a redirect is for a socket of ours.
        async with httpx.AsyncClient(transport=transport, timeout=SNAPSHOT_DEADLINE_S, trust_env=False) as client:
            yield Api(client)
    finally:
        os.close(place)
