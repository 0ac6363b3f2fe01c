"""However a program ends, it ends cleanly, and its neighbours notice nothing."""

from __future__ import annotations

import errno
import time
from pathlib import Path

import anyio
import pytest
import wasmtime
from tests.integration.wasm.conftest import wasm_spec
from tests.support.machines import Machine, booted, request, run

from agentkernel.drivers.contract import Guest, Process
from agentkernel.drivers.wasm.driver import WasmDriver
from agentkernel.model.errors import Refused, Unsupported
from agentkernel.model.execution import Exited, Started, Stdout
from agentkernel.model.kinds import Backend, Isolation
from agentkernel.model.readiness import Readiness
from agentkernel.model.spec import Rlimit
from agentkernel.policy.admission import Offer, Wish, admit
from agentkernel.policy.config import Config

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

MEMORY = '(memory (export "memory") 1)'
WRITE = '(import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))'
EXIT = '(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))'
MODULES = {
    "nothing": '(module (func (export "_start")))',
    "seven": f'(module {EXIT} {MEMORY} (func (export "_start") i32.const 7 call $exit))',
    "hello": f"""(module {WRITE} {MEMORY} (data (i32.const 8) "\\10\\00\\00\\00\\06\\00\\00\\00hello\\0a")
        (func (export "_start") (drop (call $write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 0)))))""",
    "trap": '(module (func (export "_start") unreachable))',
    "outside": '(module (memory 1) (func (export "_start") (drop (i32.load (i32.const 70000)))))',
    "endless": '(module (func (export "_start") (loop br 0)))',
    "deep": '(module (func $f (export "_start") call $f))',
    "greedy": """(module (memory 1) (func (export "_start")
        (if (i32.ne (memory.grow (i32.const 60000)) (i32.const -1)) (then unreachable))))""",
}


COMPONENT = """(component
    (core module $m (func (export "run") (result i32) {body}))
    (core instance $i (instantiate $m))
    (func $run (result (result)) (canon lift (core func $i "run")))
    (instance $r (export "run" (func $run)))
    (export "wasi:cli/run@0.2.{patch}" (instance $r)))"""

OFFERS = {
    (Backend.WASM, None): Offer(
        Readiness(usable=True, isolation=Isolation.WASM),
        WasmDriver.capabilities,
        WasmDriver.runtimes,
        WasmDriver.programs,
    )
}


async def put(guest: Guest, name: str) -> str:
    """One of the modules above, in the sandbox."""
    await guest.write_file(f"/workspace/{name}.wasm", bytes(wasmtime.wat2wasm(MODULES[name])))
    return f"{name}.wasm"


async def started(guest: Guest, *argv: str, stdin: bool = False) -> Process:
    """A program that runs."""
    process = await guest.exec(request(*argv, stdin=stdin))
    assert isinstance(await anext(aiter(process)), Started)
    return process


async def killed(process: Process) -> Exited:
    """Its end, after it was killed."""
    await process.kill()
    with anyio.fail_after(20):
        events = [event async for event in process]
    assert isinstance(events[-1], Exited)
    return events[-1]


async def test_wasi_modules_run_with_their_exit_codes_and_output(guest: Guest) -> None:
    assert (await run(guest, await put(guest, "nothing"))).code == 0
    assert (await run(guest, await put(guest, "seven"), "an argument")).code == 7
    assert (await run(guest, await put(guest, "hello"))).stdout == b"hello\n"
    assert (await run(guest, "/workspace/hello.wasm", cwd="/")).stdout == b"hello\n"


async def test_components_that_are_commands_run_and_others_are_no_programs(guest: Guest) -> None:
    for body, patch, code in (("i32.const 0", 0, 0), ("i32.const 1", 6, 1), ("unreachable", 3, 134)):
        content = bytes(wasmtime.wat2wasm(COMPONENT.format(body=body, patch=patch)))
        await guest.write_file("/workspace/component.wasm", content)
        assert (await run(guest, "component.wasm")).code == code, body
    await guest.write_file("/workspace/component.wasm", bytes(wasmtime.wat2wasm("(component)")))
    refusal = (await run(guest, "component.wasm")).refusal
    assert (refusal.errno, "does not export wasi:cli/run" in refusal.what) == (errno.ENOEXEC, True)


