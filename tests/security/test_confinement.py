"""Promise 8: what the VMM runs as, what it sees and what it may ask of the kernel. Promise 9: it ends with the daemon.

Enforced by `host/src`. Each refusal stands beside its control: the same probe, outside, succeeds.
"""

# ruff: noqa: ASYNC110, ASYNC222, ASYNC230  a test may block its own loop for a moment

from __future__ import annotations

import ctypes
import json
import os
import platform
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from agentkernel.drivers.confine import (
    Bind,
    Confinement,
    Ended,
    confined,
    confinement_of,
    process_name,
    reap,
    recorded,
    wait_gone,
)
from agentkernel.drivers.confine.reap import supervisors_of
from agentkernel.images.store import Store
from agentkernel.model.errors import Broken, Unsupported

X86_64 = platform.machine() == "x86_64"

# Numbers of the unified table, or of x86-64. Arguments that do nothing where the call is allowed.
CALLS = {
    "ptrace": "101,16902,-1",
    "process_vm_readv": "310,1",
    "process_vm_writev": "311,1",
    "kcmp": "312,0,0,9",
    "mount": "165,0,0,0,0,0",
    "umount2": "166,0,0",
    "pivot_root": "155,0,0",
    "chroot": "161,0",
    "open_tree": "428,-1,0,0",
    "move_mount": "429,-1,0,-1,0,0",
    "fsopen": "430,0,0",
    "fsconfig": "431,-1,0,0,0,0",
    "fsmount": "432,-1,0,0",
    "fspick": "433,-1,0,0",
    "mount_setattr": "442,-1,0,0,0,0",
    "unshare": "272,0",
    "setns": "308,-1,0",
    "keyctl": "250,0,-3,0",
    "add_key": "248,0,0,0,0,0",
    "request_key": "249,0,0,0,0",
    "bpf": "321,0,0,0",
    "perf_event_open": "298,0,0,-1,-1,0",
    "userfaultfd": "323,0",
    "io_uring_setup": "425,0,0",
    "io_uring_enter": "426,-1,0,0,0,0",
    "io_uring_register": "427,-1,0,0,0",
    "open_by_handle_at": "304,-1,0,0",
    "name_to_handle_at": "303,-1,0,0,0,0",
    "finit_module": "313,-1,0,0",
    "pidfd_getfd": "438,-1,0,0",
    "fanotify_init": "300,0,0",
    "iopl": "172,0",
}

# Never called outside: there they would do something.
CALLS_WITHOUT_CONTROL = {
    "kexec_load": "246,0,0,0,0",
    "kexec_file_load": "320,-1,-1,0,0,0",
    "init_module": "175,0,0,0",
    "delete_module": "176,0,0",
    "reboot": "169,0,0,0,0",
    "sethostname": "170,0,0",
    "acct": "163,0",
    "syslog": "103,10,0,0",
}

FAMILIES = {"AF_INET": "2:1:0", "AF_NETLINK": "16:3:0", "AF_PACKET": "17:3:0", "AF_VSOCK": "40:1:0"}


def test_a_confined_program_has_no_privilege_and_shares_no_namespace(world: Any) -> None:
    async def scenario() -> tuple[list[str], list[str], tuple[int, ...], tuple[int, ...], bool]:
        async with confined(world.spec("sleep"), world.birth()) as program:
            inside, daemon = confinement_of(program.pid), confinement_of("self")
            own_uid = set(inside.uids) == {program.uid} and set(inside.gids) == {program.uid}
            return inside.weaknesses(daemon), daemon.weaknesses(daemon), inside.uids, inside.groups, own_uid

    weaknesses, control, uids, groups, own_uid = world.run(scenario)
    assert weaknesses == []
    assert len(control) >= 9  # seven shared namespaces, privileges to be gained, no filter
    assert own_uid
    assert 0 not in uids
    assert groups == ()


def test_two_sandboxes_of_root_run_as_different_users(world: Any) -> None:
    async def scenario() -> tuple[int, int]:
        async with (
            confined(world.spec("sleep"), world.birth()) as first,
            confined(world.spec("sleep"), world.birth()) as second,
        ):
            return first.uid, second.uid

    first, second = world.run(scenario)
    assert (first != second) == world.as_root


