"""LinkGuest against the real agent, over a socketpair that stands for its descriptors 0 and 1."""
# ruff: noqa: ASYNC220  # a blocking call holds up nobody but the test

from __future__ import annotations

import io
import os
import platform
import shutil
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio.abc import UNIXSocketStream

from agentkernel.drivers.link import LinkGuest, LinkProcess
from agentkernel.model.errors import Broken, Refused, Unsupported
from agentkernel.model.execution import ExecEvent, ExecRequest, Exited, NotStarted, Started, Stderr, Stdout
from agentkernel.model.readiness import Identity
from agentkernel.model.spec import Rlimit
from agentkernel.wire.frames import encode_frame

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[2]
AGENT = ROOT / "src" / "agentkernel" / "_bin" / f"agent-{platform.machine()}"
DEADLINE_S = 120.0
IDENTITY = Identity("sandbox-test", bytes(range(16)))
ENV = (b"PATH=/usr/local/bin:/usr/bin:/bin", b"LANG=C.UTF-8")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def agent_program() -> Path:
    if not AGENT.exists():
        subprocess.run(["make", "-C", str(ROOT / "guest")], check=True)
    return AGENT


@pytest.fixture
def place() -> Iterator[str]:
    """A directory that the sandbox's user may write to, and reach (pytest's own are private)."""
    path = Path(tempfile.mkdtemp(prefix="agentkernel-link-"))
    path.chmod(0o777)
    yield str(path)
    shutil.rmtree(path)


@asynccontextmanager
async def agent_stream(program: Path) -> AsyncIterator[tuple[UNIXSocketStream, subprocess.Popen[bytes]]]:
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen([program, "--stdio"], stdin=theirs, stdout=theirs)
    try:
        async with await UNIXSocketStream.from_socket(ours) as stream:
            with anyio.fail_after(DEADLINE_S):
                yield stream, process
        process.wait(10)
    finally:
        process.kill()
        process.wait()


@pytest.fixture
async def guest(agent_program: Path) -> AsyncIterator[LinkGuest]:
    async with agent_stream(agent_program) as (stream, _), LinkGuest.attach(stream, IDENTITY) as attached:
        yield attached


def request(*argv: str | bytes, cwd: str = "/", stdin: bool = False) -> ExecRequest:
    return ExecRequest(tuple(os.fsencode(each) for each in argv), ENV, cwd=cwd, stdin=stdin)


def shell(script: str, cwd: str = "/") -> ExecRequest:
    return request("/bin/sh", "-c", script, cwd=cwd)


async def events_of(process: LinkProcess) -> list[ExecEvent]:
    return [event async for event in process]


def output(events: list[ExecEvent]) -> bytes:
    return b"".join(event.data for event in events if isinstance(event, Stdout))


def end_of(events: list[ExecEvent]) -> Exited:
    assert isinstance(events[-1], Exited)
    return events[-1]


async def test_the_greeting_tells_what_the_agent_is(guest: LinkGuest) -> None:
    assert {"exec", "stdin", "signal", "files", "tar-in"} <= guest.facts.features
    assert guest.facts.facts["arch"] == platform.machine()
    assert guest.facts.facts["transport"] == "stdio"
    await guest.identify(IDENTITY)
    await guest.refresh()
    await guest.ping()


async def test_a_program_starts_speaks_on_both_streams_and_ends(guest: LinkGuest) -> None:
    events = await events_of(await guest.exec(shell("echo out; echo err >&2; exit 7")))
    assert isinstance(events[0], Started)
    assert output(events) == b"out\n"
    assert Stderr(b"err\n") in events
    end = end_of(events)
    assert (end.code, end.signal) == (7, None)
    assert end.peak_kib > 0


