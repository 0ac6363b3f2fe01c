"""LinkGuest against a guest that behaves: the simulated one, over a real socketpair."""

from __future__ import annotations

import io
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio.abc import UNIXSocketStream

from agentkernel.drivers.fake import FakeDriver, Faults, SimulatedGuest
from agentkernel.drivers.link import LinkGuest, LinkProcess
from agentkernel.model.errors import Broken, Busy, Refused, Unsupported
from agentkernel.model.execution import ExecEvent, ExecRequest, Exited, NotStarted, Started, Stderr, Stdout
from agentkernel.model.ids import Digest, SandboxId, new_sandbox_id
from agentkernel.model.kinds import Backend
from agentkernel.model.readiness import Identity
from agentkernel.model.spec import BootSpec

pytestmark = pytest.mark.anyio
SPEC = BootSpec(Backend.MICROVM, "python", Digest("0" * 64))
DEADLINE_S = 20.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Named:
    """A birth that remembers what it was told."""

    def __init__(self) -> None:
        self.id: SandboxId = new_sandbox_id()
        self.directory = Path()
        self.facts: dict[str, str | int] = {}

    async def record(self, **facts: str | int) -> None:
        self.facts.update(facts)


@asynccontextmanager
async def booted(*refused: str) -> AsyncIterator[tuple[LinkGuest, SimulatedGuest]]:
    driver, birth = FakeDriver(faults=Faults(refused=frozenset(refused))), Named()
    with anyio.fail_after(DEADLINE_S):
        async with driver.boot(SPEC, birth) as guest:
            assert isinstance(guest, LinkGuest)
            yield guest, driver.alive[birth.id]


def command(*argv: str, stdin: bool = False) -> ExecRequest:
    return ExecRequest(tuple(map(str.encode, argv)), stdin=stdin)


async def events_of(process: LinkProcess) -> list[ExecEvent]:
    return [event async for event in process]


def output(events: list[ExecEvent]) -> bytes:
    return b"".join(event.data for event in events if isinstance(event, Stdout))


async def test_a_program_starts_speaks_and_ends() -> None:
    async with booted() as (guest, _):
        started, out, end = await events_of(await guest.exec(command("echo", "hello", "there")))
        assert isinstance(started, Started)
        assert out == Stdout(b"hello there\n")
        assert end == Exited(0)
        assert await events_of(await guest.exec(command("err", "no")))  # the link serves the next one
        (failed,) = await events_of(await guest.exec(command("no-such-program")))
        assert failed == NotStarted(2, "program: no-such-program")


async def test_the_facts_of_the_greeting_are_known() -> None:
    async with booted("mount", "pty") as (guest, simulated):
        assert guest.facts.facts["agent"] == "simulated"
        assert "exec" in guest.facts.features
        assert "pty" not in guest.facts.features
        await guest.identify(Identity("other", bytes(16)))
        await guest.refresh()
        await guest.ping()
        assert simulated.greetings == 3


async def test_what_a_guest_refused_is_unsupported() -> None:
    refused = ("exec", "stdin", "pty", "user-root", "files", "tar-in", "mount")
    async with booted(*refused[1:]) as (guest, _):
        for request in (
            ExecRequest((b"cat",), stdin=True),
            ExecRequest((b"cat",), terminal=(24, 80)),
            ExecRequest((b"cat",), user="root"),
            ExecRequest((b"cat",), user="0:7"),
            ExecRequest((b"cat",), user="another"),
        ):
            with pytest.raises(Unsupported):
                await guest.exec(request)
        for call in (
            guest.read_file("/a"),
            guest.put_archive("/a", chunks_of(b"", 1)),
            guest.mount_disk("s", "ext4", {}),
        ):
            with pytest.raises(Unsupported):
                await call
    async with booted(*refused) as (guest, _):
        with pytest.raises(Unsupported, match="exec"):
            await guest.exec(command("true"))


