"""What the profile for shared-kernel drivers does, by effect: a container of runc's or crun's, with it and without.

Without it the container has every capability and no filter, so that what the kernel then says is its own word.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from uuid import uuid4

import pytest

from agentkernel.drivers.hardening import MASKED, READ_ONLY
from agentkernel.drivers.hardening.seccomp import profile, source

REPOSITORY = Path(__file__).parents[2]
MACHINE = platform.machine()
DEADLINE_S = 120
# Nearly all: root of a container may itself have no SYS_RESOURCE to give.
CAPABILITIES = """
CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
SYS_BOOT SYS_NICE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE SYSLOG
""".split()  # noqa: SIM905  a list of thirty short words
AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_ALG, AF_VSOCK = 1, 2, 10, 16, 17, 38, 40
NAMESPACE_FLAGS = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="runc and crun make these containers as root only"),
]


def groups(kind: str) -> dict[str, list[str]]:
    """Names by group, those without cases only."""
    return {group["name"]: group["calls"].split() for group in source()[kind] if "cases" not in group}


def refused() -> dict[str, int]:
    """Each call that is refused whatever its arguments, and with what."""
    numbers = {group["name"]: getattr(errno, group["errno"]) for group in source()["refuse"]}
    return {name: numbers[group] for group, names in groups("refuse").items() for name in names}


class Bundle:
    """One OCI bundle; each run is a container of its own."""

    def __init__(self, runtime: str, folder: Path, probe: Path) -> None:
        self.runtime = runtime
        self.folder = folder
        self.root = folder / "rootfs"
        for name in ("proc", "sys", "dev", "tmp", "usr", "etc"):
            (self.root / name).mkdir(parents=True)
        (self.root / "tmp").chmod(0o1777)  # runc gives the mode to what it mounts there
        for name in ("bin", "sbin", "lib", "lib64"):
            if (Path("/") / name).exists():
                (self.root / name).symlink_to(f"usr/{name}")
        shutil.copy(probe, self.root / "probe")

    def run(
        self, *argv: str, filtered: bool, ordinary: bool = False, hidden: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run one program: as root with every capability, or as the drivers run theirs."""
        held = [] if ordinary else [f"CAP_{name}" for name in CAPABILITIES]
        config = {
            "ociVersion": "1.0.2",
            "process": {
                "args": list(argv),
                "cwd": "/tmp",
                "env": ["PATH=/usr/bin:/bin", "HOME=/tmp"],
                "user": {"uid": 1000, "gid": 1000} if ordinary else {"uid": 0, "gid": 0},
                "noNewPrivileges": ordinary,
                "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), held),
            },
            "root": {"path": "rootfs", "readonly": True},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/sys", "type": "sysfs", "source": "sysfs"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"]},
                {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]},
                {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]},
                {"destination": "/etc", "type": "bind", "source": "/etc", "options": ["rbind", "ro"]},
            ],
            "linux": {
                "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")],
                **({"seccomp": profile(MACHINE)} if filtered else {}),
                **({"maskedPaths": list(MASKED), "readonlyPaths": list(READ_ONLY)} if hidden else {}),
            },
        }
        (self.folder / "config.json").write_text(json.dumps(config))
        name = f"ak-{uuid4().hex}"
        runtime = [self.runtime, "--root", str(self.folder / "state")]
        # crun takes no part in a hybrid of cgroups; in this mount namespace there is none.
        prepare = 'umount /sys/fs/cgroup/unified 2>/dev/null; exec "$@"'
        command = ["unshare", "--mount", "sh", "-c", prepare, "sh", *runtime, "run", "--bundle", str(self.folder), name]
        try:
            return subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE_S, check=False
            )
        finally:
            subprocess.run([*runtime, "delete", "--force", name], capture_output=True, check=False)

    def ask(self, *actions: str, filtered: bool) -> dict[str, str]:
        """What the probe says."""
        done = self.run("/probe", *actions, filtered=filtered)
        assert done.returncode == 0, done.stderr
        return dict(line.split(" = ", 1) for line in done.stdout.splitlines())


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The probe, with the number of every call that the profile names."""
    folder = tmp_path_factory.mktemp("seccomp-probe")
    names = sorted(
        {name for kind in ("allow", "refuse") for group in source()[kind] for name in group["calls"].split()}
    )
    entries = (f'#ifdef SYS_{name}\n{{"{name}", SYS_{name}}},\n#endif\n' for name in names)
    (folder / "calls.h").write_text("".join(entries))
    compiler = subprocess.run([REPOSITORY / "tools/cc.sh"], capture_output=True, text=True, check=True).stdout.split()
    code = Path(__file__).with_name("seccomp_probe.c")
    subprocess.run([*compiler, "-static", f"-I{folder}", "-o", folder / "probe", code], check=True)
    return folder / "probe"


@pytest.fixture(params=["runc", "crun"])
def bundle(request: pytest.FixtureRequest, tmp_path: Path, probe: Path) -> Bundle:
    """A bundle for each runtime that is here."""
    if shutil.which(request.param) is None:
        pytest.skip(f"no {request.param} here")
    return Bundle(request.param, tmp_path, probe)


def compare(bundle: Bundle, actions: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Action to (with the profile, without)."""
    wanted = list(actions)
    inside, outside = bundle.ask(*wanted, filtered=True), bundle.ask(*wanted, filtered=False)
    return {action: (inside[action], outside[action]) for action in wanted}