def test_it_sees_its_tree_and_nothing_else_of_the_host(world: Any) -> None:
    said = world.ask("ls:/", "read:/etc/passwd", f"read:{world.home}/secret", "ls:/dev", "ls:/tmp", "ls:/proc/sys")
    assert set(said["ls:/"].split()) == {"bin", "dev", "etc", "proc", "tmp"}
    assert said["read:/etc/passwd"] == "inside"
    assert said[f"read:{world.home}/secret"] == "ENOENT"
    assert set(said["ls:/dev"].split()) == {"full", "null", "random", "urandom", "zero"}
    assert said["ls:/tmp"] == ""
    assert said["ls:/proc/sys"] == "ENOENT"
    outside = world.ask_outside(f"read:{world.home}/secret", "read:/etc/passwd")
    assert outside[f"read:{world.home}/secret"] == "of the host"
    assert outside["read:/etc/passwd"] != "inside"


def test_it_cannot_write_to_its_tree_but_to_its_own_tmp(world: Any) -> None:
    tree = world.tree
    said = world.ask("create:/bin/new", "write:/etc/passwd", "create:/new", "create:/dev/new", "create:/tmp/new")
    assert [said[f"create:{path}"] for path in ("/bin/new", "/new", "/dev/new")] == ["EROFS"] * 3
    assert said["write:/etc/passwd"] in {"EROFS", "EACCES"}
    assert said["create:/tmp/new"] == "ok"
    if os.geteuid() == 0:
        assert world.ask_outside(f"create:{tree}/bin/new", f"write:{tree}/etc/passwd") == {
            f"create:{tree}/bin/new": "ok",
            f"write:{tree}/etc/passwd": "ok",
        }


def test_it_sees_no_process_but_its_own(world: Any) -> None:
    mine = os.getpid()
    said = world.ask("ls:/proc", f"signal:{mine}", f"ls:/proc/{mine}", "ids")
    assert set(said["ls:/proc"].split()) == {"1", "self", "thread-self"}
    assert said[f"signal:{mine}"] == "ESRCH"
    assert said[f"ls:/proc/{mine}"] == "ENOENT"
    assert said["ids"] == "pid 1 sid 1 umask 077 host sandbox"
    assert world.ask_outside(f"signal:{mine}") == {f"signal:{mine}": "ok"}


def test_its_network_is_an_empty_loopback(world: Any) -> None:
    said = world.ask("read:/proc/self/net/dev", "read:/proc/self/net/route", "read:/proc/self/net/fib_trie")
    names = [part.rpartition("|")[2].strip() for part in said["read:/proc/self/net/dev"].split(":")[:-1]]
    assert names == ["lo"]
    assert said["read:/proc/self/net/route"].strip("|").count("|") == 0  # the heading alone
    assert "127.0.0.1" not in said["read:/proc/self/net/fib_trie"]  # lo is down: it has no address


@pytest.mark.parametrize("family", FAMILIES)
def test_no_socket_but_a_unix_one_can_be_made(world: Any, family: str) -> None:
    action = f"socket:{FAMILIES[family]}"
    said = world.ask(action, "socket:1:1:0")
    assert said[action] == "EAFNOSUPPORT"
    assert said["socket:1:1:0"] == "ok"
    if os.geteuid() == 0:
        assert world.ask_outside(action)[action] == "ok"


@pytest.mark.skipif(not X86_64, reason="the numbers are those of x86-64")
def test_dangerous_system_calls_are_refused(world: Any) -> None:
    every = {**CALLS, **CALLS_WITHOUT_CONTROL}
    said = world.ask(*(f"call:{call}" for call in every.values()))
    refused = {name for name, call in every.items() if said[f"call:{call}"] == "EPERM"}
    assert refused == set(every)
    if os.geteuid() == 0:
        outside = world.ask_outside(*(f"call:{call}" for call in CALLS.values()))
        assert {name for name, call in CALLS.items() if outside[f"call:{call}"] == "EPERM"} == set()


NESTING = {"ptrace", "mount", "umount2", "pivot_root", "chroot", "unshare", "setns", "sethostname"}


