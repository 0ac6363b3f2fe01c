"""Two sandboxes and the host know nothing of each other."""

from __future__ import annotations

import os
import platform
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from agentkernel.drivers.contract import Guest
from tests.conformance.candidates import Subject
from tests.support.machines import Machine, processes_with, request, run, shell
from tests.support.processes import naming

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

USERS = ("/tmp", "/workspace", "/scratch", "/home/sandbox", "/dev/shm", "/var/tmp")
NOT_USERS = ("/", "/etc", "/usr/bin", "/root", "/dev", "/sys", "/proc/sys/kernel")
ROOTS = (*USERS, "/etc", "/usr/bin", "/run")
VSOCK = 'socket(my $s, 40, 1, 0) and connect($s, pack("SSLLx4", 40, 0, 1024, 2)) and print "connected"'
HOST_SAYS = b"\x01AK\x02"
CONNECT = "timeout 3 bash -c 'exec 3<>/dev/tcp/{address}/{port} && head -c 4 <&3' 2>&1"


@pytest.fixture
def listener() -> Iterator[int]:
    """A port of the host's loopback where somebody answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        stop = threading.Event()

        def serve() -> None:
            while not stop.is_set():
                try:
                    client, _ = server.accept()
                except TimeoutError:
                    continue
                with client:
                    client.sendall(HOST_SAYS)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        stop.set()
        thread.join()


async def check_apart(machine: Machine, sibling: Machine, places: tuple[str, ...], user: str) -> None:
    """Write in one sandbox and look in the other."""
    name = f"of-one-{os.urandom(4).hex()}"
    script = "".join(f"echo secret > {at}/{name} || echo {at}; " for at in places)
    assert (await shell(machine.guest, script, user=user)).text == ""
    look = " ".join(f"{at}/{name}" for at in places)
    seen = await shell(machine.guest, f"cat {look} | sort | uniq -c | xargs", user=user)
    assert seen.text == f"{len(places)} secret"
    assert (await shell(sibling.guest, f"cat {look} 2>/dev/null", user=user)).stdout == b""
    assert (await shell(machine.guest, f"rm {look}", user=user)).code == 0


@pytest.mark.behaviour("apart.files")
async def test_what_one_sandbox_writes_no_other_sees(machine: Machine, sibling: Machine) -> None:
    await check_apart(machine, sibling, USERS, "")


@pytest.mark.behaviour("apart.files-root")
async def test_what_root_writes_in_one_sandbox_no_other_sees(
    subject: Subject, machine: Machine, sibling: Machine
) -> None:
    await check_apart(machine, sibling, ROOTS, "root")


@pytest.mark.behaviour("apart.user-writes")
async def test_the_user_writes_where_it_should_and_nowhere_else(guest: Guest) -> None:
    for at in USERS:
        assert (await shell(guest, f"echo x > {at}/mine && rm {at}/mine")).code == 0, at
    for at in NOT_USERS:
        assert (await shell(guest, f"echo x > {at}/mine", cwd="/")).code != 0, at


@pytest.mark.behaviour("apart.agents-folder")
async def test_the_agents_own_folder_is_not_the_users(subject: Subject, guest: Guest) -> None:
    """Where the agent is root and programs are not: what it tells them there, they cannot forge."""
    for at in ("/run", "/run/agentkernel"):
        assert (await shell(guest, f"echo x > {at}/mine && rm {at}/mine", user="root")).code == 0, at
        assert (await shell(guest, f"echo x > {at}/mine", cwd="/")).code != 0, at


@pytest.mark.behaviour("apart.root-writes")
async def test_the_root_file_system_is_writable_and_its_image_is_not(
    subject: Subject, guest: Guest, sibling: Machine
) -> None:
    assert (await shell(guest, "rm /usr/bin/yes && ! test -e /usr/bin/yes", user="root")).code == 0
    assert (await shell(sibling.guest, "yes | head -n 1")).text == "y"
    await guest.write_file("/usr/bin/yes", b"#!/bin/sh\nwhile :; do echo ${1-y}; done\n", mode=0o755, owner="root")


@pytest.mark.behaviour("apart.image")
async def test_the_image_cannot_be_changed_by_the_user(guest: Guest, sibling: Machine) -> None:
    for attack in ("rm -f /usr/bin/yes", "echo x >> /usr/bin/yes", "mv /usr/bin/yes /tmp", "chmod 777 /usr/bin/yes"):
        assert (await shell(guest, f"{attack} 2>/dev/null")).code != 0, attack
    for each in (guest, sibling.guest):
        assert (await shell(each, "yes | head -n 1")).text == "y"


@pytest.mark.behaviour("apart.processes")
async def test_processes_of_one_sandbox_are_invisible_to_the_other(machine: Machine, sibling: Machine) -> None:
    await shell(machine.guest, "sleep 6161 >/dev/null 2>&1 &")
    assert await processes_with(machine.guest, "6161") == 1
    assert await processes_with(sibling.guest, "6161") == 0
    await shell(sibling.guest, "pkill sleep; kill -9 -1")
    assert await processes_with(machine.guest, "6161") == 1
    await shell(machine.guest, "pkill sleep")
    assert await processes_with(machine.guest, "6161") == 0


@pytest.mark.behaviour("apart.host-processes")
async def test_the_host_is_invisible(guest: Guest) -> None:
    assert naming("pytest")
    lines = (await shell(guest, "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n'")).stdout
    assert b"cat" in lines
    for word in (b"pytest", b"qemu", b"dockerd", b"runsc", b"conmon"):
        assert word not in lines
    ran = await shell(guest, f"ls -d {Path(__file__).parent} {Path.home()}/.cache 2>/dev/null", cwd="/")
    assert ran.stdout == b""


@pytest.mark.behaviour("apart.killing-all")
async def test_a_user_that_kills_everything_does_not_end_the_sandbox(sibling: Machine) -> None:
    await shell(sibling.guest, "kill -9 -1; kill -9 1")
    await shell(sibling.guest, "kill -9 1; kill -SEGV 1; kill -STOP 1")
    await sibling.guest.ping()
    assert (await shell(sibling.guest, "echo hi")).stdout == b"hi\n"


@pytest.mark.behaviour("apart.killing-all-root")
async def test_root_that_kills_everything_does_not_end_the_sandbox(subject: Subject, sibling: Machine) -> None:
    await shell(sibling.guest, "kill -9 -1; kill -9 1", user="root")
    await sibling.guest.ping()
    assert (await shell(sibling.guest, "echo hi")).stdout == b"hi\n"


@pytest.mark.behaviour("apart.kernel")
async def test_the_kernel_is_the_sandboxs_own(subject: Subject, guest: Guest) -> None:
    boot_id = (await shell(guest, "cat /proc/sys/kernel/random/boot_id 2>/dev/null")).text
    version = (await shell(guest, "uname -v")).text
    hosts = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert version
    assert subject.candidate.own_kernel == (boot_id != hosts)
    assert subject.candidate.own_kernel == (version != platform.version())


@pytest.mark.behaviour("apart.random")
async def test_nothing_random_is_the_same_in_two_sandboxes(machine: Machine, sibling: Machine) -> None:
    """And the random bytes of one are not the same twice."""
    script = """
    head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \\n'; echo
    cat /etc/machine-id /etc/hostname
    dd if=/dev/random bs=16 count=1 2>/dev/null | od -An -tx1
    """
    ones, others = [(await shell(each.guest, script)).text.split("\n") for each in (machine, sibling)]
    assert len(ones) == len(others) == 4
    assert not set(ones) & set(others)
    again = (await shell(machine.guest, script)).text.split("\n")
    assert [one == other for one, other in zip(ones, again, strict=True)] == [False, True, True, False]


@pytest.mark.behaviour("apart.boot-id")
async def test_boot_ids_differ_where_the_kernel_is_the_sandboxs_own(
    subject: Subject, machine: Machine, sibling: Machine
) -> None:
    """A kernel that has none shows none; one that is shared shows everybody the same."""
    look = "cat /proc/sys/kernel/random/boot_id 2>/dev/null"
    ids = [(await shell(each.guest, look)).text for each in (machine, sibling)]
    if subject.candidate.own_kernel:
        assert ids[0] != ids[1] or ids == ["", ""]
    else:
        assert ids[0] == ids[1]


@pytest.mark.behaviour("apart.clock")
async def test_the_clock_is_the_hosts(guest: Guest) -> None:
    inside = float((await shell(guest, "date +%s.%N")).text)
    assert abs(inside - time.time()) < 2


@pytest.mark.behaviour("apart.network")
async def test_there_is_no_network_but_a_loopback_that_works(guest: Guest, listener: int) -> None:
    with socket.create_connection(("127.0.0.1", listener)) as control:
        assert control.recv(4) == HOST_SAYS
    assert (await shell(guest, "tail -n +3 /proc/net/dev | cut -d: -f1 | xargs")).text == "lo"
    assert (await shell(guest, "tail -n +2 /proc/net/route | cut -f1 | grep -vx lo")).stdout == b""
    for address in ("127.0.0.1", "10.0.2.2", "10.0.2.15", "169.254.169.254", "192.168.0.1", "172.17.0.1", "1.1.1.1"):
        assert HOST_SAYS not in (await shell(guest, CONNECT.format(address=address, port=listener))).stdout
    inside = "perl -MIO::Socket -e '" + (
        '$s = IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1") or die;'
        '$c = IO::Socket::INET->new(PeerAddr => "127.0.0.1", PeerPort => $s->sockport) or die;'
        'print {$c} "lo\\n"; close $c; print scalar readline $s->accept\''
    )
    assert (await shell(guest, inside)).text == "lo"


@pytest.mark.behaviour("apart.no-way-out")
async def test_other_families_lead_nowhere_either(guest: Guest) -> None:
    """AF_VSOCK to the host."""
    assert (await run(guest, "perl", "-e", VSOCK)).stdout == b""


@pytest.mark.behaviour("apart.no-way-out-root")
async def test_other_families_lead_root_nowhere_either(subject: Subject, guest: Guest) -> None:
    assert (await run(guest, "perl", "-e", VSOCK, user="root")).stdout == b""
    names = await shell(guest, "tail -n +3 /proc/net/dev | cut -d: -f1 | xargs", user="root")
    assert names.text == "lo"


@pytest.mark.behaviour("apart.other-latency")
async def test_a_busy_sandbox_does_not_stop_the_other(machine: Machine, sibling: Machine) -> None:
    busy = await machine.guest.exec(request("sh", "-c", "while :; do :; done"))
    with anyio.fail_after(15):
        for _ in range(5):
            await sibling.guest.ping()
        assert (await shell(sibling.guest, "echo hi")).stdout == b"hi\n"
    await busy.kill()
    assert [event async for event in busy]
