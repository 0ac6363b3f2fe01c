"""Boots that fail: each says why, with the machine's last words, and leaves nothing."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from agentkernel.drivers.qemu import QemuDriver
from agentkernel.drivers.qemu import driver as driver_module
from agentkernel.drivers.qemu.machine import Accelerator
from agentkernel.drivers.vmm.trials import Trials
from agentkernel.images import cpio
from agentkernel.images.store import Store
from agentkernel.model.errors import Broken
from tests.support.machines import alive, booted, qemu_spec
from tests.support.processes import naming
from tests.support.tampered import Tampered, compiled, members

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

HOSTILE = Path(__file__).with_name("hostile_init.c")
PROMPT_S = 60.0


def driver_over(artifacts: Tampered) -> QemuDriver:
    return QemuDriver(artifacts, Trials(artifacts.store.data / "readiness", artifacts.store.state / "trials"))


async def fails(artifacts: Tampered, place: Path, words: str, **sizes: int) -> str:
    """Boot, and return what is said about it."""
    with anyio.fail_after(PROMPT_S):
        with pytest.raises(Broken, match=words) as caught:
            async with booted(driver_over(artifacts), qemu_spec(artifacts.store, **sizes), place):
                """Never reached."""
    assert not [pid for made in place.iterdir() for pid in naming(made.name) if alive(pid)]
    assert caught.value.hint
    return caught.value.message


async def test_a_root_image_of_rubbish_is_named_by_the_guest(store: Store, tmp_path: Path) -> None:
    image = tmp_path / "rubbish"
    image.write_bytes(os.urandom(1 << 20))
    said = await fails(Tampered(store, root_image=image), tmp_path / "place", "did not come up")
    assert "root /dev/vda: erofs" in said


async def test_a_root_image_that_was_cut_short_does_not_pass_for_a_sandbox(store: Store, tmp_path: Path) -> None:
    whole = await store.root(store.resolve("base"))
    image = tmp_path / "short"
    with whole.open("rb") as file:
        image.write_bytes(file.read(64 * 1024))
    await fails(Tampered(store, root_image=image), tmp_path / "place", "did not come up")


async def test_too_little_memory_is_a_failed_boot_with_the_kernels_words(store: Store, tmp_path: Path) -> None:
    said = await fails(Tampered(store), tmp_path, "did not come up", memory_mib=40)
    assert "last words: " in said


async def test_a_module_that_is_missing_is_named(store: Store, tmp_path: Path) -> None:
    whole = list(members((await store.kernel()).initramfs.read_bytes()))
    kept = [member for member in whole if "erofs" not in member.name]
    assert len(kept) < len(whole)
    initramfs = tmp_path / "initramfs"
    initramfs.write_bytes(cpio.archive(kept))
    said = await fails(Tampered(store, initramfs=initramfs), tmp_path / "place", "did not come up")
    assert "erofs" in said


async def test_an_archive_that_was_read_and_written_again_still_boots(store: Store, tmp_path: Path) -> None:
    """The positive control of all that is tampered with here."""
    initramfs = tmp_path / "initramfs"
    initramfs.write_bytes(cpio.archive(members((await store.kernel()).initramfs.read_bytes())))
    async with booted(
        driver_over(Tampered(store, initramfs=initramfs)), qemu_spec(store), tmp_path / "place"
    ) as machine:
        await machine.guest.ping()


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return compiled(HOSTILE, tmp_path_factory.mktemp("hostile") / "init")


LIES = {"rubbish": "attach record", "old epoch": "attach record", "wrong length": "length", "silence": "within 8 s"}


@pytest.mark.parametrize("mode", LIES)
async def test_a_guest_that_lies_or_says_nothing_is_a_failed_boot(
    store: Store, hostile: bytes, tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if mode == "silence":
        monkeypatch.setattr(driver_module, "BOOT_DEADLINE_S", dict.fromkeys(Accelerator, 8.0))
    whole = members((await store.kernel()).initramfs.read_bytes())
    changed = [replace(member, content=hostile) if member.name == "init" else member for member in whole]
    initramfs = tmp_path / "initramfs"
    initramfs.write_bytes(cpio.archive([*changed, cpio.regular("mode", mode.encode())]))
    said = await fails(Tampered(store, initramfs=initramfs), tmp_path / "place", LIES[mode])
    assert f"hostile: {mode}" in said or mode == "silence", "on a busy host it may not even have got there"
