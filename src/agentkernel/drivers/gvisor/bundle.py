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
)
"""Chosen, not left to defaults, which change between versions. `directfs`: without it runsc makes the sentry another
user of the host, and the prison has only one."""

CAPABILITIES = tuple(
    f"CAP_{name}"
    for name in (
        *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP"),
        *("SETFCAP", "IPC_LOCK", "IPC_OWNER", "MKNOD", "NET_BIND_SERVICE", "SYS_ADMIN", "SYS_CHROOT", "SYS_NICE"),
        *("SYS_PTRACE", "SYS_RESOURCE", "AUDIT_WRITE", "LEASE"),
    )
)
"""Of the agent, and of who asks to be root, over the sentry's own objects; the host sees none of them."""


def command(program: str) -> tuple[str, ...]:
    """argv that starts the sandbox of the bundle and ends with it."""
    return (program, *SETTINGS, "run", "--bundle", BUNDLE, CONTAINER)


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
    mounts: list[dict[str, object]] = [
        _mount("/proc", "proc"),
        _mount("/sys", "sysfs"),
        _mount("/dev", "devtmpfs"),
        _mount("/dev/pts", "devpts"),
        _mount("/dev/shm", "tmpfs", "mode=1777"),  # noqa: S108
        _mount("/tmp", "tmpfs", "mode=1777"),  # noqa: S108
        _mount("/run", "tmpfs", "mode=0755"),
        {"destination": f"{INSIDE}/agent", "type": "bind", "source": AGENT, "options": ["ro", "nosuid", "nodev"]},
    ]
    if spec.disk_mib:
        # For root alone: the agent binds two folders of it to where commands find them.
        mounts.append(_mount(f"{INSIDE}/disks/{DISK_SERIAL}", "tmpfs", "mode=0700", f"size={spec.disk_mib}m"))
    return mounts


def _mount(at: str, kind: str, *options: str) -> dict[str, object]:
    return {"destination": at, "type": kind, "source": kind, "options": ["nosuid", *options]}
