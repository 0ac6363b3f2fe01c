"""What the host's processor promises, by looking alone. A promise is no proof: `trials` has that."""

from __future__ import annotations

import os
from pathlib import Path

KVM = Path("/dev/kvm")
CPUINFO = Path("/proc/cpuinfo")


def hardware_hint(cpuinfo: Path = CPUINFO, device: Path = KVM) -> str:
    """Why KVM cannot work, without trying; empty when it may."""
    flags = next((line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), "")
    if not {"vmx", "svm"} & set(flags.split()):
        return "the processor shows no hardware virtualisation (no vmx or svm flag)"
    if not device.exists():
        return f"there is no {device} (is the kvm module loaded?)"
    if not os.access(device, os.R_OK | os.W_OK):
        return f"{device} may not be opened (join the kvm group)"
    return ""


def processor(cpuinfo: Path = CPUINFO) -> list[str]:
    """The model and the features of the host's processor, as the kernel tells them."""
    return [line for line in cpuinfo.read_text().splitlines() if line.startswith(("model name", "flags"))][:2]
