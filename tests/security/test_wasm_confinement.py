"""A wasm program reaches its own sandbox's files and streams, behind two walls: wasmtime, and the confinement."""

from __future__ import annotations

import errno
import io
import os
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from tests.conformance.conftest import heed
from tests.support.machines import Machine, booted, run, store_at

from agentkernel.drivers.confine import confinement_of
from agentkernel.drivers.wasm.driver import WasmDriver
from agentkernel.drivers.worker.programs import Kind
from agentkernel.model.ids import Digest
from agentkernel.model.kinds import Backend
from agentkernel.model.spec import BootSpec

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

SPEC = BootSpec(Backend.WASM, "python", Digest("none"), memory_mib=256, disk_mib=16, pids=16)
LINKS = {"up": "../../../../../../../usr", "abs": "/usr", "proc": "../../proc/self/environ"}


@pytest.fixture(scope="module")
def driver(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> WasmDriver:
    """As the daemon makes it."""
    place = tmp_path_factory.mktemp("wasm")
    made = WasmDriver(store_at(place / "state"), place / "trials")
    heed("wasm", anyio.run(made.probe), required="wasm" in request.config.getoption("--require-driver"))
    return made


@pytest.fixture
async def machine(driver: WasmDriver, tmp_path: Path) -> AsyncIterator[Machine]:
    """A sandbox."""
    async with booted(driver, SPEC, tmp_path) as made:
        yield made


def archive() -> bytes:
    """Links that lead out, one file, one link that does not."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, target in {**LINKS, "inside": "file"}.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
        member = tarfile.TarInfo("file")
        member.size = 4
        tar.addfile(member, io.BytesIO(b"mine"))
    return made.getvalue()


async def whole(content: bytes) -> AsyncIterator[bytes]:
    """In one piece."""
    yield content


async def test_a_worker_is_confined_as_a_monitor_is(machine: Machine) -> None:
    host = confinement_of("self")
    assert host.weaknesses(host), "the positive control: this process shares everything with itself"
    assert confinement_of(machine.pid).weaknesses(host) == []


async def test_links_lead_nowhere_but_inside_for_programs_and_callers(machine: Machine) -> None:
    guest = machine.guest
    assert await guest.put_archive("/workspace", whole(archive())) == len(LINKS) + 2
    assert await guest.read_file("/workspace/inside") == b"mine"
    assert (await run(guest, "python3", "-c", "print(open('inside').read())")).text == "mine"
    for name in LINKS:
        with pytest.raises(OSError) as caught:
            await guest.read_file(f"/workspace/{name}/bin/env" if name != "proc" else "/workspace/proc")
        assert caught.value.errno in {errno.ENOENT, errno.ELOOP}
        ran = await run(guest, "python3", "-c", f"import os; print(os.listdir('{name}'))")
        assert ran.code == 1, ran.text
        assert (await run(guest, "js", "-e", f"readFile('{name}')")).code == 1


async def test_a_program_sees_the_sandboxs_own_tree_and_nothing_of_the_workers(machine: Machine) -> None:
    program = "import os; print(sorted(os.listdir('/')), os.listdir('/..') == os.listdir('/'))"
    ran = await run(machine.guest, "python3", "-c", program)
    listed = ran.text or ran.stderr.decode()
    assert (
        "usr" not in listed
        and "proc" not in listed
        and "workspace" in listed + str([entry.name for entry in await machine.guest.list_directory("/")])
    )


async def test_two_sandboxes_see_nothing_of_each_other(driver: WasmDriver, tmp_path: Path) -> None:
    async with booted(driver, SPEC, tmp_path) as one, booted(driver, SPEC, tmp_path) as other:
        await one.guest.write_file("/scratch/mine", b"x")
        assert await one.guest.read_file("/scratch/mine") == b"x"
        with pytest.raises(FileNotFoundError):
            await other.guest.read_file("/scratch/mine")
        pids = {confinement_of(made.pid).uids for made in (one, other)}
        assert len(pids) == (2 if os.geteuid() == 0 else 1), "as root each has a uid of its own"


async def test_compiled_code_is_its_owners_alone_and_nobody_can_write_it(driver: WasmDriver) -> None:
    natives = await driver.natives()
    assert set(natives) == {Kind.PYTHON, Kind.JAVASCRIPT}
    for path in natives.values():
        assert path.stat().st_uid == os.geteuid()
        assert path.stat().st_mode & 0o222 == 0
        assert any(folder.stat().st_mode & 0o077 == 0 for folder in path.parents), "nobody else gets that far"
