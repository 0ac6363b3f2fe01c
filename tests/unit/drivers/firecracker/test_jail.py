"""The jail's files and arguments, the host's cgroups, and what Firecracker's complaints mean."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agentkernel.drivers.firecracker.api import refusal
from agentkernel.drivers.firecracker.binary import Binaries
from agentkernel.drivers.firecracker.jail import Cgroups, Jail, cgroups
from agentkernel.drivers.firecracker.machine import DESCRIBE
from agentkernel.model.errors import Broken, Unsupported
from agentkernel.model.ids import Digest, SandboxId

ID = SandboxId("ab" * 16)
BINARIES = Binaries(Path("/opt/firecracker-v1"), Path("/opt/jailer-v1"), "1.13.1", Digest("d"))
V1 = "cgroup /c/memory cgroup rw,memory 0 0\ncgroup /c/pids cgroup rw,pids 0 0\ncgroup2 /c/unified cgroup2 rw 0 0\n"
V2 = "cgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\n"


@pytest.fixture
def jail(tmp_path: Path) -> Jail:
    made = Jail(tmp_path, ID, BINARIES, os.geteuid())
    made.root.mkdir(parents=True)
    return made


def test_cgroups_are_read_from_the_mounts() -> None:
    assert cgroups(V1, "") == Cgroups(1, (Path("/c/memory"), Path("/c/pids")))
    assert cgroups(V2, "cpu memory pids") == Cgroups(2, (Path("/sys/fs/cgroup"),))
    assert cgroups(V2, "cpu") == Cgroups(0)
    assert cgroups("", "memory pids") == Cgroups(0)


def test_the_jailer_is_told_who_where_and_how_much(jail: Jail, tmp_path: Path) -> None:
    words = jail.arguments(512, Cgroups(1, ()))
    text = " ".join(words)
    assert words[0] == "/opt/jailer-v1"
    assert f"--id {ID} --exec-file /opt/firecracker-v1 --uid {jail.uid} --gid {jail.uid}" in text
    assert f"--chroot-base-dir {tmp_path}" in text
    assert f"memory.limit_in_bytes={640 << 20}" in text
    assert text.endswith("-- --api-sock /api --enable-pci")
    assert "memory.max=" in " ".join(jail.arguments(512, Cgroups(2, ())))
    assert "--cgroup" not in jail.arguments(512, Cgroups(0))
    assert jail.root == tmp_path / "firecracker-v1" / ID / "root"


def test_what_is_only_read_is_linked_and_what_others_may_not_read_is_copied(jail: Jail, tmp_path: Path) -> None:
    open_, closed = tmp_path / "open", tmp_path / "closed"
    for path, mode in ((open_, 0o644), (closed, 0o600)):
        path.write_bytes(b"x" * 100)
        path.chmod(mode)
        jail.link(path, path.name)
    assert (jail.root / "open").stat().st_ino == open_.stat().st_ino
    assert (jail.root / "closed").stat().st_ino != closed.stat().st_ino
    assert (jail.root / "closed").stat().st_mode & 0o777 == 0o444
    assert closed.stat().st_mode & 0o777 == 0o600, "the original is as it was"


def test_what_is_written_is_a_copy_or_the_lasting_file_itself(jail: Jail, tmp_path: Path) -> None:
    (tmp_path / "blank").write_bytes(b"b")
    assert jail.copy(tmp_path / "blank", "scratch").stat().st_ino != (tmp_path / "blank").stat().st_ino
    assert jail.lend(tmp_path / "blank", "lasting").stat().st_ino == (tmp_path / "blank").stat().st_ino


def test_a_link_in_the_place_of_a_snapshot_is_not_followed(jail: Jail, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("of the host")
    (jail.root / "memory").symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="symbolic links"):
        jail.take("memory", tmp_path / "taken")
    assert (tmp_path / "secret").stat().st_mode & 0o777 != 0o444
    (jail.root / "state").write_text("state")
    jail.take("state", tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "state"


CAUSES = {
    "Error: No space left on device (os error 28)": (Broken, "df -h"),
    "Error creating KVM object: /dev/kvm: No such file": (Unsupported, "kvm"),
    "Cannot mmap: Cannot allocate memory": (Broken, "free -m"),
    "Failed to restore from snapshot: wrong version": (Broken, "made anew"),
    "something that nobody knows": (Broken, "version"),
    "": (Broken, "version"),
}


@pytest.mark.parametrize("fault", CAUSES)
def test_a_complaint_becomes_an_error_with_something_to_do(fault: str) -> None:
    kind, hint = CAUSES[fault]
    error = refusal(DESCRIBE, 400, fault)
    assert type(error) is kind
    assert hint in error.hint
    assert "GET /" in error.message
    assert (fault or "status 400") in error.message


def test_a_complaint_is_one_line_however_it_was_written() -> None:
    error = refusal(DESCRIBE, 500, "a\n" * 1000)
    assert "\n" not in error.message
    assert len(error.message) < 400