@pytest.mark.skipif(not X86_64, reason="the numbers are those of x86-64")
def test_who_makes_prisons_of_its_own_gets_the_calls_for_that_and_no_other(world: Any) -> None:
    """Those with no harmless arguments are left out: in its own namespaces they work."""
    every = {name: call for name, call in {**CALLS, **CALLS_WITHOUT_CONTROL}.items() if name not in NESTING}
    actions = (*(f"call:{call}" for call in every.values()), "user namespace", "mount in own namespace", "trace")
    families = [f"socket:{family}" for family in FAMILIES.values()]
    said = world.ask(*actions, *families, nesting=True)
    assert {name for name, call in every.items() if said[f"call:{call}"] != "EPERM"} == set()
    assert [said[action] for action in actions[-3:]] == ["ok", "ok", "ok"]
    assert {said[family] for family in families} == {"EAFNOSUPPORT"}
    assert {world.ask(action)[action] for action in actions[-3:]} == {"EPERM"}, "the control: nobody else does"


def test_it_makes_no_namespace_and_mounts_nothing_but_it_can_fork(world: Any) -> None:
    actions = ("user namespace", "mount in own namespace", "trace", "fork", "signals", "call:435,0,0")
    said = world.ask(*actions)
    assert [said[action] for action in actions] == ["EPERM", "EPERM", "EPERM", "ok", "ok", "ENOSYS"]
    outside = world.ask_outside(*actions)
    assert [outside[action] for action in actions] == ["ok", "ok", "ok", "ok", "ok", "EINVAL"]


@pytest.mark.skipif(not X86_64, reason="i386 calls are x86-64's")
def test_a_call_by_foreign_numbers_ends_the_program(world: Any) -> None:
    said = world.ask("i386", f"call:{0x40000000 | 39}")
    assert said["i386"] == "SYS"
    assert said[f"call:{0x40000000 | 39}"] == "ENOSYS"
    assert world.ask_outside("i386")["i386"] in {"ok", "SEGV"}  # SEGV: a kernel without i386 programs


def test_it_gets_the_passed_descriptors_and_no_other(world: Any) -> None:
    async def scenario() -> tuple[dict[str, str], int]:
        with socket.socket(socket.AF_UNIX) as passed, open("/dev/null", "rb") as stray:
            os.set_inheritable(stray.fileno(), True)
            spec = world.spec("fds", "env", "limits", pass_fds=(passed.fileno(),), env={"NAME": "value"}, threads=77)
            async with confined(spec, world.birth()) as program:
                await program.wait_exited()
                return words_of(program.last_words()), passed.fileno()

    said, number = world.run(scenario)
    assert said["fds"].split() == ["0", "1", "2", str(number)]
    assert said["env"].split() == ["NAME=value"]
    assert said["limits"] == "core 0 nofile 256 nproc 77 memlock 65536"


def test_a_fork_bomb_ends_at_its_own_limit(world: Any) -> None:
    assert world.ask("fork bomb", threads=32)["fork bomb"] == "EAGAIN"


def test_the_supervisor_holds_nothing_that_was_passed(world: Any) -> None:
    async def scenario() -> tuple[list[str], int, bytes]:
        with socket.socket(socket.AF_UNIX) as passed:
            async with confined(world.spec("sleep", pass_fds=(passed.fileno(),)), world.birth()) as program:
                held = Path(f"/proc/{program.supervisor_pid}/fd")
                links = [str(link.readlink()) for link in held.iterdir()] if os.geteuid() == 0 else []
                name = Path(f"/proc/{program.supervisor_pid}/cmdline").read_bytes()
                return sorted(link.split(":")[0] for link in links), os.getpid(), name

    links, _, name = world.run(scenario)
    assert links in ([], ["/dev/null"] * 3 + ["anon_inode", "socket"], ["/dev/null"] * 3 + ["pidfd", "socket"])
    assert name.startswith(b"agentkernel-sandbox\0")


def test_a_memfd_can_be_opened_through_proc(world: Any) -> None:
    async def scenario() -> dict[str, str]:
        memory = os.memfd_create("ram")
        try:
            os.ftruncate(memory, 4096)
            spec = world.spec(f"map:/proc/self/fd/{memory}", pass_fds=(memory,))
            async with confined(spec, world.birth()) as program:
                await program.wait_exited()
                return words_of(program.last_words())
        finally:
            os.close(memory)

    assert list(world.run(scenario).values()) == ["ok"]