async def test_a_program_finds_what_was_asked_for_and_little_else(guest: LinkGuest, place: str) -> None:
    events = await events_of(
        await guest.exec(
            ExecRequest(
                (b"sh", b"-c", b'pwd; id -u; ulimit -n; env | cut -d= -f1 | sort | tr "\\n" " "'),
                (*ENV, b"MINE=1"),
                cwd=f"{place}/made",
                rlimits=(Rlimit(7, 77, 77),),
                make_cwd=True,
            )
        )
    )
    where, uid, files, names = output(events).decode().split("\n")
    assert (where, uid, files) == (f"{place}/made", "1000", "77")
    assert (
        {"HOME", "LOGNAME", "USER", "MINE", "PATH"}
        <= set(names.split())
        <= {
            *("HOME", "LOGNAME", "USER", "MINE", "PATH", "LANG", "PWD", "OLDPWD", "SHLVL", "_"),
        }
    )


@pytest.mark.parametrize(
    ("wanted", "errno", "what"),
    [
        (request("no-such-program"), 2, "program"),
        (request("/etc/passwd"), 13, "program"),
        (request("true", cwd="/no/such/place"), 2, "cwd"),
        (ExecRequest((b"true",), ENV, cwd="/", user="nobody-knows"), None, "user"),
    ],
)
async def test_a_start_that_fails_says_why(guest: LinkGuest, wanted: ExecRequest, errno: int | None, what: str) -> None:
    (failed,) = await events_of(await guest.exec(wanted))
    assert isinstance(failed, NotStarted)
    assert failed.errno == errno or errno is None
    assert failed.what.startswith(f"{what}: ")


async def test_a_terminal_is_refused_as_declared(guest: LinkGuest) -> None:
    with pytest.raises(Unsupported, match="pty"):
        await guest.exec(ExecRequest((b"true",), ENV, cwd="/", terminal=(24, 80)))


async def test_a_request_of_two_mebibytes_arrives_whole(guest: LinkGuest) -> None:
    words = [f"{number:04d}" + "w" * 100_000 for number in range(18)]
    events = await events_of(await guest.exec(request("printf", "%s\n", *words)))
    assert output(events).decode().split() == words
    with pytest.raises(Refused, match="too long"):
        await guest.exec(request("printf", *words, *words))


async def test_input_comes_back_from_cat(guest: LinkGuest) -> None:
    process = await guest.exec(request("cat", stdin=True))
    content = os.urandom(1_000_000) * 5

    async def type_it() -> None:
        for at in range(0, len(content), 300_000):
            await process.send_stdin(content[at : at + 300_000])
        await process.close_stdin()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(type_it)
        events = await events_of(process)
    assert output(events) == content
    assert end_of(events).code == 0


async def test_a_hundred_megabytes_come_out_whole(guest: LinkGuest) -> None:
    zeros = bytes(65_536)
    began, size = time.perf_counter(), 0
    async for event in await guest.exec(request("head", "-c", "100000000", "/dev/zero")):
        match event:
            case Stdout(data=data):
                assert data == zeros[: len(data)]
                size += len(data)
    assert size == 100_000_000
    print(f"{size / 1e6 / (time.perf_counter() - began):.0f} MB/s of output")


async def test_a_program_that_nobody_reads_delays_nobody_else(guest: LinkGuest) -> None:
    flood = await guest.exec(request("yes"))
    for number in range(5):
        assert output(await events_of(await guest.exec(request("echo", str(number))))) == f"{number}\n".encode()
    flood.abandon()
    await guest.ping()


async def test_signals_and_kill_reach_a_program_and_what_it_started(guest: LinkGuest, place: str) -> None:
    process = await guest.exec(request("sleep", "1000"))
    assert isinstance(await anext(process), Started)
    await process.signal(15)
    assert end_of(await events_of(process)).signal == 15
    daemonising = "(setsid sh -c 'echo $$ > pid; exec sleep 1000' &) ; while ! [ -s pid ]; do :; done; echo ready; cat"
    process = await guest.exec(ExecRequest((b"sh", b"-c", daemonising.encode()), ENV, cwd=place, stdin=True))
    while not isinstance(event := await anext(process), Stdout):
        assert isinstance(event, Started)
    daemon = int((await guest.read_file(f"{place}/pid")).decode())
    assert Path(f"/proc/{daemon}").exists()
    await process.kill()
    end = end_of(await events_of(process))
    assert (end.code, end.signal) == (137, 9)
    while await is_running(guest, daemon):
        """SIGKILL has been sent by then; the fixture's deadline bounds how long the kernel may take."""


