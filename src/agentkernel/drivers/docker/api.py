"""An engine's HTTP API: each call with a deadline, each failure in our words.

A call is a connection of its own: opening one costs a fraction of what any call does, and none is left in an unknown
state by a call that was cancelled.

Source: Docker Engine API 1.41, which Docker 20.10 and Podman 4 serve.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import ByteStream

from agentkernel.drivers.docker.endpoint import Endpoint
from agentkernel.drivers.link import PlainSocket
from agentkernel.model.errors import AgentkernelError, Broken, Busy, Denied, NotFound, Refused, Unsupported

if TYPE_CHECKING:
    import httpx

VERSION = "v1.41"
CALL_S = 30.0
MOST_HEAD_BYTES = 65_536
MOST_WORDS = 500


class EngineRefused(AgentkernelError):
    """The engine answered with an error. `status` is HTTP's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class EngineApi:
    """One engine.

    Args:
        name: what people call it, for messages.
    """

    def __init__(self, endpoint: Endpoint, name: str) -> None:
        self.endpoint = endpoint
        self._name = name

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | list[str]] | None = None,
        body: object = None,
        content: AsyncIterator[bytes] | bytes | None = None,
        deadline_s: float = CALL_S,
    ) -> Any:
        """The decoded JSON of the answer; its text where it is none, None where it is empty.

        Raises:
            EngineRefused: the engine says no.
            Busy: it does not answer in time.
            Unsupported, Denied: it is not there, or not for us.
        """
        async with self.streamed(
            method, path, query=query, body=body, content=content, deadline_s=deadline_s
        ) as answer:
            return _decoded(await answer.aread())

    @asynccontextmanager
    async def streamed(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | list[str]] | None = None,
        body: object = None,
        content: AsyncIterator[bytes] | bytes | None = None,
        headers: Mapping[str, str] | None = None,
        deadline_s: float = CALL_S,
    ) -> AsyncIterator[httpx.Response]:
        """The answer as it comes; the deadline is for all of the block. Raises as `call`."""
        import httpx  # noqa: PLC0415  # two tenths of a second, for those only who use an engine

        extra = dict(headers or {})
        if body is not None:
            content, extra["Content-Type"] = json.dumps(body).encode(), "application/json"
        elif content is not None:
            extra["Content-Type"] = "application/x-tar"
        try:
            with anyio.fail_after(deadline_s):
                async with (
                    httpx.AsyncClient(transport=self._transport(), trust_env=False, timeout=None) as client,  # noqa: S113
                    client.stream(
                        method, self._url(path), params=dict(query or {}), content=content, headers=extra
                    ) as answer,
                ):
                    if answer.status_code >= 400:
                        raise EngineRefused(answer.status_code, _message(await answer.aread()))
                    yield answer
        except TimeoutError as err:
            raise Busy(
                f"{self._name} did not answer {method} {path.partition('?')[0]} within {deadline_s:.0f} s",
                hint="is the engine, or its host, overloaded?",
            ) from err
        except (httpx.ConnectError, httpx.ConnectTimeout) as err:
            raise self._unreachable(err) from err
        except httpx.HTTPError as err:
            raise Broken(f"{self._name} broke off: {type(err).__name__} {err}".strip()) from err

    async def attach(self, container: str, *, deadline_s: float = CALL_S) -> tuple[ByteStream, bytes]:
        """The raw stream of a container's standard input, output and error, and what of it came with the answer's head.

        Raises as `call`. Closing the stream is the caller's.
        """
        query = "stream=1&stdin=1&stdout=1&stderr=1"
        head = (
            f"POST /{VERSION}/containers/{container}/attach?{query} HTTP/1.1\r\nHost: {self._host}\r\n"
            "Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n"
        )
        stream: ByteStream | None = None
        try:
            with anyio.fail_after(deadline_s):
                stream = await self._connected()
                await stream.send(head.encode())
                return stream, await self._upgraded(stream)
        except TimeoutError as err:
            await _drop(stream)
            raise Busy(f"{self._name} did not attach within {deadline_s:.0f} s") from err
        except (OSError, anyio.BrokenResourceError, anyio.EndOfStream) as err:
            await _drop(stream)
            raise self._unreachable(err) from err
        except BaseException:
            await _drop(stream)
            raise

    async def _upgraded(self, stream: ByteStream) -> bytes:
        """Read an answer's head; what follows it is the container's."""
        buffer = b""
        while b"\r\n\r\n" not in buffer:
            if len(buffer) > MOST_HEAD_BYTES:
                raise Broken(f"{self._name} answered an attach with something else than HTTP")
            buffer += await stream.receive(MOST_HEAD_BYTES)
        head, _, rest = buffer.partition(b"\r\n\r\n")
        words = head.split(b"\r\n", 1)[0].split(b" ", 2)
        status = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
        if status not in (101, 200):
            raise EngineRefused(status, _message(rest) or head.decode(errors="replace")[:MOST_WORDS])
        return rest

    async def _connected(self) -> ByteStream:
        to = self.endpoint
        if to.socket:
            plain = socket.socket(socket.AF_UNIX)
            plain.setblocking(False)
            try:
                await asyncio.get_running_loop().sock_connect(plain, to.socket)
            except BaseException:
                plain.close()
                raise
            return PlainSocket(plain)
        if to.certificates:
            return await anyio.connect_tcp(
                to.host, to.port, tls=True, ssl_context=to.certificates.context(), tls_standard_compatible=False
            )
        return await anyio.connect_tcp(to.host, to.port)

    def _transport(self) -> httpx.AsyncHTTPTransport:
        import httpx  # noqa: PLC0415

        if self.endpoint.certificates:
            return httpx.AsyncHTTPTransport(verify=self.endpoint.certificates.context())
        # No certificates are loaded for a connection without TLS: that alone would take 20 ms.
        return httpx.AsyncHTTPTransport(uds=self.endpoint.socket or None, verify=False)

    @property
    def _host(self) -> str:
        return "engine" if self.endpoint.socket else f"{self.endpoint.host}:{self.endpoint.port}"

    def _url(self, path: str) -> str:
        scheme = "https" if self.endpoint.certificates else "http"
        return f"{scheme}://{self._host}/{VERSION}{path}"

    def _unreachable(self, err: BaseException) -> AgentkernelError:
        """What a failed connection means to the user."""
        cause: BaseException | None = err
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__ or cause.__context__
        where = f"{self.endpoint} (from {self.endpoint.origin})"
        match cause:
            case PermissionError():
                return Denied(
                    f"{self._name}'s socket {where} may not be used by this user",
                    hint="join the group that owns it, or use an engine of your own (rootless)",
                )
            case FileNotFoundError():
                return Unsupported(f"{self._name}'s socket {where} is not there", hint="start the engine")
            case ConnectionRefusedError():
                return Unsupported(f"nobody listens on {where}", hint=f"start {self._name}")
            case _:
                return Broken(f"{self._name} at {where} cannot be reached: {cause or err}", hint="is it running?")


async def _drop(stream: ByteStream | None) -> None:
    if stream is not None:
        with anyio.CancelScope(shield=True), anyio.move_on_after(1):
            await anyio.aclose_forcefully(stream)


def _decoded(content: bytes) -> Any:
    if not content.strip():
        return None
    try:
        return json.loads(content)
    except ValueError:
        return content.decode(errors="replace")


def _message(content: bytes) -> str:
    """What an engine says of its error, on one bounded line."""
    told = _decoded(content)
    words = str(told.get("message") or told) if isinstance(told, dict) else str(told or "no reason given")
    return " ".join(words.split())[:MOST_WORDS]


def as_ours(err: EngineRefused, what: str, *, hint: str = "") -> AgentkernelError:
    """An engine's refusal, for a caller."""
    message = f"{what}: {err.message}"
    match err.status:
        case 404:
            return NotFound(message, hint=hint)
        case 400 | 401 | 403:
            return Refused(message, hint=hint)
        case _:
            return Broken(message, hint=hint)
