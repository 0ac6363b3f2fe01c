"""What the supervisor gives a program that confines itself, and to whom it does not."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from tests.support.machines import cradle

from agentkernel.drivers.confine import Confinement, confined
from agentkernel.drivers.confine.spec import SUPERVISOR

pytestmark = pytest.mark.skipif(platform.system() != "Linux" or os.geteuid() != 0, reason="a jailer is for root")
ORDINARY_UID = 61_234
UID = 1_900_000_000

REPORT = """
import os
pids = [name for name in os.listdir("/proc") if name.isdigit()]
print(os.getpid(), os.getuid(), sorted(os.listdir("/proc/self/fd")), len(pids))
print([os.readlink(f"/proc/self/ns/{kind}") for kind in ("pid", "net", "mnt", "ipc", "uts", "cgroup")])
print([line for line in open("/proc/self/status") if line.startswith("NoNewPrivs")])
print(dict(os.environ), open("/proc/self/oom_score_adj").read().strip())
"""


@pytest.mark.anyio
async def test_it_has_roots_rights_in_namespaces_of_its_own_and_nothing_of_the_daemons(tmp_path: Path) -> None:
    spec = Confinement(argv=(sys.executable, "-I", "-c", REPORT), tree=Path("/"), uid=UID, jailer=True)
    async with confined(spec, cradle(tmp_path)) as program:
        assert (await program.wait_exited()).code == 0, program.last_words()
        first, namespaces, privileges, surroundings = program.last_words().splitlines()
    assert first == "1 0 ['0', '1', '2', '3'] 1", "first process, root, its standard streams and what lists them, alone"
    ours = [str(Path(f"/proc/self/ns/{kind}").readlink()) for kind in ("pid", "net", "mnt", "ipc", "uts", "cgroup")]
    assert not [name for name in ours if name in namespaces]
    assert "NoNewPrivs:\\t1" in privileges
    assert surroundings.endswith(" 500")
    assert "HOME" not in surroundings
    assert "PATH" not in surroundings


@pytest.mark.anyio
async def test_what_it_mounts_nobody_else_sees(tmp_path: Path) -> None:
    command = f"mount -t tmpfs none {tmp_path} && touch {tmp_path}/inside && ls {tmp_path}"
    spec = Confinement(argv=("/bin/sh", "-c", f"PATH=/usr/bin:/bin; {command}"), tree=Path("/"), uid=UID, jailer=True)
    async with confined(spec, cradle(tmp_path)) as program:
        assert (await program.wait_exited()).code == 0, program.last_words()
        assert "inside" in program.last_words(), "the control"
    assert not (tmp_path / "inside").exists()


def refusal(*options: str, user: int = 0) -> str:
    """What the supervisor answers on its control socket."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [str(SUPERVISOR), "ab" * 16, "--control-fd", str(theirs.fileno()), *options, "--", "/bin/true"]
        subprocess.run(
            command, pass_fds=[theirs.fileno()], stderr=subprocess.DEVNULL, check=False, user=user, extra_groups=[]
        )
        ours.settimeout(10)
        return ours.recv(200).decode()


@pytest.mark.parametrize(
    "option", [("--tree", "/usr"), ("--bind", "/usr", "/usr"), ("--kvm",), ("--profile", "nesting")]
)
def test_it_goes_with_nothing_that_confines(option: tuple[str, ...]) -> None:
    ids = ("--uid", str(UID), "--gid", str(UID))
    assert "goes with no" in refusal("--jailer", *ids, *option)
    assert refusal("--jailer", *ids).startswith("spawned"), "the control"


def test_an_ordinary_user_gets_none(tmp_path: Path) -> None:
    reached = subprocess.run([str(SUPERVISOR)], user=ORDINARY_UID, check=False, capture_output=True).returncode == 125
    if not reached:
        pytest.skip("the supervisor lies where another user does not reach")
    assert "--jailer is for root" in refusal("--jailer", user=ORDINARY_UID)


@pytest.mark.anyio
async def test_when_the_daemon_is_gone_its_jail_is_removed_though_another_uid_owns_it(tmp_path: Path) -> None:
    birth = cradle(tmp_path)
    deep = birth.directory / "firecracker" / birth.id / "root" / "dev" / "net"
    deep.mkdir(parents=True)
    (deep / "tun").touch()
    for path in (deep, deep.parent, deep.parent.parent):
        os.chown(path, UID, UID)
        path.chmod(0o700)
    (deep.parent / "link").symlink_to("/usr")
    ours, theirs = socket.socketpair()
    command = [
        *(str(SUPERVISOR), birth.id, "--control-fd", str(theirs.fileno()), "--jailer", "--uid", str(UID)),
        *("--gid", str(UID), "--remove", str(birth.directory), "--", "/bin/sleep", "60"),
    ]
    process = await anyio.open_process(command, pass_fds=[theirs.fileno()], stdin=None, stdout=None, stderr=None)
    theirs.close()
    await anyio.to_thread.run_sync(ours.recv, 100)
    ours.close()
    with anyio.fail_after(20):
        await process.wait()
    assert not birth.directory.exists()
    assert Path("/usr/bin").is_dir()
