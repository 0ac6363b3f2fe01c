"""What runsc is told of one sandbox: an OCI bundle's config.json, and the command line.

Pure. Every path is one inside runsc's own prison, so that none of the host's appears here. Sources: the OCI runtime
specification 1.0.2 for the shape, gVisor's `runsc/boot` and `runsc/specutils` for the annotations.
"""

from __future__ import annotations

import json

from agentkernel.model.spec import BootSpec

IMAGE = "/image"
AGENT = "/agent"
BUNDLE = "/bundle"
MEMINFO = f"{BUNDLE}/meminfo"
SAVED = "/saved"
ROOT_FOLDER = "rootfs"
STATE = "/tmp/state"  # noqa: S108 (the prison's own /tmp)
CONTAINER = "sandbox"
DISK_SERIAL = "scratch"
INSIDE = "/.agentkernel"
"""Where a sandbox finds the agent and its disks; guest/src/disks.c looks there."""

SETTINGS = (
    *("--root", STATE),
    "--platform=systrap",
    "--network=none",
    "--host-uds=none",
    "--host-fifo=none",
    "--net-raw=false",
    "--overlay2=root:memory",
    "--directfs=true",
    "--rootless=false",
    # Ours holds from outside; in the prison there is no cgroup file system to write to.
    "--ignore-cgroups",
    # The agent mounts the two that it needs.
    "--cgroupfs=false",
    # The bundle has no filter: what a program calls ends in the sentry, and its own filter is what the host sees. The
    # agent gives commands one line of protection (guest/src/shield.c) by themselves.
    "--oci-seccomp=false",
    # The image is nobody's to change; the agent's file, the only one of the host's, is looked at anew.
    "--file-access=exclusive",
    "--file-access-mounts=shared",
    # No device of the host, no call into it that the sentry does not need, and nothing that loosens its filter.
    "--nvproxy=false",
    "--tpuproxy=false",
    "--iouring=false",
    "--profile=false",
    "--strace=false",
    "--debug=false",
    # Annotations of the bundle set the root, never one of these.
    "--allow-flag-override=false",
)
"""Chosen, not left to defaults, which change between versions. `directfs`: without it runsc makes the sentry another
user of the host, and the prison has only one. `--fsgofer-host-uds` is an old name of `--host-uds`.
`--watchdog-action=log` is the default and cannot be said: the sentry of 2024-07 ends at once when it is."""

CAPABILITIES = tuple(
    f"CAP_{name}"
    for name in (
        *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP"),
        *("SETFCAP", "IPC_LOCK", "IPC_OWNER", "MKNOD", "NET_BIND_SERVICE", "SYS_ADMIN", "SYS_CHROOT", "SYS_NICE"),
        *("SYS_PTRACE", "SYS_RESOURCE", "AUDIT_WRITE", "LEASE"),
    )
)
"""Of the agent, and of who asks to be root, over the sentry's own objects; the host sees none of them."""


def command(program: str, *, restores: bool = False) -> tuple[str, ...]:
    """argv that starts the sandbox of the bundle, or goes on with the saved one, and ends with it."""
    start = ("restore", "--image-path", SAVED) if restores else ("run",)
    return (program, *SETTINGS, *start, "--bundle", BUNDLE, CONTAINER)


def config(spec: BootSpec, *, holds_image: bool) -> bytes:
    """Content of config.json. Without an image the root is empty but for the agent."""
    held = list(CAPABILITIES)
    document = {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": [f"{INSIDE}/agent", "--run-directory", "/run/agentkernel", "--stdio"],
            "env": [],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), held),
            "noNewPrivileges": True,
        },
        "root": {"path": f"{BUNDLE}/{ROOT_FOLDER}", "readonly": False},
        "hostname": CONTAINER,
        "mounts": _mounts(spec),
        "annotations": _root(holds_image),
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "network")]},
    }
    return json.dumps(document, indent=1).encode()


def meminfo(spec: BootSpec) -> bytes:
    """What runsc reads as the host's memory, and then tells the sandbox as its own. It takes the total alone."""
    total_kib = spec.memory_mib * 1024
    return f"MemTotal: {total_kib} kB\nMemFree: {total_kib} kB\nMemAvailable: {total_kib} kB\n".encode()


def _root(holds_image: bool) -> dict[str, str]:
    """The image, which the sentry reads by itself, below a layer in memory."""
    kind = "dev.gvisor.spec.rootfs"
    return {f"{kind}.source": IMAGE, f"{kind}.type": "erofs", f"{kind}.overlay": "memory"} if holds_image else {}


def _mounts(spec: BootSpec) -> list[dict[str, object]]:
    half = f"size={spec.memory_mib // 2}m"  # as Linux has it: one that is full is a full disk, not the end of all
    mounts: list[dict[str, object]] = [
        _mount("/proc", "proc"),
        _mount("/sys", "sysfs"),
        _mount("/dev", "devtmpfs"),
        _mount("/dev/pts", "devpts"),
        _mount("/dev/shm", "tmpfs", "mode=1777", half),  # noqa: S108
        _mount("/tmp", "tmpfs", "mode=1777", half),  # noqa: S108
        _mount("/run", "tmpfs", "mode=0755", half),
        {"destination": f"{INSIDE}/agent", "type": "bind", "source": AGENT, "options": ["ro", "nosuid", "nodev"]},
    ]
    if spec.disk_mib:
        # For root alone: the agent binds two folders of it to where commands find them.
        mounts.append(_mount(f"{INSIDE}/disks/{DISK_SERIAL}", "tmpfs", "mode=0700", f"size={spec.disk_mib}m"))
    return mounts


def _mount(at: str, kind: str, *options: str) -> dict[str, object]:
    return {"destination": at, "type": kind, "source": kind, "options": ["nosuid", *options]}