async def test_a_guest_with_one_user_takes_its_names_and_no_other() -> None:
    async with booted("user-root") as (guest, _):
        for user in ("", "sandbox", "1000", "1000:1000"):
            assert await events_of(await guest.exec(ExecRequest((b"true",), user=user)))
            await guest.write_file("/file", b"", owner=user)
        for call in (
            guest.exec(ExecRequest((b"true",), user="0")),
            guest.write_file("/file", b"", owner="root"),
            guest.make_directory("/folder", owner="7:8"),
            guest.put_archive("/folder", chunks_of(b"", 1), owner="root"),
        ):
            with pytest.raises(Unsupported, match="one user"):
                await call
    async with booted() as (guest, _):
        assert await events_of(await guest.exec(ExecRequest((b"true",), user="root")))
        await guest.write_file("/file", b"", owner="root")


@pytest.mark.parametrize(
    "request_",
    [
        ExecRequest(()),
        ExecRequest((b"a\0b",)),
        ExecRequest((b"a",), cwd="here"),
        ExecRequest((b"a" * 3_000_000,)),
    ],
)
async def test_what_cannot_be_sent_is_refused_and_the_link_goes_on(request_: ExecRequest) -> None:
    async with booted() as (guest, _):
        with pytest.raises(Refused, match="cannot be sent"):
            await guest.exec(request_)
        with pytest.raises(Refused, match="cannot be sent"):
            await guest.read_file("relative")
        await guest.ping()


async def test_a_request_longer_than_a_frame_arrives_whole() -> None:
    async with booted() as (guest, _):
        words = ["w" * 100_000, "x" * 100_000]
        assert output(await events_of(await guest.exec(command("echo", *words)))) == (" ".join(words) + "\n").encode()


async def test_input_goes_in_as_fast_as_it_is_read_and_comes_back() -> None:
    async with booted() as (guest, _):
        process = await guest.exec(command("cat", stdin=True))
        content = bytes(range(256)) * 8000

        async def type_it() -> None:
            await process.send_stdin(content)
            await process.close_stdin()
            await process.close_stdin()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(type_it)
            events = await events_of(process)
        assert output(events) == content
        with pytest.raises(Refused, match="not open"):
            await process.send_stdin(b"late")


async def test_input_after_the_end_is_dropped_and_input_not_asked_for_refused() -> None:
    async with booted() as (guest, _):
        process = await guest.exec(command("true", stdin=True))
        await events_of(process)
        await process.send_stdin(b"x" * 1_000_000)
        await process.close_stdin()
        other = await guest.exec(command("cat"))
        with pytest.raises(Refused, match="not open"):
            await other.send_stdin(b"x")


async def test_a_program_that_ends_lets_go_of_who_sends_it_input() -> None:
    async with booted() as (guest, _):
        process = await guest.exec(command("sleep", "1000", stdin=True))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(process.send_stdin, bytes(1_000_000))
            await anyio.wait_all_tasks_blocked()
            await process.kill()
        assert (await events_of(process))[-1] == Exited(137, 9)


async def test_signals_reach_a_program() -> None:
    async with booted() as (guest, _):
        process = await guest.exec(command("sleep", "1000"))
        for wrong in (0, 65):
            with pytest.raises(Refused, match="no signal"):
                await process.signal(wrong)
        await process.resize(24, 80)
        await process.signal(15)
        assert (await events_of(process))[-1] == Exited(143, 15)
        await process.kill()


async def test_a_program_that_nobody_reads_delays_nobody_else() -> None:
    async with booted() as (guest, _):
        flood = await guest.exec(command("yes"))
        for _ in range(3):
            assert output(await events_of(await guest.exec(command("echo", "hi")))) == b"hi\n"
        await anyio.wait_all_tasks_blocked()
        unread = [flood._backlog.take() for _ in range(len(flood._backlog))]
        waiting = sum(len(event.data) for event in unread if isinstance(event, Stdout))
        assert waiting == 262_144