def test_every_refused_call_hears_what_the_profile_says(bundle: Bundle) -> None:
    expected = {f"call:{name}": errno.errorcode[number] for name, number in refused().items()}
    said = compare(bundle, expected)
    wrong = {name: got for name, got in said.items() if got[0] not in (expected[name], "absent")}
    assert wrong == {}
    # The control: without the profile the kernel itself says something else, but for what it was built without.
    same = {name for name, (inside, outside) in said.items() if inside == outside != "absent"}
    assert {said[name][1] for name in same} <= {"ENOSYS"}
    assert len(same) < len(said) / 4, sorted(same)
    essential = (
        "clone3 io_uring_setup keyctl add_key bpf unshare setns mount pivot_root chroot userfaultfd process_vm_readv"
    )
    assert same.isdisjoint(f"call:{name}" for name in essential.split())


def test_a_call_that_the_profile_does_not_name_is_not_implemented(bundle: Bundle) -> None:
    """`statmount` came in Linux 6.8, after the libseccomp of most engines: a C library must hear as of an old one."""
    inside, outside = compare(bundle, ["number:457"])["number:457"]
    assert inside == "ENOSYS"
    if outside == "ENOSYS":
        pytest.skip("this kernel has no statmount, so the control would prove nothing")


def test_socket_families_are_the_four_that_programs_need(bundle: Bundle) -> None:
    allowed = [f"stream:{AF_UNIX}:0", f"stream:{AF_INET}:0", f"stream:{AF_INET6}:0", f"socket:{AF_NETLINK}:0"]
    other = [f"socket:{family}:0" for family in range(1, 48) if family not in (AF_UNIX, AF_INET, AF_INET6, AF_NETLINK)]
    streams = [f"stream:{AF_VSOCK}:0", f"stream:{AF_VSOCK + (1 << 32)}:0"]
    netlink = [f"socket:{AF_NETLINK}:{protocol}" for protocol in range(1, 23)]
    said = compare(bundle, [*allowed, *other, *streams, *netlink])
    assert {said[action][0] for action in allowed} == {"ok"}
    assert {said[action][0] for action in [*other, *streams]} == {"EAFNOSUPPORT"}
    assert {said[action][0] for action in netlink} == {"EPROTONOSUPPORT"}
    # The control: packets and, where the kernel has it, vsock are open without the profile.
    assert said[f"socket:{AF_PACKET}:0"][1] == "ok"
    assert "ok" in {said[action][1] for action in netlink}


def test_socket_pairs_are_of_the_unix_kind(bundle: Bundle) -> None:
    said = bundle.ask(*(f"pair:{family}" for family in (0, AF_UNIX, AF_INET, 30)), filtered=True)
    assert said == {"pair:0": "EAFNOSUPPORT", "pair:1": "ok", "pair:2": "EAFNOSUPPORT", "pair:30": "EAFNOSUPPORT"}


def test_children_are_made_but_not_in_namespaces(bundle: Bundle) -> None:
    said = compare(bundle, ["clone:0", *(f"clone:{flag:#x}" for flag in NAMESPACE_FLAGS)])
    assert said.pop("clone:0") == ("ok", "ok")
    assert set(said.values()) == {("EPERM", "ok")}


