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

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

PLACES = ("/etc", "/tmp", "/workspace", "/scratch", "/home/sandbox", "/dev/shm", "/usr/bin", "/run", "/var/tmp")
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
                    client.sendall(b"host")

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        stop.set()
        thread.join()


@pytest.mark.behaviour("apart.files")
async def test_what_one_sandbox_writes_no_other_sees(machine: Machine, sibling: Machine) -> None:
    name = f"of-one-{os.urandom(4).hex()}"
    script = "".join(f"echo secret > {at}/{name} || echo {at}; " for at in PLACES)
    assert (await shell(machine.guest, script, user="root")).text == ""
    look = " ".join(f"{at}/{name}" for at in PLACES)
    assert (await shell(machine.guest, f"cat {look} | sort | uniq -c | xargs", user="root")).text == "9 secret"
    assert (await shell(sibling.guest, f"cat {look} 2>/dev/null", user="root")).stdout == b""
    assert (await shell(machine.guest, f"rm {look}", user="root")).code == 0


@pytest.mark.behaviour("apart.user-writes")
async def test_the_user_writes_where_it_should_and_nowhere_else(guest: Guest) -> None:
    for at in ("/workspace", "/scratch", "/home/sandbox", "/tmp", "/dev/shm", "/var/tmp"):
        assert (await shell(guest, f"echo x > {at}/mine && rm {at}/mine")).code == 0, at
    for at in ("/", "/etc", "/usr/bin", "/run", "/run/agentkernel", "/root", "/dev", "/sys", "/proc/sys/kernel"):
        assert (await shell(guest, f"echo x > {at}/mine", cwd="/")).code != 0, at


@pytest.mark.behaviour("apart.root-writes")
async def test_the_root_file_system_is_writable_and_its_image_is_not(guest: Guest) -> None:
    assert (await shell(guest, "rm /usr/bin/yes && ! test -e /usr/bin/yes", user="root")).code == 0
    await shell(guest, "cp /usr/bin/true /usr/bin/yes; busybox rm /usr/bin/yes", user="root")
    ran = await shell(guest, "blockdev --getro /dev/vda 2>/dev/null || cat /sys/block/vda/ro", user="root", cwd="/")
    assert ran.text == "1"
    assert (await shell(guest, "echo x | dd of=/dev/vda 2>/dev/null", user="root")).code != 0
    await guest.write_file("/usr/bin/yes", b"#!/bin/sh\nwhile :; do echo ${1-y}; done\n", mode=0o755, owner="root")


@pytest.mark.behaviour("apart.processes")
async def test_processes_of_one_sandbox_are_invisible_to_the_other(machine: Machine, sibling: Machine) -> None:
    await shell(machine.guest, "sleep 6161 >/dev/null 2>&1 &")
    assert await processes_with(machine.guest, "6161") == 1
    assert await processes_with(sibling.guest, "6161") == 0
    await shell(sibling.guest, "pkill sleep; kill -9 -1", user="root")
    assert await processes_with(machine.guest, "6161") == 1
    await shell(machine.guest, "pkill sleep")


@pytest.mark.behaviour("apart.host-processes")
async def test_the_host_is_invisible(guest: Guest) -> None:
    lines = (await shell(guest, "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n'", user="root")).stdout
    assert b"pytest" not in lines
    assert b"qemu" not in lines
    ran = await shell(guest, f"ls -d {Path(__file__).parent} {Path.home()}/.cache 2>/dev/null", cwd="/")
    assert ran.stdout == b""


@pytest.mark.behaviour("apart.killing-all")
async def test_root_that_kills_everything_does_not_end_the_sandbox(sibling: Machine) -> None:
    await shell(sibling.guest, "kill -9 -1; kill -9 1", user="root")
    await sibling.guest.ping()
    assert (await shell(sibling.guest, "echo hi")).stdout == b"hi\n"


@pytest.mark.behaviour("apart.kernel")
async def test_the_kernel_is_the_sandboxs_own(subject: Subject, guest: Guest) -> None:
    boot_id = (await shell(guest, "cat /proc/sys/kernel/random/boot_id")).text
    version = (await shell(guest, "uname -v")).text
    hosts = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert subject.candidate.own_kernel == (boot_id != hosts)
    assert subject.candidate.own_kernel == (version != platform.version())


@pytest.mark.behaviour("apart.random")
async def test_nothing_random_is_the_same_in_two_sandboxes(machine: Machine, sibling: Machine) -> None:
    script = """
    head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \\n'; echo
    cat /proc/sys/kernel/random/uuid /etc/machine-id /etc/hostname /proc/sys/kernel/random/boot_id
    """
    ones, others = [(await shell(each.guest, script)).text.split("\n") for each in (machine, sibling)]
    assert len(ones) == len(others) == 5
    assert not set(ones) & set(others)
    assert (await shell(machine.guest, script)).text.split("\n")[:2] != ones[:2]


@pytest.mark.behaviour("apart.clock")
async def test_the_clock_is_the_hosts(guest: Guest) -> None:
    inside = float((await shell(guest, "date +%s.%N")).text)
    assert abs(inside - time.time()) < 2


@pytest.mark.behaviour("apart.network")
async def test_there_is_no_network_but_a_loopback_that_works(guest: Guest, listener: int) -> None:
    with socket.create_connection(("127.0.0.1", listener)) as control:
        assert control.recv(4) == b"host"
    assert (await shell(guest, "ls /sys/class/net; cat /sys/class/net/lo/carrier")).text == "lo\n1"
    assert (await shell(guest, "tail -n +2 /proc/net/route")).stdout == b""
    for address in ("127.0.0.1", "10.0.2.2", "10.0.2.15", "169.254.169.254", "192.168.0.1", "172.17.0.1", "1.1.1.1"):
        assert b"host" not in (await shell(guest, CONNECT.format(address=address, port=listener))).stdout
    inside = "perl -MIO::Socket -e '" + (
        '$s = IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1") or die;'
        '$c = IO::Socket::INET->new(PeerAddr => "127.0.0.1", PeerPort => $s->sockport) or die;'
        'print {$c} "lo\\n"; close $c; print scalar readline $s->accept\''
    )
    assert (await shell(guest, inside)).text == "lo"


@pytest.mark.behaviour("apart.no-way-out")
async def test_other_families_lead_nowhere_either(guest: Guest) -> None:
    """AF_VSOCK to the host, a raw packet socket: as root, who may ask for them."""
    vsock = 'socket(my $s, 40, 1, 0) and connect($s, pack("SSLLx4", 40, 0, 1024, 2)) and print "connected"'
    assert (await run(guest, "perl", "-e", vsock, user="root")).stdout == b""
    names = await shell(guest, "cat /proc/net/dev | tail -n +3 | cut -d: -f1 | xargs", user="root")
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
