"""One `exec_start`: events out under the client's credit; input, signals and cancellation in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

from agentkernel.daemon.facts import optional
from agentkernel.daemon.placing import Place
from agentkernel.daemon.service import Service
from agentkernel.drivers.contract import Process
from agentkernel.engine.command import Outcome, Output
from agentkernel.engine.groups import task_group
from agentkernel.model.errors import Busy, Refused
from agentkernel.model.execution import Started, Stdout
from agentkernel.protocol import replies, requests
from agentkernel.protocol.codec import error_reply

WINDOW_BYTES = 1024 * 1024
"""Output that may be under way to a client that has granted nothing yet."""
MOST_POSTED = 64
"""Chunks of input that may wait for the program."""

Input = requests.ExecStdin | requests.ExecCloseStdin
Order = requests.ExecSignal | requests.ExecCancel


class Stream:
    """The stream of one request on one connection."""

    def __init__(self, request: requests.ExecStart, send: Callable[[replies.Reply], Awaitable[None]]) -> None:
        self._request = request
        self._send = send
        self._credit = WINDOW_BYTES
        self._granted = anyio.Event()
        self._process: Process | None = None
        self._begun = anyio.Event()
        self._scope = anyio.CancelScope()
        self._dropping = False
        self._post, self._posted = anyio.create_memory_object_stream[Input](MOST_POSTED)

    def grant(self, count: int) -> None:
        """The client has consumed so many bytes; credit never exceeds the window."""
        self._credit = min(WINDOW_BYTES, self._credit + count)
        self._granted.set()

    def post(self, control: Input) -> None:
        """Take input for the program; answered `accepted` when it was passed on.

        Raises:
            Refused: input was not announced.
            Busy: too much waits already.
        """
        if not self._request.stdin_open:
            raise Refused("the program's input is not open", hint="ask for it with stdin_open")
        try:
            self._post.send_nowait(control)
        except anyio.WouldBlock:
            raise Busy("too much input waits for this program", hint="await `accepted` before sending more") from None

    async def carry_out(self, order: Order) -> None:
        """A signal or a cancellation; never waits behind input. Cancelling what has not begun ends the stream."""
        if isinstance(order, requests.ExecCancel) and self._process is None:
            self._scope.cancel()
        else:
            await self._begun.wait()
            await self._act(order)
        await self._accept(order)

    async def _act(self, order: Order) -> None:
        if self._process is None:
            return
        match order:
            case requests.ExecSignal(signal=number):
                await self._process.signal(number)
            case requests.ExecCancel():
                self._drop_output()
                await self._process.kill()

    async def run(self, service: Service) -> None:
        """Run the program to its end; the last event is `exit`.

        Raises:
            Whatever keeps it from running; the connection makes that the stream's last event.
        """
        outcome: Outcome | None = None
        try:
            with self._scope, self._post, self._posted:
                async with service.placed(self._request, self._progress) as place:
                    outcome = await self._run_in(service, place)
        finally:
            self._begun.set()
        if outcome is None:
            raise Refused("cancelled before it began")
        await self._send(
            replies.Exit(
                request_id=self._request.request_id,
                exit_code=outcome.exit_code,
                signal=optional(outcome.signal),
                timed_out=optional(outcome.timed_out or None),
                problem=optional(outcome.problem or None),
            )
        )

    async def _run_in(self, service: Service, place: Place) -> Outcome:
        async with task_group() as group:

            def begin(process: Process) -> None:
                self._process = process
                self._begun.set()
                group.start_soon(self._pass_input, process)

            async def emit(event: Started | Output) -> None:
                await self._emit(event, place)

            outcome = await service.run(
                self._request, place, sink=emit, on_process=begin, on_deadline=self._drop_output
            )
            group.cancel_scope.cancel()
        return outcome

    async def _emit(self, event: Started | Output, place: Place) -> None:
        request_id = self._request.request_id
        if isinstance(event, Started):
            await self._send(replies.Started(request_id=request_id, pid=event.pid, **place.facts()))
            return
        while self._credit <= 0 and not self._dropping:
            self._granted = anyio.Event()
            await self._granted.wait()
        if self._dropping:
            return
        self._credit -= len(event.data)
        kind = replies.Stdout if isinstance(event, Stdout) else replies.Stderr
        await self._send(kind(request_id=request_id, data=event.data))

    def _drop_output(self) -> None:
        """Cancelled, or its time is up: nobody waits for output, and without credit `exit` would wait behind it."""
        self._dropping = True
        self._granted.set()

    async def _progress(self, detail: str) -> None:
        await self._send(replies.Progress(request_id=self._request.request_id, detail=detail))

    async def _pass_input(self, process: Process) -> None:
        """What came with the request, then what is posted, in order."""
        first = requests.given(self._request.stdin)
        if first:
            await process.send_stdin(first)
        if not self._request.stdin_open:
            await process.close_stdin()
        async for control in self._posted:
            try:
                if isinstance(control, requests.ExecStdin):
                    await process.send_stdin(control.data)
                else:
                    await process.close_stdin()
            except Refused as err:
                await self._send(error_reply(err, control.request_id))
            else:
                await self._accept(control)

    async def _accept(self, control: Input | Order) -> None:
        of = str(type(control).__struct_config__.tag)
        await self._send(replies.Accepted(request_id=control.request_id, of=of))