def test_only_harmless_personalities_are_taken(bundle: Bundle) -> None:
    said = compare(
        bundle, ["personality:0xffffffff", "personality:0x40000", "personality:0x400000", "personality:0x100000"]
    )
    assert said["personality:0xffffffff"] == said["personality:0x40000"] == ("ok", "ok")
    assert said["personality:0x400000"] == said["personality:0x100000"] == ("ENOSYS", "ok")


def test_tracing_ones_own_child_works(bundle: Bundle) -> None:
    assert bundle.ask("trace", filtered=True) == {"trace": "ok"}


@pytest.mark.skipif(MACHINE != "x86_64", reason="the 32-bit door of x86")
def test_calls_of_another_architecture_end_the_caller(bundle: Bundle) -> None:
    assert bundle.ask("foreign", filtered=True) == {"foreign": "Bad system call"}


PROGRAMS = {
    "python3": "import socket, subprocess, threading, multiprocessing, asyncio, ssl\n"
    "threading.Thread(target=print).start(); print(subprocess.check_output(['id', '-u']).decode())\n"
    "multiprocessing.Process(target=print).start(); asyncio.run(asyncio.sleep(0)); socket.if_nameindex()",
    "node": "require('fs').writeFileSync('/tmp/a', 'x'); new (require('worker_threads').Worker)('1', {eval: true});"
    "console.log(require('child_process').execSync('id -u').toString(), require('os').networkInterfaces().lo)",
    "npm": "npm --version && mkdir p && cd p && npm init -y >/dev/null && npm install --offline && npm pkg get name",
    "gcc": "printf 'int main(void){return 0;}' > a.c && gcc -o a a.c && ./a",
    "git": "git init -q r && cd r && touch f && git add f && git -c user.name=a -c user.email=b commit -qm m",
    "gdb": "printf 'int main(void){return 0;}' > a.c && gcc -g -o a a.c &&"
    " gdb -batch -nx -ex 'break main' -ex run -ex bt ./a | grep '#0 .*main'",
    "strace": "strace -f -o log sh -c 'cat /etc/hostname >/dev/null' && grep -q '\"/etc/hostname\"' log",
    "java": "java -version",
    "tar": "tar cf - /usr/include/stdio.h 2>/dev/null | tar xf - && ls usr/include",
}
SHELL = {"python3": ["python3", "-c"], "node": ["node", "-e"]}


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_of_real_life_run_as_the_drivers_run_them(bundle: Bundle, program: str) -> None:
    if shutil.which(program, path="/usr/bin") is None:
        pytest.skip(f"no {program} here")
    argv = [*SHELL.get(program, ["sh", "-ec"]), PROGRAMS[program]]
    done = bundle.run(*argv, filtered=True, ordinary=True)
    assert done.returncode == 0, done.stdout + done.stderr


LOOK = """
for path in "$@"; do
    if [ -d $path ]; then echo "$path $(ls $path | wc -l)"
    elif [ -r $path ]; then echo "$path $(head -c 64 $path 2>/dev/null | wc -c)"; fi
done
"""


def test_masked_paths_show_nothing(bundle: Bundle) -> None:
    said = {
        hidden: dict(
            line.split()
            for line in bundle.run("sh", "-c", LOOK, "sh", *MASKED, filtered=False, hidden=hidden).stdout.splitlines()
        )
        for hidden in (False, True)
    }
    assert len(said[True]) > 10
    assert set(said[True].values()) == {"0"}
    shown = {path for path, size in said[False].items() if size != "0"}
    assert {"/proc/interrupts", "/proc/kallsyms", "/proc/cmdline", "/sys/kernel"} <= shown, "the control"


def test_what_steers_the_kernel_cannot_be_opened_for_writing_even_by_root(bundle: Bundle) -> None:
    script = (
        "for path in /proc/sys/kernel/core_pattern /proc/sys/vm/swappiness; do (: 3>>$path) 2>/dev/null; echo $?; done"
    )
    said = {hidden: bundle.run("sh", "-c", script, filtered=False, hidden=hidden).stdout for hidden in (False, True)}
    assert "0" not in said[True].split()
    assert said[False].split() == ["0", "0"], "the control: opened, and nothing written"