async def test_a_flood_is_read_a_window_at_a_time_and_killed() -> None:
    async with booted() as (guest, _):
        flood = await guest.exec(command("yes"))
        seen = 0
        async for event in flood:
            seen += len(event.data) if isinstance(event, Stdout) else 0
            if seen > 2_000_000:
                break
        await flood.kill()
        assert (await events_of(flood))[-1] == Exited(137, 9)
        assert await events_of(flood) == []


async def test_an_abandoned_program_ends_and_frees_its_channel() -> None:
    async with booted() as (guest, simulated):
        for _ in range(100):
            flood = await guest.exec(command("yes"))
            await anext(flood)
            flood.abandon()
            flood.abandon()
            assert await events_of(flood) == []
            await guest.ping()
        assert not simulated._running


async def test_a_channel_too_many_is_busy() -> None:
    async with booted() as (guest, _):
        sleepers = [await guest.exec(command("sleep", "1000")) for _ in range(64)]
        with pytest.raises(Busy):
            await guest.exec(command("true"))
        with pytest.raises(Busy):
            await guest.stat("/")
        await sleepers[0].kill()
        await events_of(sleepers[0])
        await guest.stat("/")


async def test_files_are_written_read_described_moved_and_removed() -> None:
    async with booted() as (guest, _):
        content = bytes(range(256)) * 5000
        await guest.write_file("/workspace/deep/file", content, mode=0o600, make_parents=True)
        assert await guest.read_file("/workspace/deep/file") == content
        assert await guest.read_file("/workspace/deep/file", offset=256, limit=len(content)) == content[256:]
        entry = await guest.stat("/workspace/deep/file")
        assert (entry.name, entry.kind, entry.size, entry.mode) == ("file", "f", len(content), 0o600)
        assert (await guest.stat("/")).name == "/"
        await guest.make_directory("/workspace/made")
        await guest.rename("/workspace/deep/file", "/workspace/made/moved")
        assert [each.name for each in await guest.list_directory("/workspace/made")] == ["moved"]
        await guest.remove("/workspace/made", recursive=True)
        assert [each.name for each in await guest.list_directory("/workspace")] == ["deep"]


async def test_errors_of_files_are_the_builtin_ones_with_the_callers_path() -> None:
    async with booted() as (guest, _):
        with pytest.raises(FileNotFoundError) as caught:
            await guest.read_file("/none")
        assert caught.value.filename == "/none"
        assert str(caught.value) == "[Errno 2] No such file or directory: '/none'"
        await guest.make_directory("/workspace/a/b", parents=True)
        with pytest.raises(FileExistsError):
            await guest.make_directory("/workspace/a/b")
        with pytest.raises(IsADirectoryError):
            await guest.read_file("/workspace/a")
        with pytest.raises(OSError, match="not empty"):
            await guest.remove("/workspace/a")


async def test_a_file_that_is_too_long_is_refused() -> None:
    async with booted() as (guest, _):
        await guest.write_file("/workspace/f", b"12345")
        assert await guest.read_file("/workspace/f", limit=5) == b"12345"
        with pytest.raises(Refused, match="more than 4 bytes"):
            await guest.read_file("/workspace/f", limit=4)


async def chunks_of(content: bytes, size: int) -> AsyncIterator[bytes]:
    for at in range(0, len(content), size):
        yield content[at : at + size]


def archive(*names: str) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as opened:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 100_000
            opened.addfile(member, io.BytesIO(bytes(100_000)))
    return raw.getvalue()


async def test_an_archive_is_extracted() -> None:
    async with booted() as (guest, _):
        tar = archive("a", "b/c")
        assert await guest.put_archive("/workspace", chunks_of(tar, 70_000)) == 2
        assert (await guest.stat("/workspace/b/c")).size == 100_000
        with pytest.raises(PermissionError) as caught:
            await guest.put_archive("/workspace", chunks_of(archive("../x"), 70_000))
        assert caught.value.filename == "../x"


