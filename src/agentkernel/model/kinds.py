"""Closed sets: backends, virtual machine monitors, isolation tiers, compatibility modes."""

from __future__ import annotations

from enum import StrEnum


class Backend(StrEnum):
    """What a caller asks for. The value is this project's own word; the wire's word for MICROVM is `protocol`'s
    business.
    """

    MICROVM = "microvm"
    DOCKER = "docker"
    PODMAN = "podman"
    GVISOR = "gvisor"
    WASM = "wasm"
    HYPERLIGHT = "hyperlight"
    APPLE = "apple"


class Vmm(StrEnum):
    """Which program makes a microVM."""

    QEMU = "qemu"
    FIRECRACKER = "firecracker"


class Isolation(StrEnum):
    """What stands between a sandbox and the host. Ordered strongest first; compare with `at_least`."""

    VM = "vm"
    KERNEL_PROXY = "kernel-proxy"
    VM_EMULATED = "vm-emulated"
    WASM = "wasm"
    CONTAINER = "container"

    def at_least(self, minimum: Isolation) -> bool:
        """Whether this tier is as strong as `minimum` or stronger."""
        order = list(Isolation)
        return order.index(self) <= order.index(minimum)


class Mode(StrEnum):
    """A compatibility mode: picks presets, nothing else."""

    NATIVE = "native"
    CLAUDE = "claude"
    CODEX = "codex"
    GEMINI = "gemini"


class Feature(StrEnum):
    """What a sandbox of a driver can do beyond running a program; declared, never tried out.

    USER_ROOT: commands run as root, or as any other user, where they ask for it; else all are uid 1000. IMAGES: it runs
    images that are not recipes of ours. OOM_INSIDE: a program that takes all memory is killed, and the sandbox goes on;
    else the sandbox ends with it. PIDS_INSIDE: at its limit of processes a fork fails, and the sandbox goes on; else it
    may end with whoever goes on forking.
    """

    FILES = "files"
    STDIN = "stdin"
    USER_ROOT = "user-root"
    PTY = "pty"
    FORK = "fork"
    SNAPSHOT = "snapshot"
    PAUSE = "pause"
    NETWORK = "network"
    TEMPLATE = "template"
    VSOCK_DEVICE = "vsock-device"
    DISK_LIMIT = "disk-limit"
    IMAGES = "images"
    OOM_INSIDE = "oom-inside"
    PIDS_INSIDE = "pids-inside"
