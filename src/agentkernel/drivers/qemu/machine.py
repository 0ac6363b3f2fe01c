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


class Memory(StrEnum):
    """Where a machine's memory lives. Part of the device layout only by its size, so that all three restore alike."""

    PRIVATE = "private"
    """Nobody else's, gone with the machine."""
    RECORDED = "recorded"
    """In a file that the machine writes: a template in the making."""
    CLONED = "cloned"
    """A template's file, mapped privately: what the machine writes stays its own."""


@dataclass(frozen=True, slots=True)
class Descriptors:
    """Numbers of the descriptors that QEMU inherits; it opens nothing by name.

    Attributes:
        link, qmp: listening Unix sockets.
        kernel, initramfs: read-only files; None for a machine that is restored.
        root: a read-only file; None boots from the initramfs alone.
        scratch: the private disk, once for reading and once for writing (QEMU opens it read-only until the guest's
            driver asks for more); None for none.
        scratch_lasts: what the guest flushes is written out, because the disk outlives its machine.
        memory: the file of RECORDED and CLONED memory.
        state: a template's device state, to be loaded.
    """

    link: int
    qmp: int
    kernel: int | None = None
    initramfs: int | None = None
    root: int | None = None
    scratch: tuple[int, int] | None = None
    scratch_lasts: bool = False
    memory: int | None = None
    state: int | None = None

    def all(self) -> tuple[int, ...]:
        """Those that are there."""
        single = (self.link, self.qmp, self.kernel, self.initramfs, self.root, self.memory, self.state)
        return (*(number for number in single if number is not None), *(self.scratch or ()))


@dataclass(frozen=True, slots=True)
class Machine:
    """What decides the hardware that a guest sees, and so whether a saved state fits.

    Attributes:
        maps_read_only: QEMU can map a template's file without write permission (8.2 and later).
    """

    spec: BootSpec
    accelerator: Accelerator
    memory: Memory = Memory.PRIVATE
    maps_read_only: bool = True


CPU = {Accelerator.KVM: "host", Accelerator.TCG: "max,la57=off,erms=off,fsrm=off"}
"""Emulated, `rep movsb` and `rep stosb` take a turn for each byte. A guest that is told they are not fast copies and
clears by words: 43 % less processor time for output, 6 % less for a boot."""
ACCELERATION = {Accelerator.KVM: "kvm", Accelerator.TCG: "tcg,thread=multi,tb-size=128"}
TRIMMED = "smm=off,vmport=off,sata=off,smbus=off,usb=off,graphics=off,hpet=off,i8042=off"
SECCOMP = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
KERNEL_ARGUMENTS = (
    "console=ttyS0 quiet loglevel=3 panic=-1 reboot=t random.trust_cpu=on mitigations=off tsc=reliable"
    " lsm=landlock,yama psi=0"
)
"""Each clone translates every path that its kernel takes: those of security modules without a policy and of pressure
figures that nobody reads are 4 % of them. Programs may use Landlock.

`panic=-1 reboot=t` with `-no-reboot`: a guest that panics ends its QEMU. Mitigations inside guard the guest's user
from its own root, who is the same caller; the host's stay."""


def arguments(sandbox: SandboxId, machine: Machine, fds: Descriptors) -> list[str]:
    """Everything after the program's name."""
    return [
        *("-name", f"agentkernel-{sandbox}"),
        *("-nodefaults", "-no-user-config", "-nographic", "-no-reboot"),
        *("-sandbox", SECCOMP),
        *hardware(machine),
        *("-object", _memory(machine, fds)),
        *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
        *("-device", "virtio-rng-pci"),
        *_link(fds),
        *_disk("root", () if fds.root is None else (fds.root,), readonly=True),
        *_disk(SCRATCH_SERIAL, fds.scratch or (), readonly=False, lasts=fds.scratch_lasts),
        *_start(fds),
    ]


def hardware(machine: Machine) -> tuple[str, ...]:
    """The processor and the board; the same for a template and its clones."""
    return (
        *("-machine", f"q35,{TRIMMED},memory-backend=ram"),
        *("-accel", ACCELERATION[machine.accelerator]),
        *("-cpu", CPU[machine.accelerator]),
        *("-smp", str(machine.spec.vcpus)),
        *("-m", str(machine.spec.memory_mib)),
    )


def _memory(machine: Machine, fds: Descriptors) -> str:
    size = f"id=ram,size={machine.spec.memory_mib}M"
    file = f"memory-backend-file,{size},mem-path=/proc/self/fd/{fds.memory}"
    match machine.memory:
        case Memory.PRIVATE:
            return f"memory-backend-ram,{size}"
        case Memory.RECORDED:
            return f"{file},share=on"
        case Memory.CLONED:
            return f"{file},share=off" + (",readonly=on,rom=off" if machine.maps_read_only else "")


def _start(fds: Descriptors) -> tuple[str, ...]:
    if fds.state is not None:
        return ("-incoming", "defer")
    root = "/dev/vda" if fds.root is not None else "none"
    return (
        *("-kernel", f"/proc/self/fd/{fds.kernel}", "-initrd", f"/proc/self/fd/{fds.initramfs}"),
        *("-append", f"{KERNEL_ARGUMENTS} agentkernel.root={root}"),
    )


def _link(fds: Descriptors) -> tuple[str, ...]:
    return (
        *("-chardev", f"socket,id=link,fd={fds.link},server=on,wait=off"),
        *("-device", "virtio-serial-pci,max_ports=2"),
        *("-device", f"virtserialport,chardev=link,name={LINK_PORT}"),
        *("-chardev", f"socket,id=qmp,fd={fds.qmp},server=on,wait=off"),
        *("-mon", "chardev=qmp,mode=control"),
    )


def _disk(name: str, descriptors: tuple[int, ...], *, readonly: bool, lasts: bool = False) -> tuple[str, ...]:
    """A virtio disk whose serial number is its name; nothing without descriptors."""
    if not descriptors:
        return ()
    group = descriptors[0]
    cache = "writeback" if lasts else "unsafe"
    settings = f"if=none,id={name},format=raw,cache={cache},aio=threads,file.locking=off"
    return (
        *(word for number in descriptors for word in ("-add-fd", f"fd={number},set={group}")),
        *("-drive", f"file=/dev/fdset/{group},{settings},readonly={'on' if readonly else 'off'}"),
        # Without `report` QEMU stops the whole machine when the host's disk is full; so a program is told, and goes on.
        *("-device", f"virtio-blk-pci,drive={name},serial={name},werror=report,rerror=report"),
    )
