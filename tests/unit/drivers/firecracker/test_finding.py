"""Where Firecracker is looked for, where it is not, and what is said of what was found."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from agentkernel.admin.console import Console
from agentkernel.admin.firecracker import adopt_firecracker
from agentkernel.drivers.firecracker import FirecrackerDriver
from agentkernel.drivers.firecracker.binary import SUMS, examine, find, own_folder
from agentkernel.drivers.firecracker.driver import Place
from agentkernel.drivers.vmm.trials import Trials
from agentkernel.images.store import Store
from agentkernel.model.errors import AgentkernelError, Refused, Unsupported

pytestmark = pytest.mark.anyio


def program(path: Path, says: str = "Firecracker v1.13.1") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n[ \"$*\" = --version ] && echo '{says}'\n")
    path.chmod(0o755)
    return path


def pair(folder: Path, version: str = "1.13.1", jailers: str = "", suffix: str = "") -> Path:
    program(folder / f"jailer{suffix}", f"Jailer v{jailers or version}")
    return program(folder / f"firecracker{suffix}", f"Firecracker v{version}")


def test_configuration_then_variable_then_our_folder_then_path(tmp_path: Path) -> None:
    places = [
        program(tmp_path / name / "firecracker") for name in ("configured", "variable", "data/firecracker", "path")
    ]
    environ = {"FIRECRACKER_BIN": str(places[1]), "PATH": f"/nowhere:{tmp_path / 'path'}"}
    assert find(str(places[0]), environ, tmp_path / "data") == places[0]
    assert find("", environ, tmp_path / "data") == places[1]
    del environ["FIRECRACKER_BIN"]
    assert find("", environ, tmp_path / "data") == places[2]
    assert find("", environ, tmp_path / "none") == places[3]
    assert find("", environ, None) == places[3]
    with pytest.raises(Unsupported, match="not installed") as caught:
        find("", {"PATH": "/nowhere"}, None)
    assert "setup --firecracker" in caught.value.hint


@pytest.mark.parametrize("path", [".", "", "bin", ":", "./bin"])
def test_the_current_directory_is_never_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    program(tmp_path / "firecracker")
    program(tmp_path / "bin" / "firecracker")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Unsupported, match="not installed"):
        find("", {"PATH": path}, None)
    assert find("", {"PATH": str(tmp_path)}, None) == tmp_path / "firecracker", "the control"


def test_what_was_named_and_is_none_is_an_objection_and_nothing_else_is_taken(tmp_path: Path) -> None:
    program(tmp_path / "firecracker")
    environ = {"PATH": str(tmp_path)}
    with pytest.raises(Unsupported, match=r"\[microvm\] firecracker names /none"):
        find("/none", environ, None)
    with pytest.raises(Unsupported, match="FIRECRACKER_BIN names /none"):
        find("", {**environ, "FIRECRACKER_BIN": "/none"}, None)
    with pytest.raises(Unsupported, match="not an absolute path"):
        find("firecracker", environ, None)
    (tmp_path / "text").write_text("")
    with pytest.raises(Unsupported, match="which is no program"):
        find(str(tmp_path / "text"), environ, None)


@pytest.mark.parametrize("suffix", ["", "-v1.13.1-x86_64"])
async def test_a_pair_of_one_release_is_taken(tmp_path: Path, suffix: str) -> None:
    found = await examine(pair(tmp_path, suffix=suffix))
    assert found.version == "1.13.1"
    assert found.jailer == tmp_path / f"jailer{suffix}"
    assert len(found.digest) == 64


async def test_versions_are_checked(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"1\.12\.9 is too old, 1\.13"):
        await examine(pair(tmp_path / "old", "1.12.9"))
    with pytest.raises(Unsupported, match=r"of release 1\.14\.0 and jailer of 1\.13\.1"):
        await examine(pair(tmp_path / "mixed", "1.14.0", "1.13.1"))
    with pytest.raises(Unsupported, match="says no version"):
        await examine(program(pair(tmp_path / "mute"), "hello"))
    assert (await examine(pair(tmp_path / "new", "2.0.0"))).version == "2.0.0"


async def test_a_program_that_does_not_end_or_cannot_be_run_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentkernel.drivers.firecracker.binary.VERSION_DEADLINE_S", 0.3)
    slow = pair(tmp_path / "slow")
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    with pytest.raises(Unsupported, match="does not end"):
        await examine(slow)
    monkeypatch.undo()
    broken = pair(tmp_path / "broken")
    broken.write_bytes(b"\x7fELF of another machine")
    with pytest.raises(Unsupported, match="cannot be run"):
        await examine(broken)


async def test_without_a_jailer_nothing_runs(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="no jailer beside"):
        await examine(program(tmp_path / "firecracker"))
    with pytest.raises(Unsupported, match="name contains firecracker"):
        await examine(program(tmp_path / "fc"))


async def test_a_list_of_digests_beside_it_is_believed(tmp_path: Path) -> None:
    path = pair(tmp_path)
    sums = "".join(
        f"{hashlib.sha256((tmp_path / n).read_bytes()).hexdigest()}  {n}\n" for n in ("firecracker", "jailer")
    )
    (tmp_path / SUMS).write_text(sums)
    assert await examine(path)
    path.write_text(path.read_text() + "# changed\n")
    with pytest.raises(Unsupported, match="is not what SHA256SUMS"):
        await examine(path)


# --- setup ---


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store({"AGENTKERNEL_DATA": str(tmp_path / "data"), "AGENTKERNEL_HOME": str(tmp_path / "home")})


async def test_setup_copies_a_pair_whose_digest_is_right_and_later_finds_it_whole(tmp_path: Path, store: Store) -> None:
    path = pair(tmp_path / "release", suffix="-v1.13.1-x86_64")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(Refused, match="not " + "0" * 64):
        await adopt_firecracker(store, path, Console(), sha256="0" * 64)
    assert not own_folder(store.data).exists()
    adopted = await adopt_firecracker(store, path, Console(), sha256=digest.upper())
    assert adopted.firecracker == find("", {}, store.data) == own_folder(store.data) / "firecracker"
    assert digest in (own_folder(store.data) / SUMS).read_text()
    assert [entry.name for entry in store.data.iterdir()] == ["firecracker"]
    newer = pair(tmp_path / "newer", "1.14.0")
    assert (await adopt_firecracker(store, newer, Console())).version == "1.14.0"
    assert [entry.name for entry in store.data.iterdir()] == ["firecracker"]
    adopted.firecracker.write_text("#!/bin/sh\necho Firecracker v1.14.0\n")
    with pytest.raises(Unsupported, match="is not what SHA256SUMS"):
        await examine(adopted.firecracker)


async def test_setup_refuses_what_it_would_not_use_and_keeps_what_is_there(tmp_path: Path, store: Store) -> None:
    await adopt_firecracker(store, pair(tmp_path / "good"), Console())
    for bad in (tmp_path / "none", pair(tmp_path / "old", "1.0.0"), program(tmp_path / "alone" / "firecracker")):
        with pytest.raises(AgentkernelError) as caught:
            await adopt_firecracker(store, bad, Console())
        assert caught.value.hint
    assert (await examine(own_folder(store.data) / "firecracker")).version == "1.13.1"
    assert [entry.name for entry in store.data.iterdir()] == ["firecracker"]


def test_setup_by_the_command_line(tmp_path: Path) -> None:
    path = pair(tmp_path / "release")
    places = {"AGENTKERNEL_DATA": str(tmp_path / "data"), "AGENTKERNEL_HOME": str(tmp_path / "home")}

    def setup(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "agentkernel", "setup", "--firecracker", str(path), *options]
        return subprocess.run(command, env={**os.environ, **places}, capture_output=True, text=True, check=False)

    refused = setup("--sha256", "0" * 64)
    assert (refused.returncode, "is " in refused.stderr, "release again" in refused.stderr) == (125, True, True)
    done = setup("--sha256", hashlib.sha256(path.read_bytes()).hexdigest())
    assert done.returncode == 0, done.stderr
    assert "1.13.1, SHA-256" in done.stderr
    assert (tmp_path / "data/firecracker/jailer").is_file()


# --- the probe, where there is nothing to boot ---


def driver(tmp_path: Path, store: Store, configured: str, hardware: str) -> FirecrackerDriver:
    return FirecrackerDriver(
        store, Place(configured, {}, None, lambda: hardware), Trials(tmp_path / "v", tmp_path / "t")
    )


async def test_the_probe_names_everything_that_is_missing_at_once(tmp_path: Path, store: Store) -> None:
    verdict = await driver(tmp_path, store, "", "there is no /dev/kvm").probe()
    assert not verdict.usable
    assert verdict.isolation is None
    assert "there is no /dev/kvm" in verdict.reason
    assert "firecracker is not installed" in verdict.reason
    assert "setup --firecracker" in verdict.remedy
    assert "qemu" in verdict.remedy
    assert not (tmp_path / "t").exists(), "nothing was tried"


async def test_the_probe_says_what_is_wrong_with_what_was_found(tmp_path: Path, store: Store) -> None:
    old = pair(tmp_path / "old", "1.0.0")
    verdict = await driver(tmp_path, store, str(old), "").probe()
    assert verdict.reason.startswith("Firecracker 1.0.0 is too old")
    assert os.geteuid() == 0 or "needs root" in verdict.reason


async def test_another_processor_or_system_is_said(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert "not riscv64 ones" in (await driver(tmp_path, store, "", "").probe()).reason
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert "not on Darwin" in (await driver(tmp_path, store, "", "").probe()).reason
