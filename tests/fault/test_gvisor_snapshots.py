"""A sandbox in gVisor that cannot be saved, or whose saved files are damaged: told, and nobody is worse off."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from agentkernel.drivers.gvisor import snapshot
from agentkernel.images.store import Store
from agentkernel.model.errors import AgentkernelError, Broken, NotFound, Refused
from tests.fault.test_gvisor import nothing_is_left, sentry_of
from tests.support.gvisor import gvisor_driver, gvisor_ready, gvisor_spec
from tests.support.machines import booted, cradle, run, shell, store_at

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

PROMPT_S = 60.0


@pytest.fixture(scope="module")
def sandboxes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Everything that a sandbox is made from."""
    made = store_at(tmp_path_factory.mktemp("state"))
    with gvisor_ready(made):
        verdict = anyio.run(gvisor_driver(made).probe)
        if not verdict.usable:
            pytest.skip(verdict.reason)
        yield made


async def test_a_sentry_killed_while_it_saves_breaks_that_call_and_leaves_nothing(
    sandboxes: Store, tmp_path: Path
) -> None:
    saved, place = tmp_path / "saved", tmp_path / "place"
    saved.mkdir()
    caught: list[Broken] = []
    async with booted(gvisor_driver(sandboxes), gvisor_spec(sandboxes), place) as machine:
        filled = await shell(machine.guest, "head -c 100000000 /dev/urandom > /dev/shm/much")
        assert filled.code == 0

        async def save() -> None:
            try:
                await machine.guest.save(saved)
            except Broken as err:
                caught.append(err)

        with anyio.fail_after(PROMPT_S):
            async with anyio.create_task_group() as group:
                group.start_soon(save)
                while not (saved / "pages.img").exists() or not (saved / "pages.img").stat().st_size:
                    await anyio.lowlevel.checkpoint()
                os.kill(sentry_of(machine.pid), signal.SIGKILL)
    assert len(caught) == 1
    assert not (saved / snapshot.MADE_FOR).exists()
    assert await nothing_is_left(machine.birth.id)


@pytest.mark.parametrize("fault", ["a file is there", "the sentry does not know the order"])
async def test_a_sandbox_that_could_not_be_saved_goes_on(
    sandboxes: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    saved, whole = tmp_path / "saved", tmp_path / "whole"
    saved.mkdir()
    whole.mkdir()
    async with booted(gvisor_driver(sandboxes), gvisor_spec(sandboxes), tmp_path / "place") as machine:
        with monkeypatch.context() as changed, pytest.raises(Broken, match="could not be saved") as caught:
            if fault == "a file is there":
                (saved / "pages.img").touch()
            else:
                changed.setattr(snapshot, "ORDER", {**snapshot.ORDER, "method": "containerManager.Nothing"})
            await machine.guest.save(saved)
        assert caught.value.hint
        assert (await run(machine.guest, "/bin/true")).code == 0
        await machine.guest.save(whole)
        assert (await run(machine.guest, "/bin/true")).code == 0
    assert (whole / snapshot.MADE_FOR).exists(), "the control: nothing else keeps it from being saved"


async def test_a_snapshot_that_does_not_fit_or_is_damaged_is_refused_and_the_whole_one_is_not(
    sandboxes: Store, tmp_path: Path
) -> None:
    saved, spec, driver = tmp_path / "saved", gvisor_spec(sandboxes), gvisor_driver(sandboxes)
    saved.mkdir()
    async with booted(driver, spec, tmp_path / "place") as machine:
        await machine.guest.write_file("/workspace/kept", b"kept")
        await machine.guest.save(saved)

    async def restored() -> bytes:
        birth = cradle(tmp_path / "place")
        try:
            async with driver.restore(saved, spec, birth) as guest:
                return await guest.read_file("/workspace/kept")
        finally:
            assert await nothing_is_left(birth.id)

    async def refusal() -> AgentkernelError:
        with pytest.raises(AgentkernelError) as caught:
            await restored()
        return caught.value

    assert await restored() == b"kept"
    key = (saved / snapshot.MADE_FOR).read_text()
    (saved / snapshot.MADE_FOR).write_text(json.dumps({**json.loads(key), "kernel": "another"}))
    other = await refusal()
    assert isinstance(other, Refused)
    assert "kernel changed" in other.message
    (saved / snapshot.MADE_FOR).unlink()
    assert isinstance(await refusal(), NotFound)
    (saved / snapshot.MADE_FOR).write_text(key)
    state = saved / "checkpoint.img"
    content = state.read_bytes()
    state.write_bytes(content[: len(content) // 2])
    damaged = await refusal()
    assert isinstance(damaged, Broken)
    assert "its last words" in damaged.message
    state.write_bytes(content)
    assert await restored() == b"kept"
