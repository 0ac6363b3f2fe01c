"""What Firecracker is told, in which order. Pure: a specification in, requests out.

All paths are those inside the jail, so that they are the same for a template and each of its clones, and the state that
a template saves needs no change to be loaded beside another disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agentkernel.model.errors import Unsupported
from agentkernel.model.spec import BootSpec

KERNEL, INITRAMFS, ROOT, SCRATCH = "kernel", "initramfs", "root.erofs", "scratch.ext4"
STATE, MEMORY = "state", "memory"
LINK = "link"
"""The vsock device's Unix socket. Relative: to the jail's root, which is where the jailer leaves Firecracker."""
API = "api"
GUEST_CID = 3
"""The same in all of them: each monitor has a vsock world of its own behind its own socket."""
AGENT_PORT = 52_000
"""Source: guest/src/transport.c."""
MOST_VCPUS = 32

KERNEL_ARGUMENTS = (
    "8250.nr_uarts=0 quiet loglevel=0 panic=-1 reboot=k random.trust_cpu=on mitigations=off tsc=reliable"
    " lsm=landlock,yama psi=0 i8042.noaux i8042.nomux i8042.dumbkbd"
)
"""No serial console: a guest that may write to one keeps the monitor's thread busy with it. `reboot=k` is the one way
out of a machine that Firecracker understands, and `panic=-1` takes it at once. The rest is as for QEMU.
"""

DISK_BYTES_PER_S = 1 << 30
DISK_OPS_PER_S = 50_000
ENTROPY_BYTES_PER_S = 1 << 20
"""Limits that no honest program meets, so that one sandbox cannot keep the host's disk or its generator to itself."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request of the API. `body` is None for a GET."""

    method: str
    path: str
    body: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """As an error names it."""
        return f"{self.method} {self.path}"


DESCRIBE = Request("GET", "/")
PAUSE = Request("PATCH", "/vm", {"state": "Paused"})
RESUME = Request("PATCH", "/vm", {"state": "Resumed"})
CREATE_SNAPSHOT = Request(
    "PUT", "/snapshot/create", {"snapshot_type": "Full", "snapshot_path": STATE, "mem_file_path": MEMORY}
)
LOAD_SNAPSHOT = Request(
    "PUT",
    "/snapshot/load",
    {
        "snapshot_path": STATE,
        "mem_backend": {"backend_type": "File", "backend_path": MEMORY},
        "resume_vm": True,
    },
)
"""`File` maps the memory privately: what a clone writes stays its own, what none writes is there once."""


def boot(spec: BootSpec, *, root: bool) -> list[Request]:
    """A new machine up to its start.

    Args:
        root: whether it has a root image; without one it stays in its initramfs.

    Raises:
        Unsupported: it is larger than Firecracker makes them.
    """
    return [*hardware(spec, root=root), Request("PUT", "/actions", {"action_type": "InstanceStart"})]


def hardware(spec: BootSpec, *, root: bool) -> list[Request]:
    """All that makes the machine; the same for a template and its clones, and so part of a template's key."""
    if spec.vcpus > MOST_VCPUS:
        raise Unsupported(
            f"Firecracker gives a machine at most {MOST_VCPUS} processors, not {spec.vcpus}",
            hint="lower [resources] vcpus, or set [microvm] vmm to qemu",
        )
    size = {"vcpu_count": spec.vcpus, "mem_size_mib": spec.memory_mib, "smt": False, "track_dirty_pages": False}
    arguments = f"{KERNEL_ARGUMENTS} agentkernel.root={'/dev/vda' if root else 'none'}"
    start = {"kernel_image_path": KERNEL, "initrd_path": INITRAMFS, "boot_args": arguments}
    return [
        Request("PUT", "/machine-config", size),
        Request("PUT", "/boot-source", start),
        *([_drive("root", ROOT, read_only=True)] if root else []),
        *([_drive("scratch", SCRATCH, read_only=False)] if spec.disk_mib else []),
        Request("PUT", "/vsock", {"guest_cid": GUEST_CID, "uds_path": LINK}),
        Request("PUT", "/entropy", {"rate_limiter": {"bandwidth": _bucket(ENTROPY_BYTES_PER_S)}}),
    ]


def _drive(name: str, path: str, *, read_only: bool) -> Request:
    """`is_root_device` stays false: the agent in the initramfs mounts the root, and the kernel is told nothing."""
    body = {
        "drive_id": name,
        "path_on_host": path,
        "is_root_device": False,
        "is_read_only": read_only,
        # What a guest flushes is written out. It is saved with a template, and a clone's disk may be a lasting one.
        "cache_type": "Unsafe" if read_only else "Writeback",
        "io_engine": "Sync",
        "rate_limiter": {"bandwidth": _bucket(DISK_BYTES_PER_S), "ops": _bucket(DISK_OPS_PER_S)},
    }
    return Request("PUT", f"/drives/{name}", body)


def _bucket(per_second: int) -> dict[str, int]:
    return {"size": per_second, "refill_time": 1000}


def disk_serial(device: int, rdev: int, inode: int) -> str:
    """What the guest finds as serial number of a drive: Firecracker makes it of the file's stat, 20 bytes of it.

    Source: Firecracker, src/vmm/src/devices/virtio/block/virtio/device.rs, `build_device_id`.
    """
    return f"{device}{rdev}{inode}"[:20]