def test_kvm_is_there_only_when_it_was_asked_for(world: Any) -> None:
    assert world.ask("kvm")["kvm"] == "ENOENT"
    if not os.access("/dev/kvm", os.R_OK | os.W_OK) or not world.as_root:
        pytest.skip("this user cannot open /dev/kvm outside either")
    assert world.ask("kvm", kvm=True)["kvm"] == world.ask_outside("kvm")["kvm"] == "ok"


def test_binds_are_read_only_and_links_are_copied(world: Any) -> None:
    (world.home / "more").mkdir()
    (world.home / "more/file").write_text("more")
    (world.home / "more").chmod(0o755)
    (world.home / "link").symlink_to("/opt/more/file")
    binds = (Bind(world.home / "more", "/opt/more"), Bind(world.home / "link", "/opt/link"))
    said = world.ask("read:/opt/link", "create:/opt/more/new", binds=binds)
    assert said["read:/opt/link"] == "more"
    assert said["create:/opt/more/new"] == "EROFS"


def test_output_is_bounded_and_its_beginning_kept(world: Any) -> None:
    async def scenario() -> str:
        async with confined(world.spec("ids", "flood", log_bytes=8192), world.birth()) as program:
            await program.wait_exited()
            return program.last_words()

    text = world.run(scenario)
    assert text.startswith("ids = ")
    assert 4096 < len(text) <= 8192


@pytest.mark.parametrize(("action", "end"), [("exit:7", Ended(code=7)), ("crash", Ended(signal=signal.SIGILL))])
def test_how_a_program_ended_is_reported(world: Any, action: str, end: Ended) -> None:
    async def scenario() -> Ended:
        async with confined(world.spec(action), world.birth()) as program:
            return await program.wait_exited()

    if not X86_64 and action == "crash":
        end = Ended(signal=signal.SIGTRAP)
    assert world.run(scenario) == end


def test_a_program_that_is_not_there_is_reported_with_its_step(world: Any) -> None:
    async def scenario() -> None:
        async with confined(Confinement(argv=("/bin/absent",), tree=world.tree), world.birth()):
            raise AssertionError("it started")

    with pytest.raises(Broken, match="exec: No such file or directory"):
        world.run(scenario)


def test_a_tree_that_is_not_there_is_reported_with_its_step(world: Any) -> None:
    with pytest.raises(Broken, match="tree: No such file or directory"):
        world.ask("ids", tree=world.home / "absent")


def test_a_host_without_user_namespaces_is_named_as_such(world: Any) -> None:
    """In a user namespace of the test's own whose limit is 0; the control is every other test."""
    if world.as_root:
        pytest.skip("the switch concerns ordinary users")

    async def scenario() -> None:
        async with confined(world.spec("ids"), world.birth()):
            raise AssertionError("it started")

    async def in_forbidding_namespace() -> str:
        uid = os.getuid()
        libc_unshare_user()
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/gid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/sys/user/max_user_namespaces").write_text("0")
        try:
            await scenario()
        except Unsupported as error:
            return f"{error}; {error.hint}"
        return "allowed"

    if os.geteuid() != 0:
        pytest.skip("would bind the test process itself")
    said = world.run(in_forbidding_namespace)
    assert "namespaces: No space left on device: user.max_user_namespaces is 0" in said
    assert "doctor" in said


def test_nothing_is_mounted_on_the_host(world: Any) -> None:
    before = Path("/proc/self/mountinfo").read_text()

    async def scenario() -> str:
        async with confined(world.spec("sleep"), world.birth()) as program:
            during = Path("/proc/self/mountinfo").read_text()
            inside = Path(f"/proc/{program.pid}/mountinfo").read_text()
            assert "tmpfs" in inside
            return during

    assert world.run(scenario) == before
    assert Path("/proc/self/mountinfo").read_text() == before