async def test_an_archive_whose_source_fails_is_cancelled() -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield b"some"
        raise LookupError("the source failed")

    async with booted() as (guest, simulated):
        with pytest.raises(LookupError):
            await guest.put_archive("/workspace", failing())
        await guest.ping()
        assert not simulated._inputs
        assert not simulated.link._channels


async def test_a_cancelled_transfer_is_cancelled_in_the_guest_too() -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield bytes(100_000)
        await anyio.sleep_forever()

    async with booted() as (guest, simulated):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(guest.put_archive, "/workspace", endless())
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        await guest.ping()
        assert not simulated.link._channels


async def test_a_cancelled_ping_does_not_confuse_the_next() -> None:
    async with booted() as (guest, _):
        for _ in range(3):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await guest.ping()
        await guest.ping()
        await guest.refresh()


async def test_a_quiesced_guest_is_silent_and_goes_on_where_it_stopped() -> None:
    async with booted() as (guest, _):
        flood = await guest.exec(command("yes"))
        await anext(flood)
        await guest.quiesce()
        with pytest.raises(Refused, match="quiesced"):
            await guest.quiesce()
        held = await guest.exec(command("echo", "later"))
        for _ in range(6):
            await anext(flood)
        guest.resume()
        with pytest.raises(Refused, match="not quiesced"):
            guest.resume()
        assert output(await events_of(held)) == b"later\n"
        for _ in range(20):
            await anext(flood)


async def test_a_cancelled_quiesce_is_taken_back() -> None:
    async with booted() as (guest, _):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await guest.quiesce()
        await guest.ping()


async def test_a_disk_is_mounted() -> None:
    async with booted() as (guest, _):
        await guest.mount_disk("disk", "ext4", {"scratch": "/scratch"})


async def test_a_stream_can_be_attached_to_again_after_its_block_was_left_in_the_middle_of_everything() -> None:
    ours, theirs = await streams()
    identity = Identity("h", bytes(16))
    async with ours, theirs, anyio.create_task_group() as tasks:
        with anyio.fail_after(DEADLINE_S):
            tasks.start_soon(SimulatedGuest(theirs).run)
            for _ in range(3):
                async with LinkGuest.attach(ours, identity) as guest:
                    flood = await guest.exec(command("yes"))
                    await anext(flood)
                with pytest.raises(Broken, match="block was left"):
                    await guest.ping()
                with pytest.raises(Broken):
                    await flood.kill()
                flood.abandon()
            tasks.cancel_scope.cancel()


async def streams() -> tuple[UNIXSocketStream, UNIXSocketStream]:
    import socket

    ours, theirs = socket.socketpair()
    return await UNIXSocketStream.from_socket(ours), await UNIXSocketStream.from_socket(theirs)


async def test_what_a_caller_raises_in_the_block_comes_out_of_it_as_it_is() -> None:
    with pytest.raises(LookupError, match="mine"):
        async with booted():
            raise LookupError("mine")


async def test_many_programs_and_files_at_once_keep_their_bytes_apart() -> None:
    async with booted() as (guest, _):

        async def one(number: int) -> None:
            content = bytes([number]) * 400_000
            process = await guest.exec(command("cat", stdin=True))

            async def type_it() -> None:
                await process.send_stdin(content)
                await process.close_stdin()

            async with anyio.create_task_group() as inner:
                inner.start_soon(type_it)
                assert output(await events_of(process)) == content
            await guest.write_file(f"/workspace/{number}", content)
            assert await guest.read_file(f"/workspace/{number}") == content

        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(one, number)


async def test_standard_error_is_apart() -> None:
    async with booted() as (guest, _):
        assert Stderr(b"oh\n") in await events_of(await guest.exec(command("err", "oh")))


async def test_shut_down_waits_for_the_guests_last_word() -> None:
    async with booted() as (guest, _):
        await guest.shut_down()
