"""One client: lines in, replies out, in the order that the protocol promises.

Requests without `request_id` are answered one after the other, here in the reader: whoever sends them waits for each
anyway. The others run beside it. What belongs to a running stream (input, signals, credit) never waits behind anything
but its own stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable

import anyio
import anyio.abc

from agentkernel.daemon.hangup import hung_up
from agentkernel.daemon.service import Service
from agentkernel.daemon.stream import Stream
from agentkernel.model.errors import AgentkernelError, Busy, NotFound, Refused
from agentkernel.protocol import replies, requests
from agentkernel.protocol.codec import Rejected, decode_request, encode_reply, error_reply
from agentkernel.protocol.lines import LineSplitter, TooLong
from agentkernel.protocol.requests import Request, given

log = logging.getLogger(__name__)

READ_BYTES = 262_144
MOST_BESIDE = 64
"""Requests with a `request_id` that one connection may have under way; one more is answered `busy`."""


class Connection:
    """Made for one accepted socket; `serve` returns when the client is gone or answered."""

    def __init__(self, client: socket.socket, service: Service, *, line_cap_bytes: int) -> None:
        self._client = client
        self._service = service
        self._splitter = LineSplitter(line_cap_bytes)
        # Fast: giving way before the write would let a sandbox be destroyed, and the next be booted, before its
        # caller has the reply.
        self._writing = anyio.Lock(fast_acquire=True)
        self._streams: dict[str, Stream] = {}
        self._archives: dict[str, ArchiveUpload] = {}
        self._beside = 0
        self._group: anyio.abc.TaskGroup

    async def serve(self) -> None:
        """Answer until the client has hung up, or has finished sending and has all its answers."""
        async with anyio.create_task_group() as watch:
            watch.start_soon(self._cancel_at_hangup, watch.cancel_scope)
            async with anyio.create_task_group() as self._group:
                with contextlib.suppress(ConnectionError):
                    await self._read()
                for upload in self._archives.values():
                    upload.abandon()
            watch.cancel_scope.cancel()

    async def _cancel_at_hangup(self, scope: anyio.CancelScope) -> None:
        await hung_up(self._client)
        scope.cancel()

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        while chunk := await loop.sock_recv(self._client, READ_BYTES):
            for line in self._splitter.feed(chunk):
                await self._take(line)
        for line in self._splitter.finish():
            await self._take(line)

    async def _take(self, line: bytes | TooLong) -> None:
        request = decode_request(line)
        match request:
            case Rejected(cause=cause, request_id=request_id):
                await self._send(error_reply(cause, request_id))
            case requests.GrantCredit(request_id=request_id):
                if stream := self._streams.get(request_id):
                    stream.grant(request.bytes)
            case requests.ExecStart():
                await self._begin_stream(request)
            case requests.ExecStdin() | requests.ExecCloseStdin() | requests.ExecSignal() | requests.ExecCancel():
                await self._pass_to_stream(request)
            case requests.ArchivePut():
                await self._answer(request, self._archive_put(request))
            case _ if given(request.request_id) is None:
                await self._answer(request, self._service.answer(request))
            case _ if self._beside >= MOST_BESIDE:
                too_many = Busy(
                    f"{MOST_BESIDE} requests of this connection are under way", hint="await some replies first"
                )
                await self._send(error_reply(too_many, given(request.request_id)))
            case _:
                self._beside += 1
                self._group.start_soon(self._answer_beside, request)

    async def _answer_beside(self, request: Request) -> None:
        try:
            await self._answer(request, self._service.answer(request))
        finally:
            self._beside -= 1

    async def _answer(self, request: Request, answer: Awaitable[replies.Reply]) -> None:
        try:
            reply = await answer
        except Exception as err:
            log_unexpected(err)
            reply = error_reply(err, given(request.request_id))
        await self._send(reply)
        if isinstance(reply, replies.ShuttingDown):
            self._service.stopping.set()

    # --- streams ------------------------------------------------------------------------------------------------------

    async def _begin_stream(self, request: requests.ExecStart) -> None:
        if request.request_id in self._streams:
            taken = Refused(
                f"request_id {request.request_id!r} is a stream of this connection already", hint="use another"
            )
            await self._send(error_reply(taken, request.request_id))
            return
        stream = self._streams[request.request_id] = Stream(request, self._send)

        async def run() -> None:
            try:
                await stream.run(self._service)
            except Exception as err:
                log_unexpected(err)
                await self._send(error_reply(err, request.request_id))
            finally:
                del self._streams[request.request_id]

        self._group.start_soon(run)

    async def _pass_to_stream(
        self, request: requests.ExecStdin | requests.ExecCloseStdin | requests.ExecSignal | requests.ExecCancel
    ) -> None:
        stream = self._streams.get(request.request_id)
        try:
            if stream is None:
                raise NotFound(f"no stream {request.request_id!r} runs on this connection", hint="it may have ended")
            if isinstance(request, requests.ExecStdin | requests.ExecCloseStdin):
                stream.post(request)
            else:
                self._group.start_soon(stream.carry_out, request)
        except AgentkernelError as err:
            await self._send(error_reply(err, request.request_id))

    # --- archives -----------------------------------------------------------------------------------------------------

    async def _archive_put(self, request: requests.ArchivePut) -> replies.Reply:
        upload = self._archives.get(request.id)
        if upload is None:
            upload = self._archives[request.id] = ArchiveUpload()
            self._group.start_soon(upload.run, self._service, request)
        try:
            await upload.put(request.content)
            if request.more:
                return replies.Accepted(of="archive_put", request_id=request.request_id)
            entries = await upload.finish()
        except BaseException:
            upload.abandon()
            self._archives.pop(request.id, None)
            raise
        del self._archives[request.id]
        return replies.Archived(entries=entries, request_id=request.request_id)

    # --- writing ------------------------------------------------------------------------------------------------------

    async def _send(self, reply: replies.Reply) -> None:
        """One whole line; a client that does not read makes its own connection wait, and no other."""
        line = encode_reply(reply)
        async with self._writing:
            try:
                await asyncio.get_running_loop().sock_sendall(self._client, line)
            except ConnectionError:
                return
            except BaseException:
                # Cut off, perhaps in the middle of the line: what follows would be nonsense to the client.
                self._client.shutdown(socket.SHUT_RDWR)
                raise


class ArchiveUpload:
    """One archive on its way into a sandbox: chunks in, a count of members out."""

    def __init__(self) -> None:
        self._send, self._receive = anyio.create_memory_object_stream[bytes](0)
        self._done = anyio.Event()
        self._entries = 0
        self._failure: Exception | None = None

    async def run(self, service: Service, request: requests.ArchivePut) -> None:
        """Extract until the last chunk; the first failure is kept for whoever puts."""
        try:
            async with self._receive:
                self._entries = await service.put_archive(request, self._receive)
        except Exception as err:
            self._failure = err
        finally:
            self._done.set()

    async def put(self, chunk: bytes) -> None:
        """Pass one chunk on; returns when the sandbox takes it."""
        try:
            if chunk:
                await self._send.send(chunk)
        except anyio.BrokenResourceError:
            await self._done.wait()
            raise self._failure or Refused("the archive ended before this chunk") from None

    async def finish(self) -> int:
        """No more chunks; the number of members."""
        self._send.close()
        await self._done.wait()
        if self._failure is not None:
            raise self._failure
        return self._entries

    def abandon(self) -> None:
        """Nobody waits for it any more."""
        self._send.close()


def log_unexpected(err: Exception) -> None:
    """A traceback in the log for what is no decision of ours; a caller's mistakes and deadlines are none of its
    business.
    """
    if not isinstance(err, AgentkernelError | TimeoutError | OSError):
        log.error("a request failed", exc_info=err)
