"""SECURITY.md, hazards of clones: what copies of one machine must not have in common, and may not do to each other.

Every clone here comes from one template that leaves a mark, so that no test passes because nothing was cloned.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
from tests.support.machines import (
    ENVIRONMENT,
    Machine,
    booted,
    cradle,
    prepare,
    qemu_driver,
    qemu_spec,
    run,
    settles,
    shell,
    store_at,
)

from agentkernel.drivers.contract import Guest
from agentkernel.drivers.qemu import QemuDriver
from agentkernel.drivers.qemu.template import MEMORY, STATE
from agentkernel.images.store import Store
from agentkernel.model.errors import Broken
from agentkernel.model.spec import BootSpec

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

MEMORY_MIB = 208
"""A size that nobody else uses, so that this template is ours to mark and to remove."""
ABREAST = 4
CLOCK_S = 0.05
SOON_S = 3.0
ONE_LOOK = (
    "cat",
    "/proc/sys/kernel/random/uuid",
    "/etc/machine-id",
    "/etc/hostname",
    "/proc/sys/kernel/random/boot_id",
)
LOOK = """
echo uuid $(cat /proc/sys/kernel/random/uuid)
echo urandom $(head -c 16 /dev/urandom | od -An -tx1 | tr -d ' ')
echo random $(head -c 16 /dev/random | od -An -tx1 | tr -d ' ')
echo perl $(perl -e 'print rand')
echo temporary $(mktemp -u XXXXXXXXXXXXXXXX)
echo hostname $(hostname)
echo hosts $(grep -c "$(hostname)" /etc/hosts)
echo machine $(cat /etc/machine-id)
echo boot $(cat /proc/sys/kernel/random/boot_id)
echo generation $(cat /run/agentkernel/generation)
echo devices $(ls /sys/class/net)
echo addresses $(cat /sys/class/net/*/address)
echo connections $(tail -qn +2 /proc/net/tcp /proc/net/tcp6 /proc/net/udp /proc/net/udp6 /proc/net/unix | wc -l)
echo mark $(cat /dev/shm/of-the-warm-up)
"""
DIFFERENT = ("uuid", "urandom", "random", "perl", "temporary", "hostname", "machine", "boot")


@dataclass(frozen=True, slots=True)
class Frozen:
    """A template, who makes clones of it, and what its warm-up was told."""

    driver: QemuDriver
    spec: BootSpec
    folder: Path
    place: Path
    mark: str
    secret: str

    def digests(self) -> dict[str, str]:
        """Of its files, read whole."""
        return {path.name: _sha256(path) for path in sorted(self.folder.iterdir())}

    async def clone(self, stack: AsyncExitStack) -> Machine:
        """A copy that lives as long as the stack."""
        birth = cradle(self.place)
        return Machine(
            await stack.enter_async_context(self.driver.clone(self.folder, self.spec, birth)), birth, self.spec
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def holds(path: Path, word: str) -> bool:
    """Whether a file has that word anywhere."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(word.encode()) >= 0


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Everything that a microVM boots from."""
    made = store_at(tmp_path_factory.mktemp("state"))
    prepare(made)
    return made


@pytest.fixture(scope="module")
async def frozen(anyio_backend: str, store: Store, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Frozen]:
    """A template whose warm-up had a secret in its environment, left a mark in memory, and listened on a port."""
    driver, spec = qemu_driver(store), qemu_spec(store, memory_mib=MEMORY_MIB, disk_mib=16)
    place = tmp_path_factory.mktemp("sandboxes")
    mark, secret, hosts = (secrets.token_hex(16) for _ in range(3))

    async def warm_up(guest: Guest) -> None:
        script = f"echo {mark} > /dev/shm/of-the-warm-up; test -n $TOKEN"
        assert (await shell(guest, script, env=(*ENVIRONMENT, f"TOKEN={secret}".encode()))).code == 0

    os.environ["OF_THE_HOST"] = hosts
    try:
        stale = await driver.template(spec, cradle(place), warm_up)
        await driver.discard(stale)  # of an earlier run, with another mark
        folder = await driver.template(spec, cradle(place), warm_up)
    finally:
        del os.environ["OF_THE_HOST"]
    assert not holds(folder / MEMORY, hosts), "the host's environment never gets in"
    assert holds(folder / MEMORY, mark), "the control: what is in memory is found"
    yield Frozen(driver, spec, folder, place, mark, secret)
    await driver.discard(folder)


@pytest.fixture(scope="module")
async def pair(frozen: Frozen) -> AsyncIterator[tuple[Machine, Machine]]:
    """Two clones side by side."""
    async with AsyncExitStack() as stack:
        yield await frozen.clone(stack), await frozen.clone(stack)


async def look(guest: Guest) -> dict[str, str]:
    said = await shell(guest, LOOK, user="root", cwd="/")
    assert said.code == 0, said.stderr
    return {name: value for name, _, value in (line.partition(" ") for line in said.text.splitlines())}


async def test_two_clones_have_nothing_random_and_no_name_in_common(
    pair: tuple[Machine, Machine], frozen: Frozen
) -> None:
    one, other = [await look(each.guest) for each in pair]
    again = await look(pair[0].guest)
    assert one["mark"] == other["mark"] == frozen.mark, "the control: both are copies of that machine"
    assert {name for name in DIFFERENT if one[name] == other[name]} == set()
    assert {name for name in DIFFERENT[:5] if one[name] == again[name]} == set()
    for said, machine in ((one, pair[0]), (other, pair[1])):
        assert said["hostname"] == machine.birth.identity.hostname
        assert said["machine"] == machine.birth.identity.machine_id.hex()
        assert said["hosts"] == "1"
        assert said["boot"] != Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert all(again[name] == one[name] for name in ("hostname", "machine", "boot")), "and they stay what they are"


async def test_a_clone_has_no_network_card_and_so_no_address_in_common(pair: tuple[Machine, Machine]) -> None:
    said = await look(pair[0].guest)
    assert (said["devices"], said["addresses"]) == ("lo", "00:00:00:00:00:00")


async def test_a_clone_has_no_connection_that_was_open_before(pair: tuple[Machine, Machine]) -> None:
    assert (await look(pair[0].guest))["connections"] == "0"
    listening = "perl -MIO::Socket -e '$s = IO::Socket::INET->new(Listen => 1, LocalAddr => \"127.0.0.1\"); sleep 60'"
    await shell(pair[0].guest, f"{listening} >/dev/null 2>&1 &")

    async def heard() -> bool:
        return (await look(pair[0].guest))["connections"] == "1"

    assert await settles(heard), "the control: a socket is seen"
    assert (await look(pair[1].guest))["connections"] == "0"
    await shell(pair[0].guest, "pkill perl")


async def test_the_generation_file_moves_with_every_clone_and_refresh(pair: tuple[Machine, Machine]) -> None:
    before = int((await look(pair[1].guest))["generation"])
    assert before == 2, "one greeting of the template, one of the clone: a program that watches it sees the change"
    await pair[1].guest.refresh()
    assert int((await look(pair[1].guest))["generation"]) == before + 1


async def clock_error_s(guest: Guest) -> float:
    """How far a clone's clock is off at least; 0 when it lies between the host's before and after."""
    before = time.time()
    inside = float((await run(guest, "date", "+%s.%N")).text)
    return max(before - inside, inside - time.time(), 0.0)


async def test_the_clock_is_the_hosts_right_after_a_clone_and_after_a_refresh(frozen: Frozen) -> None:
    async with AsyncExitStack() as stack:
        began = time.time()
        guest = (await frozen.clone(stack)).guest
        # The time that it was sent is older by the way to the guest, which is in the clone's own time.
        assert await clock_error_s(guest) < CLOCK_S + (time.time() - began)
        errors = []
        for _ in range(4):
            sent = time.time()
            await guest.refresh()
            await guest.ping()
            way_s = time.time() - sent
            errors.append(max(0.0, await clock_error_s(guest) - way_s))
        assert max(errors) < CLOCK_S


@pytest.mark.parametrize("still_s", [2.0, pytest.param(60.0, marks=pytest.mark.deep)])
async def test_the_clock_is_right_after_a_pause_however_long(pair: tuple[Machine, Machine], still_s: float) -> None:
    guest = pair[1].guest
    await guest.pause()
    await anyio.sleep(still_s)
    await guest.unpause()
    assert await clock_error_s(guest) > still_s / 2, "the control: a paused machine's clock stands still"
    sent = time.time()
    await guest.refresh()
    await guest.ping()
    way_s = time.time() - sent
    assert max(0.0, await clock_error_s(guest) - way_s) < CLOCK_S


async def test_a_clock_that_ran_wrong_is_set_right_by_a_refresh(pair: tuple[Machine, Machine]) -> None:
    """The control of the test before: a clock that is off is seen, and what is seen is mended."""
    guest = pair[1].guest
    assert (await run(guest, "date", "-s", "@1000000000", user="root")).code == 0
    assert await clock_error_s(guest) > 1000
    await guest.refresh()
    assert await clock_error_s(guest) < CLOCK_S + SOON_S


async def test_monotonic_time_goes_on_from_the_templates_and_never_back(pair: tuple[Machine, Machine]) -> None:
    ups = [float((await run(pair[0].guest, "cut", "-d ", "-f1", "/proc/uptime")).text) for _ in range(3)]
    assert ups == sorted(ups)
    assert ups[0] > 0
    began = time.monotonic()
    await run(pair[0].guest, "sleep", "0.5")
    assert time.monotonic() - began >= 0.5


async def test_memory_is_accounted_as_in_a_machine_that_booted(pair: tuple[Machine, Machine]) -> None:
    lines = (await shell(pair[1].guest, "cat /proc/meminfo; grep -E 'pgpgin|nr_free' /proc/vmstat")).text.splitlines()
    facts = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if rest}
    assert MEMORY_MIB * 0.6 < facts["MemTotal"] / 1024 < MEMORY_MIB
    assert facts["MemTotal"] * 0.5 < facts["MemAvailable"] <= facts["MemTotal"]
    assert 0 < facts["MemFree"] <= facts["MemAvailable"] + facts["SwapTotal"]


async def test_neither_the_warm_ups_environment_nor_another_clones_secret_is_in_a_clone(
    pair: tuple[Machine, Machine], frozen: Frozen
) -> None:
    theirs = secrets.token_hex(16)
    command = "echo $TOKEN > /tmp/kept; sleep 600 >/dev/null 2>&1 &"
    await shell(pair[0].guest, command, env=(*ENVIRONMENT, f"TOKEN={theirs}".encode()))
    search = (
        "for word in $WORDS; do cat /proc/[0-9]*/environ /tmp/* /dev/shm/* /workspace/* /scratch/* /root/* "
        "/home/sandbox/.* 2>/dev/null | tr '\\0' '\\n' | grep -ac $word; done"
    )
    # Its own shell has the words in its environment, so they are searched for in two halves.
    words = (
        f"{theirs[:16]}[{theirs[16]}] {frozen.secret[:16]}[{frozen.secret[16]}] {frozen.mark[:16]}[{frozen.mark[16]}]"
    )
    found = [
        (await shell(each.guest, search, user="root", env=(*ENVIRONMENT, f"WORDS={words}".encode()))).text.split()
        for each in pair
    ]
    assert found[0] == [found[0][0], "0", "1"]
    assert int(found[0][0]) >= 2, "the control: it is found where it is, in a file and in an environment"
    assert found[1] == ["0", "0", "1"]
    await shell(pair[0].guest, "pkill sleep; rm /tmp/kept", user="root")


async def facts_of_many(frozen: Frozen, count: int) -> list[tuple[str, ...]]:
    """What `count` clones are called and draw, a few of them alive at a time."""
    seen: list[tuple[str, ...]] = []

    async def one() -> None:
        async with AsyncExitStack() as stack:
            guest = (await frozen.clone(stack)).guest
            said = (await run(guest, *ONE_LOOK)).text.split()
            drawn = await run(guest, "head", "-c", "16", "/dev/urandom")
            assert len(said) == 4
            seen.append((*said, drawn.stdout.hex()))

    async def several(number: int) -> None:
        for _ in range(number):
            await one()

    async with anyio.create_task_group() as group:
        for worker in range(ABREAST):
            group.start_soon(several, count // ABREAST + (worker < count % ABREAST))
    return seen


@pytest.mark.parametrize("count", [40, pytest.param(200, marks=pytest.mark.deep)])
async def test_many_clones_all_differ_and_leave_the_templates_files_as_they_were(frozen: Frozen, count: int) -> None:
    before = frozen.digests()
    assert {MEMORY, STATE} < set(before)
    seen = await facts_of_many(frozen, count)
    assert len(seen) == count
    for column in zip(*seen, strict=True):
        assert len(set(column)) == count
    assert frozen.digests() == before


def private_mib(pid: int) -> int:
    """What a process has written of its own."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Dirty:", "Anonymous:"))) >> 11


OVERWRITE = """
free=$(awk '/MemAvailable/ { print $2 - 32768 }' /proc/meminfo)
mkdir -p /tmp/full && mount -t tmpfs -o size=${free}k none /tmp/full
dd if=/dev/zero of=/tmp/full/x bs=64k 2>/dev/null
test $(stat -c %s /tmp/full/x) -ge $((free * 1000))
"""


async def test_a_clone_that_writes_over_all_its_memory_harms_neither_its_sibling_nor_the_template(
    frozen: Frozen,
) -> None:
    before = frozen.digests()
    async with AsyncExitStack() as stack:
        victim, culprit = await frozen.clone(stack), await frozen.clone(stack)
        kept = secrets.token_hex(512)
        await victim.guest.write_file("/dev/shm/kept", kept.encode())
        await victim.guest.write_file("/workspace/kept", kept.encode())
        count = "i=0; while :; do i=$((i+1)); echo $i > /dev/shm/count; sleep 0.1; done"
        await shell(victim.guest, f"({count}) >/dev/null 2>&1 &")
        assert (await shell(culprit.guest, OVERWRITE, user="root", cwd="/")).code == 0
        assert private_mib(culprit.pid) > MEMORY_MIB // 2 - 8, "the control: it did write"
        counts = []
        for _ in range(2):
            counts.append(int((await victim.guest.read_file("/dev/shm/count")) or b"0"))
            assert (await victim.guest.read_file("/dev/shm/kept")).decode() == kept
            assert (await victim.guest.read_file("/workspace/kept")).decode() == kept
            await anyio.sleep(1)
        assert counts[1] > counts[0], "its process goes on"
    assert frozen.digests() == before
    async with AsyncExitStack() as stack:
        later = await frozen.clone(stack)
        assert (await look(later.guest))["mark"] == frozen.mark


async def test_a_template_of_another_size_is_refused_before_anything_of_it_is_loaded(
    frozen: Frozen, store: Store
) -> None:
    other = qemu_spec(store, memory_mib=MEMORY_MIB + 16, disk_mib=16)
    with pytest.raises(Broken, match="made for another"):
        async with frozen.driver.clone(frozen.folder, other, cradle(frozen.place)):
            """Never reached."""


async def test_a_cold_machine_is_the_control_of_the_mark(frozen: Frozen) -> None:
    async with booted(frozen.driver, frozen.spec, frozen.place) as machine:
        assert (await look(machine.guest))["mark"] == ""