async def is_running(guest: LinkGuest, pid: int) -> bool:
    await guest.ping()
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_files_make_the_round_trip(guest: LinkGuest, place: str) -> None:
    content = os.urandom(1_000_000) * 3
    await guest.write_file(f"{place}/a/b/file", content, mode=0o640, make_parents=True)
    assert await guest.read_file(f"{place}/a/b/file") == content
    assert await guest.read_file(f"{place}/a/b/file", offset=2_999_990, limit=10) == content[-10:]
    with pytest.raises(Refused, match="more than 10"):
        await guest.read_file(f"{place}/a/b/file", limit=10)
    entry = await guest.stat(f"{place}/a/b/file")
    assert (entry.name, entry.kind, entry.size, entry.mode & 0o7777, entry.uid) == ("file", "f", 3_000_000, 0o640, 1000)
    await guest.write_file(f"{place}/a/empty", b"")
    assert await guest.read_file(f"{place}/a/empty") == b""
    await guest.make_directory(f"{place}/x/y", parents=True, mode=0o700)
    await guest.make_directory(f"{place}/x/y", parents=True)
    await guest.rename(f"{place}/a/b/file", f"{place}/x/y/moved")
    assert sorted(each.name for each in await guest.list_directory(f"{place}/a")) == ["b", "empty"]
    assert [(each.name, each.kind) for each in await guest.list_directory(f"{place}/x")] == [("y", "d")]
    assert await guest.list_directory(f"{place}/a/b") == []
    await guest.remove(f"{place}/x", recursive=True)
    with pytest.raises(FileNotFoundError):
        await guest.stat(f"{place}/x")


async def test_errors_of_files_are_the_builtin_ones(guest: LinkGuest, place: str) -> None:
    with pytest.raises(FileNotFoundError):
        await guest.read_file(f"{place}/none")
    with pytest.raises(IsADirectoryError):
        await guest.read_file(place)
    with pytest.raises(FileNotFoundError):
        await guest.write_file(f"{place}/none/x", b"")
    await guest.make_directory(f"{place}/d")
    with pytest.raises(FileExistsError):
        await guest.make_directory(f"{place}/d")
    await guest.write_file(f"{place}/d/f", b"")
    with pytest.raises(OSError, match="not empty"):
        await guest.remove(f"{place}/d")
    with pytest.raises(NotADirectoryError):
        await guest.list_directory(f"{place}/d/f")


async def test_names_that_are_not_utf_8_come_and_go(guest: LinkGuest, place: str) -> None:
    name = os.fsdecode(b"caf\xe9")
    await guest.write_file(f"{place}/{name}", b"x")
    (entry,) = await guest.list_directory(place)
    assert entry.name == name
    assert await guest.read_file(f"{place}/{entry.name}") == b"x"


async def test_a_directory_of_many_names_is_listed(guest: LinkGuest, place: str) -> None:
    names = {f"{number:05d}" + "n" * 100 for number in range(3000)}
    for name in names:
        (Path(place) / name).touch()
    assert {entry.name for entry in await guest.list_directory(place)} == names