async def test_a_trap_is_told_as_an_abort_with_its_cause(guest: Guest) -> None:
    for name, cause in (("trap", b"unreachable"), ("outside", b"out of bounds"), ("deep", b"stack")):
        ran = await run(guest, await put(guest, name))
        assert (ran.end.signal, ran.code) == (6, 134)
        assert cause in ran.stderr, name
    assert (await run(guest, await put(guest, "nothing"))).code == 0


async def test_a_bad_module_is_not_executable_and_a_missing_one_is_not_there(guest: Guest) -> None:
    good = bytes(wasmtime.wat2wasm(MODULES["hello"]))
    for content in (b"", b"\0asm", b"not wasm at all", good[:-4], b"\0asm\x0d\0\x01\0garbage", good + b"\xff"):
        await guest.write_file("/workspace/bad.wasm", content)
        refusal = (await run(guest, "bad.wasm")).refusal
        assert (refusal.errno, refusal.what.partition(" (")[0]) == (errno.ENOEXEC, "program: bad.wasm")
    assert (await run(guest, "missing.wasm")).refusal.errno == errno.ENOENT
    await guest.write_file("/workspace/bad.wasm", good)
    assert (await run(guest, "bad.wasm")).code == 0


async def test_programs_of_other_backends_are_refused_with_what_is_here(guest: Guest) -> None:
    for name in ("bash", "/bin/sh", "npm", "wasm", "python3.11"):
        with pytest.raises(Unsupported, match="a wasm sandbox cannot run") as caught:
            await run(guest, name, "-c", "true")
        assert "python3" in caught.value.hint
        with pytest.raises(Unsupported, match="cannot run"):
            admit(Wish("base", Backend.WASM, [name]), OFFERS, Config())
    admit(Wish("base", Backend.WASM, ["/usr/bin/python3"]), OFFERS, Config())
    admit(Wish("base", Backend.WASM, ["dir/app.wasm"]), OFFERS, Config())
    assert (await run(guest, "python3", "-c", "")).code == 0


async def test_what_a_wasm_sandbox_has_not_is_refused(guest: Guest) -> None:
    for user in ("root", "nobody", "0:0"):
        with pytest.raises(Unsupported):
            await guest.exec(request("python3", "-c", "", user=user))
    assert (await run(guest, "python3", "-c", "", cwd="/nowhere")).refusal.what == "cwd: /nowhere"
    limited = await run(guest, "python3", "-c", "", rlimits=(Rlimit(7, 64, 64),))
    assert (limited.refusal.errno, limited.refusal.what) == (errno.ENOTSUP, "rlimit: 7")
    assert (await run(guest, "python3", "-c", "", user="sandbox", cwd="/made", make_cwd=True)).code == 0


@pytest.mark.parametrize(
    "argv",
    [
        ("python3", "-c", "while True: pass"),
        ("python3", "-c", "import time; time.sleep(60)"),
        ("python3", "-c", "input()"),
        ("python3", "-c", "while True: print('x' * 4000)"),
        ("endless.wasm",),
    ],
    ids=["computes", "sleeps", "waits for input", "prints", "module"],
)
async def test_a_killed_program_is_gone_at_once_and_its_neighbour_goes_on(guest: Guest, argv: tuple[str, ...]) -> None:
    await put(guest, "endless")
    neighbour = await started(guest, "python3", "-c", "import sys; print(sys.stdin.read())", stdin=True)
    end = await killed(await started(guest, *argv, stdin=argv[-1] == "input()"))
    assert (end.code, end.signal) == (137, 9)
    await neighbour.send_stdin(b"still here")
    await neighbour.close_stdin()
    events = [event async for event in neighbour]
    assert (events[0], events[-1].code) == (Stdout(b"still here\n"), 0)  # type: ignore[union-attr]


