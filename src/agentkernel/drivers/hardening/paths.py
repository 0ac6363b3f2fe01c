"""Paths below /proc and /sys that tell about the host, or change it, whoever reads or writes them.

An engine lays an empty file or directory over each masked path that is there, and mounts each read-only one again; both
skip what this kernel does not have. Most of `MASKED` and `READ_ONLY` is in the default lists of Docker and Podman; the
rest was found by probing containers: what it named was the same inside and outside.

Source: OCI runtime specification, config-linux.md, "Masked Paths" and "Readonly Paths"; proc(5); sysfs(5).
"""

from __future__ import annotations

MASKED: tuple[str, ...] = (
    # Memory and symbols of the kernel.
    "/proc/kcore",
    "/proc/kallsyms",
    "/proc/kmsg",
    "/proc/kpagecgroup",
    "/proc/kpagecount",
    "/proc/kpageflags",
    "/proc/modules",
    "/proc/vmallocinfo",
    "/proc/slabinfo",
    "/proc/pagetypeinfo",
    # How the kernel was built and started: its command line may hold a secret, its configuration says what to attack.
    "/proc/config.gz",
    "/proc/cmdline",
    "/proc/bootconfig",
    # What other people's programs do: timing of their keys and packets, their timers, their processes.
    "/proc/interrupts",
    "/proc/softirqs",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/schedstat",
    "/proc/latency_stats",
    "/proc/locks",
    "/proc/diskstats",
    "/proc/pressure",
    # Keyrings are not namespaced by container.
    "/proc/keys",
    "/proc/key-users",
    # Devices, buses and firmware.
    "/proc/acpi",
    "/proc/asound",
    "/proc/iomem",
    "/proc/ioports",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/hypervisor",
    "/sys/devices/virtual/dmi",
    "/sys/class/dmi",
    # Energy counters tell what other programs compute (CVE-2020-8694).
    "/sys/devices/virtual/powercap",
    "/sys/class/powercap",
    "/sys/devices/system/cpu/vulnerabilities",
    # Interfaces of the kernel itself: debugging, tracing, crash dumps, security modules, its own notes and parameters.
    "/sys/kernel",
    "/sys/module",
    "/sys/power",
    "/sys/fs/bpf",
    "/sys/fs/pstore",
    "/sys/fs/selinux",
)
"""Nothing is to be seen there: a directory is empty, a file reads as empty."""

READ_ONLY: tuple[str, ...] = (
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/mtrr",
    "/proc/sys",
    "/proc/sysrq-trigger",
    "/sys",
)
"""May be read, never written, by any uid. Without this a process whose uid is the host's root opens
`/proc/sys/kernel/core_pattern` for writing with no capability at all."""