def archive(*members: tuple[str, bytes]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as opened:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            opened.addfile(member, io.BytesIO(content))
    return raw.getvalue()


async def chunks_of(content: bytes, size: int) -> AsyncIterator[bytes]:
    for at in range(0, len(content), size):
        yield content[at : at + size]


async def test_an_archive_is_extracted_below_its_directory(guest: LinkGuest, place: str) -> None:
    long = "n" * 200
    tar = archive(("a", b"A"), ("d/e/f", os.urandom(700_000)), (long, b"long"), ("\u00e9", b"e"))
    assert await guest.put_archive(f"{place}/new", chunks_of(tar, 100_001)) == 4
    assert await guest.read_file(f"{place}/new/{long}") == b"long"
    assert (await guest.stat(f"{place}/new/d/e/f")).size == 700_000
    for wrong in ("../out", "/abs"):
        with pytest.raises(PermissionError):
            await guest.put_archive(f"{place}/new", chunks_of(archive((wrong, b"")), 512))
    with pytest.raises(OSError, match=r"[Bb]ad message"):
        await guest.put_archive(f"{place}/new", chunks_of(tar[:300_000], 65_536))
    assert sorted(path.name for path in Path(place).iterdir()) == ["new"]


async def test_a_cancelled_write_leaves_nothing_half_written(guest: LinkGuest, place: str) -> None:
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(guest.write_file, f"{place}/big", bytes(50_000_000))
            await guest.ping()
            scope.cancel()
    assert await guest.list_directory(place) == []


async def test_a_quiesced_agent_is_silent_until_it_is_resumed(guest: LinkGuest) -> None:
    flood = await guest.exec(request("yes"))
    await anext(flood)
    for _ in range(3):
        await guest.quiesce()
        held = await guest.exec(request("echo", "later"))
        guest.resume()
        assert output(await events_of(held)) == b"later\n"
    for _ in range(50):
        await anext(flood)
    await flood.kill()
    assert end_of(await events_of(flood)).signal == 9


async def test_a_new_epoch_begins_in_the_middle_of_a_flood(agent_program: Path) -> None:
    async with agent_stream(agent_program) as (stream, _):
        for _ in range(5):
            async with LinkGuest.attach(stream, IDENTITY) as guest:
                for _ in range(3):
                    flood = await guest.exec(request("yes"))
                    await anext(flood)
                await anyio.sleep(0.01)
        async with LinkGuest.attach(stream, IDENTITY) as guest:
            assert output(await events_of(await guest.exec(request("echo", "fresh")))) == b"fresh\n"


@pytest.mark.parametrize("written", [0, 1, 15, 16, 65_000])
async def test_an_agent_that_an_earlier_host_left_inside_a_frame_is_attached_to(
    agent_program: Path, written: int
) -> None:
    async with agent_stream(agent_program) as (stream, _):
        async with LinkGuest.attach(stream, IDENTITY, epoch=bytes(range(16))) as guest:
            await guest.ping()
        await stream.send(encode_frame(bytes(range(4)), 1, 17, bytes(65_536))[:written])
        async with LinkGuest.attach(stream, IDENTITY, used=True) as guest:
            await guest.ping()


async def test_a_quiesced_agent_can_be_attached_to_anew(agent_program: Path) -> None:
    async with agent_stream(agent_program) as (stream, _):
        async with LinkGuest.attach(stream, IDENTITY) as guest:
            await anext(await guest.exec(request("yes")))
            await guest.quiesce()
        async with LinkGuest.attach(stream, IDENTITY) as guest:
            await guest.ping()


async def test_many_programs_at_once_keep_their_bytes_apart(guest: LinkGuest) -> None:
    async def one(number: int) -> None:
        process = await guest.exec(shell(f"head -c 1000000 /dev/zero | tr '\\0' '{chr(65 + number)}'"))
        assert output(await events_of(process)) == bytes([65 + number]) * 1_000_000

    async with anyio.create_task_group() as tasks:
        for number in range(12):
            tasks.start_soon(one, number)


async def test_an_agent_that_is_killed_breaks_the_call(agent_program: Path) -> None:
    async with agent_stream(agent_program) as (stream, agent), LinkGuest.attach(stream, IDENTITY) as guest:
        # A program that ends with its input: nobody is left to end it.
        process = await guest.exec(request("cat", stdin=True))
        await anext(process)
        agent.kill()
        with pytest.raises(Broken, match="stream ended"):
            await anext(process)
        assert await guest.wait_broken()


async def test_an_agent_that_is_shut_down_ends(agent_program: Path) -> None:
    async with agent_stream(agent_program) as (stream, agent):
        async with LinkGuest.attach(stream, IDENTITY) as guest:
            process = await guest.exec(request("sleep", "1000"))
            await anext(process)
            await guest.shut_down()
            await guest.wait_broken()
        assert agent.wait(10) == 0