async def test_signals_do_what_they_do_by_default(guest: Guest) -> None:
    process = await started(guest, "python3", "-c", "while True: pass")
    await process.signal(28)  # SIGWINCH, ignored
    await guest.ping()
    await process.signal(15)
    events = [event async for event in process]
    assert (events[-1].code, events[-1].signal) == (143, 15)  # type: ignore[union-attr]


async def test_a_memory_bomb_ends_with_its_own_error_and_the_sandbox_goes_on(guest: Guest) -> None:
    bomb = await run(guest, "python3", "-c", "x = []\nwhile True: x.append(bytearray(1 << 20))")
    assert (bomb.code, bomb.stderr.splitlines()[-1]) == (1, b"MemoryError")
    assert (await run(guest, await put(guest, "greedy"))).code == 0, "memory.grow says no, and the module sees that"
    assert (await run(guest, "python3", "-c", "print(len(bytearray(100 << 20)))")).text == str(100 << 20)


async def test_deep_recursion_is_an_error_of_the_program(guest: Guest) -> None:
    ran = await run(guest, "python3", "-c", "def f(): f()\nf()")
    assert (ran.code, ran.stderr.splitlines()[-1].split(b":")[0]) == (1, b"RecursionError")


async def test_a_full_tree_is_an_error_of_the_program_and_of_the_caller(driver: WasmDriver, tmp_path: Path) -> None:
    async with booted(driver, wasm_spec(disk_mib=8), tmp_path) as machine:
        program = "open('big', 'wb').write(bytes(6 << 20)); open('more', 'wb').write(bytes(6 << 20))"
        ran = await run(machine.guest, "python3", "-c", program)
        assert (ran.code, b"OSError" in ran.stderr) == (1, True), "WASI says that writing failed, not why"
        with pytest.raises(OSError, match="No space left") as caught:
            await machine.guest.write_file("/workspace/third", bytes(4 << 20))
        assert caught.value.errno == errno.ENOSPC
        await machine.guest.remove("/workspace/big")
        await machine.guest.write_file("/workspace/third", bytes(1 << 20))


async def test_output_that_nobody_reads_stops_its_own_program_only(machine: Machine) -> None:
    guest = machine.guest
    flood = await started(guest, "python3", "-c", "while True: print('x' * 4000)")
    assert (await run(guest, "python3", "-c", "print('quick')")).text == "quick"
    seen = 0
    async for event in flood:
        seen += len(event.data) if isinstance(event, Stdout) else 0
        if seen > 1 << 20:
            break
    assert (await killed(flood)).signal == 9


async def test_more_programs_than_allowed_are_refused_and_room_comes_back(driver: WasmDriver, tmp_path: Path) -> None:
    async with booted(driver, wasm_spec(pids=2), tmp_path) as machine:
        running = [await started(machine.guest, "python3", "-c", "input()", stdin=True) for _ in range(2)]
        assert (await run(machine.guest, "python3", "-c", "")).refusal.errno == errno.EAGAIN
        for process in running:
            await killed(process)
        assert (await run(machine.guest, "python3", "-c", "")).code == 0


async def test_a_python_that_does_not_fit_its_memory_is_an_abort_with_its_cause(
    driver: WasmDriver, tmp_path: Path
) -> None:
    async with booted(driver, wasm_spec(memory_mib=8), tmp_path) as machine:
        began = time.monotonic()
        ran = await run(machine.guest, "python3", "-c", "print(1)")
        assert (ran.end.signal, b"memory" in ran.stderr) == (6, True), time.monotonic() - began
        assert (await run(machine.guest, await put(machine.guest, "nothing"))).code == 0


async def test_a_request_that_is_too_long_is_refused(guest: Guest) -> None:
    with pytest.raises(Refused):
        await guest.exec(request("python3", "-c", "", *(["x" * 131_000] * 17)))
    ran = await run(guest, "python3", "-c", "import sys; print(len(sys.argv[1]))", "x" * 1_000_000)
    assert ran.text == "1000000"
