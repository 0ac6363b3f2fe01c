"""What a template must have in common with its clones, and what is refused when it has not."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import anyio
import pytest

from agentkernel.drivers.qemu import template
from agentkernel.drivers.qemu.machine import Accelerator, Machine, Memory
from agentkernel.drivers.qemu.template import (
    MEMORY,
    SEALS,
    STATE,
    OpenTemplates,
    maps_files_read_only,
    template_inputs,
)
from agentkernel.drivers.vmm import made_for
from agentkernel.drivers.vmm.made_for import MADE_FOR, require_match, write_key
from agentkernel.images.store import Store
from agentkernel.model.errors import Broken
from agentkernel.model.ids import Digest
from agentkernel.model.kinds import Backend, Vmm
from agentkernel.model.spec import BootSpec

DIGEST = Digest("d" * 64)


@dataclass(frozen=True, slots=True)
class ATool:
    """QEMU, by what it says of itself."""

    digest: Digest = DIGEST
    version: str = "10.0.2"
    path: str = "/usr/bin/qemu-system-x86_64"
    root: Path = Path("/")


@dataclass(frozen=True, slots=True)
class AKernel:
    """A kernel with its agent."""

    digest: Digest = DIGEST
    image: Path = Path("/k")
    initramfs: Path = Path("/i")
    release: str = "6.12"


TOOL, KERNEL = ATool(), AKernel()
SPEC = BootSpec(Backend.MICROVM, "base", Digest("0" * 64), vmm=Vmm.QEMU)
MACHINE = Machine(SPEC, Accelerator.TCG)


def of_spec(**changes: object) -> Machine:
    return replace(MACHINE, spec=replace(SPEC, **changes))  # type: ignore[arg-type]


OTHERS = {
    "QEMU": (replace(TOOL, digest=Digest("u" * 64)), KERNEL, MACHINE),
    "QEMU's version": (replace(TOOL, version="10.0.3"), KERNEL, MACHINE),
    "kernel or agent": (TOOL, replace(KERNEL, digest=Digest("l" * 64)), MACHINE),
    "image": (TOOL, KERNEL, of_spec(image=Digest("1" * 64))),
    "memory": (TOOL, KERNEL, of_spec(memory_mib=513)),
    "processors": (TOOL, KERNEL, of_spec(vcpus=2)),
    "disk": (TOOL, KERNEL, of_spec(disk_mib=1025)),
    "warm-up": (TOOL, KERNEL, of_spec(warm_up=(("python3", "-V"),))),
    "accelerator": (TOOL, KERNEL, replace(MACHINE, accelerator=Accelerator.KVM)),
}
SAME = {
    "where its memory lives": replace(MACHINE, memory=Memory.CLONED),
    "how it is mapped": replace(MACHINE, memory=Memory.CLONED, maps_read_only=False),
    "the limit of processes, which the greeting sets": of_spec(pids=99),
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_template_is_needed_for_another(what: str, tmp_path: Path) -> None:
    ours, others = template_inputs(TOOL, KERNEL, MACHINE), template_inputs(*OTHERS[what])
    assert ours != others
    write_key(tmp_path, ours)
    require_match(tmp_path, template_inputs(TOOL, KERNEL, MACHINE))
    with pytest.raises(Broken, match="made for another"):
        require_match(tmp_path, others)


@pytest.mark.parametrize("what", SAME)
def test_the_same_template_serves_whatever(what: str) -> None:
    assert template_inputs(TOOL, KERNEL, SAME[what]) == template_inputs(TOOL, KERNEL, MACHINE)


def test_another_processor_or_format_needs_another_template(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = template_inputs(TOOL, KERNEL, MACHINE)
    with monkeypatch.context() as other:
        other.setattr(made_for, "processor", lambda: ["model name: another"])
        assert template_inputs(TOOL, KERNEL, MACHINE) != ours
    monkeypatch.setattr(template, "FORMAT", template.FORMAT + 1)
    assert template_inputs(TOOL, KERNEL, MACHINE) != ours


def test_a_template_without_a_key_is_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        require_match(tmp_path, {})


@pytest.mark.parametrize(
    ("version", "can"), [("7.2.22", False), ("8.1.5", False), ("8.2.0", True), ("10.0.2", True), ("11.1", True)]
)
def test_which_qemu_maps_a_file_without_permission_to_write_it(version: str, can: bool) -> None:
    assert maps_files_read_only(replace(TOOL, version=version)) is can


# --- opening ----------------------------------------------------------------------------------------------------------


def made(folder: Path, mark: bytes) -> None:
    folder.mkdir()
    (folder / MEMORY).write_bytes(mark.ljust(1 << 20, b"\0"))
    (folder / STATE).write_bytes(mark)


@pytest.fixture
def files() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_a_newer_qemu_gets_the_files_themselves_and_cannot_write_them(tmp_path: Path, files: ExitStack) -> None:
    made(tmp_path / "one", b"one")
    memory, state = OpenTemplates().open(tmp_path / "one", files, read_only=True)
    assert (os.pread(memory, 3, 0), os.pread(state, 9, 0)) == (b"one", b"one")
    assert (tmp_path / "one" / MEMORY).stat().st_ino == os.fstat(memory).st_ino
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(memory, b"x")


def test_an_older_qemu_gets_one_sealed_copy_that_nobody_can_write(tmp_path: Path, files: ExitStack) -> None:
    import fcntl

    made(tmp_path / "one", b"one")
    opened = OpenTemplates()
    ones = [opened.open(tmp_path / "one", files, read_only=False)[0] for _ in range(2)]
    assert len({os.fstat(memory).st_ino for memory in ones}) == 1
    assert fcntl.fcntl(ones[0], fcntl.F_GET_SEALS) == SEALS
    assert os.pread(ones[0], 3, 0) == b"one"
    with pytest.raises(PermissionError):
        os.pwrite(ones[0], b"x", 0)
    opened.forget(tmp_path / "one")
    assert os.pread(ones[1], 3, 0) == b"one", "a machine under way keeps it"
    opened.forget(tmp_path / "one")


def test_a_copy_is_made_anew_for_a_template_that_another_process_made_anew(tmp_path: Path, files: ExitStack) -> None:
    made(tmp_path / "one", b"one")
    opened = OpenTemplates()
    opened.open(tmp_path / "one", files, read_only=False)
    (tmp_path / "one").rename(tmp_path / "old")
    made(tmp_path / "one", b"two")
    memory, state = opened.open(tmp_path / "one", files, read_only=False)
    assert (os.pread(memory, 3, 0), os.pread(state, 3, 0)) == (b"two", b"two"), "never the memory of one with the other"
    opened.forget(tmp_path / "one")


def test_a_template_that_is_gone_leaves_no_descriptor(tmp_path: Path) -> None:
    with ExitStack() as files, pytest.raises(FileNotFoundError):
        OpenTemplates().open(tmp_path / "none", files, read_only=True)


# --- the store --------------------------------------------------------------------------------------------------------


class Recorder:
    """Writes files as a machine that is frozen does."""

    def __init__(self, *, mib: int = 1) -> None:
        self.calls = 0
        self.mib = mib

    async def __call__(self, folder: Path) -> None:
        self.calls += 1
        await anyio.sleep(0.01)
        (folder / MEMORY).write_bytes(os.urandom(self.mib << 20))
        (folder / STATE).write_bytes(b"state")
        write_key(folder, {})


Make = Callable[[Mapping[str, object], Callable[[Path], Awaitable[None]]], Awaitable[Path]]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store({"AGENTKERNEL_DATA": str(tmp_path / "data"), "AGENTKERNEL_HOME": str(tmp_path / "home")})


@pytest.mark.anyio
async def test_the_same_inputs_are_made_once_and_others_apart(store: Store) -> None:
    recorder, found = Recorder(), []

    async def ask(number: int) -> None:
        found.append(await store.template({"a": number}, recorder))

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(ask, 1)
    assert (len(set(found)), recorder.calls) == (1, 1)
    await ask(2)
    assert (len(set(found)), recorder.calls) == (2, 2)
    assert {path.name for path in found[0].iterdir()} == {MEMORY, STATE, MADE_FOR, "manifest.json"}


@pytest.mark.anyio
@pytest.mark.parametrize("name", [MEMORY, STATE, MADE_FOR])
async def test_a_template_whose_files_changed_is_made_anew(store: Store, name: str) -> None:
    recorder = Recorder()
    folder = await store.template({}, recorder)
    os.truncate(folder / name, 1)
    assert await store.template({}, recorder) == folder
    assert recorder.calls == 2
    assert (folder / MEMORY).stat().st_size == 1 << 20


@pytest.mark.anyio
async def test_a_recording_that_fails_leaves_nothing(store: Store) -> None:
    async def fails(folder: Path) -> None:
        (folder / MEMORY).write_bytes(b"half")
        raise Broken("QEMU has ended")

    with pytest.raises(Broken, match="QEMU has ended"):
        await store.template({}, fails)
    assert list((store.data / "templates").iterdir()) == []
    recorder = Recorder()
    await store.template({}, recorder)
    assert recorder.calls == 1


@pytest.mark.anyio
async def test_those_not_used_for_longest_go_when_there_are_too_many(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentkernel.images.store.TEMPLATES_CAP_BYTES", 5 << 19)
    recorder = Recorder()
    first, second = [await store.template({"a": number}, recorder) for number in (1, 2)]
    os.utime(second, (1, 1))
    third = await store.template({"a": 3}, recorder)
    assert [folder.exists() for folder in (first, second, third)] == [True, False, True]
    await store.discard_template(first)
    await store.discard_template(first)
    assert not first.exists()
