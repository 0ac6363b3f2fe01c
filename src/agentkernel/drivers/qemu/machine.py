"""QEMU's command line for one microVM. Pure: descriptors in, arguments out.

A template and its clones must have the same machine and the same devices in the same order, so there is one place that
names them. Figures and reasons: docs/adr/0003-qemu-machine.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from agentkernel.model.ids import SandboxId
from agentkernel.model.spec import BootSpec

LINK_PORT = "org.agentkernel"
SCRATCH_SERIAL = "scratch"


class Accelerator(StrEnum):
    """What executes the guest's instructions."""

    KVM = "kvm"
    TCG = "tcg"


@dataclass(frozen=True, slots=True)
class Descriptors:
    """Numbers of the descriptors that QEMU inherits; it opens nothing by name.

    Attributes:
        link, qmp: listening Unix sockets.
        kernel, initramfs, root: read-only files; `root` None boots from the initramfs alone.
        scratch: the private disk, read and write; None for none.
    """

    link: int
    qmp: int
    kernel: int
    initramfs: int
    root: int | None
    scratch: int | None

    def all(self) -> tuple[int, ...]:
        """Those that are there."""
        present = (self.link, self.qmp, self.kernel, self.initramfs, self.root, self.scratch)
        return tuple(number for number in present if number is not None)


CPU = {Accelerator.KVM: "host", Accelerator.TCG: "max,la57=off"}
ACCELERATION = {Accelerator.KVM: "kvm", Accelerator.TCG: "tcg,thread=multi,tb-size=128"}
TRIMMED = "smm=off,vmport=off,sata=off,smbus=off,usb=off,graphics=off,hpet=off,i8042=off"
SECCOMP = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
KERNEL_ARGUMENTS = "console=ttyS0 quiet loglevel=3 panic=-1 reboot=t random.trust_cpu=on mitigations=off tsc=reliable"
"""`panic=-1 reboot=t` with `-no-reboot`: a guest that panics ends its QEMU. Mitigations inside guard the guest's user
from its own root, who is the same caller; the host's stay."""


def arguments(sandbox: SandboxId, spec: BootSpec, accelerator: Accelerator, fds: Descriptors) -> list[str]:
    """Everything after the program's name."""
    return [
        *("-name", f"agentkernel-{sandbox}"),
        *("-nodefaults", "-no-user-config", "-nographic", "-no-reboot"),
        *("-sandbox", SECCOMP),
        *("-machine", f"q35,{TRIMMED},memory-backend=ram"),
        *("-accel", ACCELERATION[accelerator]),
        *("-cpu", CPU[accelerator]),
        *("-smp", str(spec.vcpus)),
        *("-m", str(spec.memory_mib)),
        *("-object", f"memory-backend-ram,id=ram,size={spec.memory_mib}M"),
        *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
        *("-device", "virtio-rng-pci"),
        *_link(fds),
        *_disk("root", fds.root, serial="root", readonly=True),
        *_disk(SCRATCH_SERIAL, fds.scratch, serial=SCRATCH_SERIAL, readonly=False),
        *("-kernel", f"/proc/self/fd/{fds.kernel}", "-initrd", f"/proc/self/fd/{fds.initramfs}"),
        *("-append", f"{KERNEL_ARGUMENTS} agentkernel.root={'/dev/vda' if fds.root is not None else 'none'}"),
    ]


def _link(fds: Descriptors) -> tuple[str, ...]:
    return (
        *("-chardev", f"socket,id=link,fd={fds.link},server=on,wait=off"),
        *("-device", "virtio-serial-pci,max_ports=2"),
        *("-device", f"virtserialport,chardev=link,name={LINK_PORT}"),
        *("-chardev", f"socket,id=qmp,fd={fds.qmp},server=on,wait=off"),
        *("-mon", "chardev=qmp,mode=control"),
    )


def _disk(name: str, descriptor: int | None, *, serial: str, readonly: bool) -> tuple[str, ...]:
    if descriptor is None:
        return ()
    settings = f"if=none,id={name},format=raw,cache=unsafe,aio=threads,file.locking=off"
    return (
        *("-add-fd", f"fd={descriptor},set={descriptor}"),
        *("-drive", f"file=/dev/fdset/{descriptor},{settings},readonly={'on' if readonly else 'off'}"),
        *("-device", f"virtio-blk-pci,drive={name},serial={serial}"),
    )