def test_leaving_the_block_ends_the_program_and_all_it_started(world: Any) -> None:
    async def scenario() -> tuple[int, list[bool]]:
        async with confined(world.spec("children", "sleep"), world.birth()) as program:
            namespace = Path(f"/proc/{program.pid}/ns/pid").readlink()
            while len(members := in_namespace(namespace)) < 4:
                await anyio.sleep(0.01)
            names = [process_name(pid) for pid in (program.supervisor_pid, *members)]
        return len(members), [name is not None and process_name(name.pid) == name for name in names]

    count, alive = world.run(scenario)
    assert count == 4
    assert not any(alive)


def test_leaving_by_cancellation_ends_it_too(world: Any) -> None:
    async def scenario() -> bool:
        with anyio.CancelScope() as scope:
            async with confined(world.spec("sleep"), world.birth()) as program:
                name = process_name(program.pid)
                scope.cancel()
                await anyio.sleep_forever()
        return name is not None and process_name(name.pid) != name

    assert world.run(scenario)


@pytest.fixture
def private(world: Any) -> Any:
    """A birth with a directory to be removed: files, a folder, and a link to what must stay."""
    birth = world.birth()
    (birth.directory / "below").mkdir(parents=True)
    (birth.directory / "disk").write_bytes(b"x")
    (birth.directory / "below/disk").write_bytes(b"x")
    (birth.directory / "below/out").symlink_to(world.home / "tree")
    for path in (birth.directory, birth.directory / "below"):
        os.chown(path, world.home.stat().st_uid, world.home.stat().st_gid)
    return birth


def test_a_killed_daemon_leaves_neither_program_nor_directory(world: Any, private: Any) -> None:
    daemon = world.daemon(world.spec("children", "sleep", remove=private.directory), private)
    try:
        assert not daemon.is_gone("pid", within_s=0.1)  # the control: it lives while the daemon does
        daemon.kill()
        assert daemon.is_gone("pid")
        assert daemon.is_gone("supervisor_pid")
    finally:
        daemon.close()
    assert not private.directory.exists()
    assert (world.tree / "bin/probe").exists()


def test_a_kept_program_outlives_its_daemon_until_it_is_reaped(world: Any, private: Any) -> None:
    daemon = world.daemon(world.spec("sleep", remove=private.directory), private, keep=True)
    try:
        daemon.kill()
        assert not daemon.is_gone("pid", within_s=0.3)
        assert private.directory.exists()

        async def scenario() -> None:
            await reap(private.id, {})  # the id alone

        world.run(scenario)
        assert daemon.is_gone("pid", within_s=0)
        assert daemon.is_gone("supervisor_pid", within_s=0)
    finally:
        daemon.close()


def test_a_killed_supervisor_takes_its_program_along(world: Any) -> None:
    async def scenario() -> tuple[Ended, bool]:
        async with confined(world.spec("children", "sleep"), world.birth()) as program:
            name = process_name(program.pid)
            assert name is not None
            os.kill(program.supervisor_pid, signal.SIGKILL)
            ended = await program.wait_exited()
            await wait_gone(name)
            return ended, process_name(name.pid) == name

    assert world.run(scenario) == (Ended(), False)


def test_the_terminals_signals_end_no_supervisor(world: Any) -> None:
    async def scenario() -> bool:
        async with confined(world.spec("sleep"), world.birth()) as program:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1):
                os.kill(program.supervisor_pid, number)
            with anyio.move_on_after(0.2):
                await program.wait_exited()
                return False
            return os.getsid(program.supervisor_pid) != os.getsid(0)

    assert world.run(scenario)


def test_a_program_let_go_runs_on_after_its_block(world: Any) -> None:
    async def scenario() -> bool:
        birth = world.birth()
        async with confined(world.spec("sleep"), birth) as program:
            program.let_go()
        (_, name) = recorded(birth.facts)
        await anyio.sleep(0.1)
        alive = process_name(name.pid) == name
        await reap(birth.id, birth.facts)
        os.waitpid(program.supervisor_pid, 0)
        return alive

    assert world.run(scenario)


