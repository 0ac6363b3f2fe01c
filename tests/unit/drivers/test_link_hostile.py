"""LinkGuest against guests that lie, flood, stop, and go, over a real socketpair."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.abc import UNIXSocketStream

from agentkernel.drivers.link import LinkGuest
from agentkernel.model.errors import Broken, Unsupported
from agentkernel.model.execution import ExecRequest, Exited, NotStarted, Started, Stdout
from agentkernel.model.readiness import Identity
from agentkernel.wire import GuestLink, Received, attach, control, files, program
from agentkernel.wire.fields import Payload
from agentkernel.wire.frames import encode_frame

pytestmark = pytest.mark.anyio
EPOCH = bytes(range(1, 17))
TAG = EPOCH[:4]
IDENTITY = Identity("sandbox-1", bytes(16))
WELCOME = control.Welcome(1, tuple(sorted(control.FEATURES)), (), ("arch=x",))
DEADLINE_S = 20.0
CAT = ExecRequest((b"cat",), stdin=True)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def frame(channel: int, message: Payload) -> bytes:
    return encode_frame(TAG, channel, message.kind, message.encode())


class Peer:
    """The far end, which says what a test tells it to."""

    def __init__(self, stream: UNIXSocketStream) -> None:
        self.stream = stream
        self.link = GuestLink()
        self.waiting: list[Received] = []

    async def hear(self) -> Received:
        """The next frame of the host."""
        while not self.waiting:
            events = self.link.feed(await self.stream.receive())
            self.waiting += [event for event in events if isinstance(event, Received)]
        return self.waiting.pop(0)

    async def say(self, *frames: bytes) -> None:
        await self.stream.send(b"".join(frames))

    async def welcome(self) -> None:
        assert (await self.hear()).message.kind == control.Hello.kind
        await self.say(attach.encode_echo(EPOCH), frame(0, WELCOME))


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[UNIXSocketStream, Peer]]:
    ours, theirs = socket.socketpair()
    async with await UNIXSocketStream.from_socket(ours) as stream, await UNIXSocketStream.from_socket(theirs) as far:
        with anyio.fail_after(DEADLINE_S):
            yield stream, Peer(far)


async def echo_and_welcome(peer: Peer) -> None:
    await peer.say(attach.encode_echo(EPOCH))
    await peer.hear()
    await peer.say(frame(0, WELCOME))


@asynccontextmanager
async def attached() -> AsyncIterator[tuple[LinkGuest, Peer]]:
    async with pair() as (stream, peer), anyio.create_task_group() as tasks:
        tasks.start_soon(echo_and_welcome, peer)
        async with LinkGuest.attach(stream, IDENTITY, pids=99, epoch=EPOCH) as guest:
            yield guest, peer


async def broken(call: Awaitable[object], words: str) -> None:
    with pytest.raises(Broken, match=words):
        await call


async def test_the_greeting_carries_identity_and_fresh_entropy() -> None:
    async with pair() as (stream, peer), anyio.create_task_group() as tasks:
        heard: list[control.Hello] = []

        async def answer() -> None:
            await peer.say(b"an older conversation", attach.encode_echo(EPOCH))
            for _ in range(2):
                message = (await peer.hear()).message
                assert isinstance(message, control.Hello)
                heard.append(message)
                await peer.say(frame(0, WELCOME))

        tasks.start_soon(answer)
        async with LinkGuest.attach(stream, IDENTITY, pids=99, epoch=EPOCH) as guest:
            await guest.identify(IDENTITY)
    first, second = heard
    assert (first.hostname, first.machine_id, first.pids, first.generation) == ("sandbox-1", bytes(16), 99, 1)
    assert first.entropy != second.entropy
    assert second.clock_ns >= first.clock_ns > 1_600_000_000 * 10**9


async def test_a_guest_of_another_generation_is_unsupported() -> None:
    async def answer() -> None:
        await peer.say(attach.encode_echo(EPOCH))
        await peer.hear()
        await peer.say(frame(0, control.Welcome(2, (), (), ())))

    async with pair() as (stream, peer), anyio.create_task_group() as tasks:
        tasks.start_soon(answer)
        with pytest.raises(Unsupported, match="generation 2"):
            async with LinkGuest.attach(stream, IDENTITY, epoch=EPOCH):
                """Never reached."""


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"", "stream ended"),
        (b"x" * 1000, "stream ended"),
        (b"x" * 4_300_000, "attach record"),
        (attach.encode_echo(EPOCH) + b"garbage, and more of it", "tag"),
        (attach.encode_echo(EPOCH) + frame(0, control.Pong(1, 0, 0, 0)), "answers nothing"),
        (attach.encode_echo(EPOCH) + frame(0, WELCOME)[:-1], "stream ended"),
    ],
    ids=lambda value: value if isinstance(value, str) else "said",
)
async def test_what_does_not_greet_is_broken(said: bytes, words: str) -> None:
    async with pair() as (stream, peer), anyio.create_task_group() as tasks:

        async def lie() -> None:
            try:
                await peer.say(said)
            except anyio.BrokenResourceError:
                return  # the host has heard enough
            await peer.stream.send_eof()

        tasks.start_soon(lie)
        with pytest.raises(Broken, match=words):
            async with LinkGuest.attach(stream, IDENTITY, epoch=EPOCH):
                """Never reached."""
        await stream.aclose()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"no tag at all....", "tag"),
        (TAG + b"\xff\xff\xff\xff" + bytes(8), "4294967295"),
        (frame(9, program.Started(1)), "channel 9"),
        (frame(1, program.Stdout(b"x")), "before"),
        (frame(1, program.Started(1)) * 2, "does not belong"),
        (frame(1, program.Started(1)) + frame(1, program.GuestCredit(300_000)), "consumed nothing, or more"),
        (encode_frame(TAG, 1, program.Failed.kind, b"\x02\0\0\0\xff\xff\xff\xff"), "too early"),
        (frame(0, control.Quiesced()), "answers nothing"),
        (frame(1, files.Done()), "before"),
    ],
    ids=lambda value: value if isinstance(value, str) else "said",
)
async def test_a_lie_breaks_every_call_that_waits_and_every_later_one(said: bytes, words: str) -> None:
    async with attached() as (guest, peer):
        process = await guest.exec(CAT)

        async def read_all() -> None:
            async for _ in process:
                """Whatever was true comes before the error."""

        calls: list[Callable[[], Awaitable[object]]] = [
            read_all,
            guest.ping,
            lambda: guest.read_file("/a"),
            lambda: guest.write_file("/a", bytes(1_000_000)),
            lambda: process.send_stdin(bytes(1_000_000)),
        ]
        async with anyio.create_task_group() as tasks:
            for call in calls:
                tasks.start_soon(broken, call(), words)
            await anyio.wait_all_tasks_blocked()
            await peer.say(said)
            assert words in await guest.wait_broken()
        for call in (*calls, guest.refresh, process.kill, process.close_stdin, lambda: guest.exec(CAT), guest.quiesce):
            await broken(call(), words)
        with pytest.raises(Broken, match=words):
            guest.resume()
        process.abandon()


async def test_what_was_said_before_the_lie_is_heard() -> None:
    async with attached() as (guest, peer):
        process = await guest.exec(CAT)
        await peer.say(frame(1, program.Started(7)), frame(1, program.Stdout(b"true")), b"and then a lie..")
        assert await anext(process) == Started(7)
        assert await anext(process) == Stdout(b"true")
        for _ in range(2):
            await broken(anext(process), "tag")


async def test_a_stream_that_ends_breaks_the_call() -> None:
    async with attached() as (guest, peer):
        process = await guest.exec(CAT)
        await peer.say(frame(1, program.Started(7)), frame(1, program.Exit(0, 0, 0, 0, 0))[:20])
        await peer.stream.aclose()
        assert await anext(process) == Started(7)
        await broken(anext(process), "stream ended")
        assert await guest.wait_broken() == "the guest's stream ended"


async def test_silence_is_the_callers_deadline_and_harms_nobody_later() -> None:
    async with attached() as (guest, peer):
        process = await guest.exec(CAT)
        for call in (guest.ping, process.__anext__, lambda: guest.read_file("/a"), lambda: guest.list_directory("/a")):
            with anyio.move_on_after(0.01) as scope:
                await call()
            assert scope.cancelled_caught
        heard = [await peer.hear() for _ in range(6)]
        names = [type(each.message).__name__ for each in heard]
        assert names == ["Exec", "Ping", "Read", "Cancel", "ListDirectory", "Cancel"]
        assert isinstance(heard[1].message, control.Ping)
        cancelled = program.Failed(125, "")
        await peer.say(
            frame(0, control.Pong(heard[1].message.nonce, 0, 0, 0)),
            frame(2, files.GuestData(b"under way")),
            frame(2, cancelled),
            frame(3, files.Entries(())),
            frame(3, files.Done()),
            frame(1, program.Failed(2, "program: \x1b[2J" + "x" * 60_000)),
        )
        failed = await anext(process)
        assert isinstance(failed, NotStarted)
        assert failed.what.startswith("program: \ufffd[2Jxxx")
        assert len(failed.what) == 512


async def test_a_guest_that_reads_nothing_blocks_only_who_sends() -> None:
    async with attached() as (guest, peer):
        process = await guest.exec(CAT)
        async with anyio.create_task_group() as tasks:
            for number in range(12):
                tasks.start_soon(guest.write_file, f"/{number}", bytes(262_144))
            tasks.start_soon(process.send_stdin, bytes(1_000_000))
            await anyio.wait_all_tasks_blocked()
            await peer.say(frame(1, program.Started(1)))
            assert await anext(process) == Started(1)
            await process.kill()
            tasks.cancel_scope.cancel()
        kinds = set()
        while "Kill" not in kinds:
            kinds.add(type((await peer.hear()).message).__name__)


async def test_bulk_takes_turns_and_urgent_frames_wait_for_little_of_it() -> None:
    async with attached() as (guest, peer), anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(guest.write_file, f"/{number}", bytes(262_144))
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(guest.ping)
        await anyio.wait_all_tasks_blocked()
        before, seen = 0, []
        while not isinstance((event := await peer.hear()).message, control.Ping):
            if isinstance(event.message, files.HostData):
                before += len(event.message.data)
                seen.append(event.channel)
        assert before <= 262_144 * 3  # the socket's own buffer, what is queued, and one turn
        tasks.cancel_scope.cancel()


async def test_a_lost_writer_is_broken_even_when_the_reader_hears_nothing() -> None:
    async with attached() as (guest, peer):
        raw = peer.stream.extra(anyio.abc.SocketAttribute.raw_socket)
        raw.shutdown(socket.SHUT_RD)
        await broken(guest.ping(), "cannot be written")


async def test_the_last_words_of_a_guest_that_has_gone_are_heard() -> None:
    async with attached() as (guest, peer):
        process = await guest.exec(CAT)
        last = frame(1, program.Started(1)) + frame(1, program.Stdout(bytes(65_536))) * 3
        await peer.say(last, frame(1, program.Exit(0, 3, 0, 0, 0)))
        await peer.stream.aclose()
        assert [event async for event in process][-1] == Exited(3)


async def test_a_stream_that_its_owner_closes_breaks_the_link() -> None:
    async with pair() as (stream, peer), anyio.create_task_group() as tasks:
        tasks.start_soon(echo_and_welcome, peer)
        async with LinkGuest.attach(stream, IDENTITY, epoch=EPOCH) as guest:
            await stream.aclose()
            await broken(guest.ping(), "stream")


async def test_a_disk_that_cannot_be_mounted_is_an_os_error() -> None:
    async with attached() as (guest, peer), anyio.create_task_group() as tasks:

        async def answer() -> None:
            assert (await peer.hear()).message == control.Mount("s", "ext4", 1000, ("scratch:/scratch",))
            await peer.say(frame(0, control.Mounted(2, "device s")))

        tasks.start_soon(answer)
        with pytest.raises(FileNotFoundError) as caught:
            await guest.mount_disk("s", "ext4", {"scratch": "/scratch"})
        assert caught.value.filename == "device s"


async def test_an_archive_that_fails_early_is_not_read_to_its_end() -> None:
    given = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal given
        while True:
            given += 1
            yield bytes(65_536)

    async with attached() as (guest, peer), anyio.create_task_group() as tasks:

        async def answer() -> None:
            await peer.hear()
            await peer.say(frame(1, program.Failed(28, "")))

        tasks.start_soon(answer)
        with pytest.raises(OSError, match="No space left") as caught:
            await guest.put_archive("/workspace", endless())
        assert caught.value.filename == "/workspace"
        assert given <= 5


async def test_a_quiesce_that_is_cancelled_on_a_broken_link_is_only_cancelled() -> None:
    async with attached() as (guest, peer):
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(guest.quiesce)
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
                guest._session.fail("told to")
        assert scope.cancelled_caught
        await broken(guest.ping(), "told to")
        assert peer