def test_reaping_never_kills_a_process_that_only_has_the_pid(world: Any) -> None:
    async def scenario() -> bool:
        birth = world.birth()
        innocent = await anyio.open_process(["/bin/sleep", "30"])
        name = process_name(innocent.pid)
        assert name is not None
        for wrong in ({"start_ticks": name.start_ticks + 1}, {"boot_id": "an earlier boot"}):
            facts = {"pid": name.pid, "start_ticks": name.start_ticks, "boot_id": name.boot_id, **wrong}
            await reap(birth.id, facts)
        spared = process_name(innocent.pid) == name
        await reap(birth.id, {"pid": name.pid, "start_ticks": name.start_ticks, "boot_id": name.boot_id})
        killed = await innocent.wait() == -signal.SIGKILL
        await innocent.aclose()
        return spared and killed  # the control: with its own name it is killed

    assert world.run(scenario)


def test_a_stranger_with_our_process_name_is_not_killed(world: Any) -> None:
    if world.as_root or os.geteuid() != 0:
        pytest.skip("needs two users")
    birth = world.birth()
    stranger = subprocess.Popen(["agentkernel-sandbox", birth.id, "sleep"], executable=world.tree / "bin/probe")
    try:
        assert birth.id and wait_for(lambda: supervisors_of(birth.id) == [stranger.pid])

        async def scenario() -> None:
            await reap(birth.id, {})

        world.run(scenario)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def words_of(text: str) -> dict[str, str]:
    return dict(line.split(" = ", 1) for line in text.splitlines() if " = " in line)


def in_namespace(namespace: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "ns/pid").readlink() == namespace:
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def wait_for(condition: Any) -> bool:
    end = time.monotonic() + 5
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


def libc_unshare_user() -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(0x10000000) != 0:
        raise OSError(ctypes.get_errno(), "unshare")


QEMU = f"/usr/bin/qemu-system-{platform.machine()}"


def tool_tree() -> Path:
    """A tree that has QEMU: the one that a variable names, the one that images are booted with, else the system."""
    named = os.environ.get("AGENTKERNEL_TEST_TOOL_TREE")
    return Path(named) if named else anyio.run(Store().tool, "qemu").root


def test_qemu_runs_confined_with_memory_and_monitor_by_descriptor(world: Any) -> None:
    tree = tool_tree()
    if not world.as_root and os.geteuid() == 0 and tree != Path("/"):
        pytest.skip("root's data folder is closed to the other user; as that user this runs")

    async def scenario() -> tuple[list[str], str, list[Any]]:
        memory = os.memfd_create("ram")
        os.ftruncate(memory, 64 << 20)
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
            listener.bind("")  # an abstract name that the kernel chooses
            listener.listen(1)
            client.connect(listener.getsockname())
            passed = (listener.fileno(), memory)
            spec = Confinement(argv=qemu_arguments(*passed), tree=tree, pass_fds=passed)
            async with confined(spec, world.birth()) as program:
                client.setblocking(False)
                replies = await qmp(client, "qmp_capabilities", "query-memdev", program=program)
                weaknesses = confinement_of(program.pid).weaknesses(confinement_of("self"))
                filters = Path(f"/proc/{program.pid}/status").read_text().partition("Seccomp_filters:")[2].split()[0]
        os.close(memory)
        return weaknesses, filters, replies

    weaknesses, filters, replies = world.run(scenario)
    assert weaknesses == []
    assert filters == "2"  # ours, and QEMU's own
    assert "QMP" in replies[0]
    assert 64 << 20 in [backend["size"] for backend in replies[2]["return"]]


def qemu_arguments(listener: int, memory: int) -> tuple[str, ...]:
    deny = "obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
    return (
        *(QEMU, "-M", "none", "-nodefaults", "-no-user-config", "-nographic", "-S", "-sandbox", f"on,{deny}"),
        *("-object", f"memory-backend-file,id=memory,size=64M,mem-path=/proc/self/fd/{memory},share=off"),
        *("-chardev", f"socket,id=qmp,fd={listener},server=on,wait=off", "-mon", "chardev=qmp,mode=control"),
    )


async def qmp(client: socket.socket, *commands: str, program: Any) -> list[Any]:
    """The greeting and one reply per command."""
    client.send("".join(json.dumps({"execute": command}) + "\n" for command in commands).encode())
    received = b""
    while received.count(b"\n") < 1 + len(commands):
        await anyio.wait_readable(client)
        some = client.recv(65536)
        assert some, program.last_words()
        received += some
    return [json.loads(line) for line in received.splitlines()]
