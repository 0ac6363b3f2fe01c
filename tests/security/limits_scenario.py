"""Holds real processes to real limits and prints, as JSON, what came of it. Run as root, with a folder's name.

It needs the standard library and `agentkernel.drivers.limits` alone, so that the same file runs on this host and in a
microVM, whose kernel has the other version of cgroups. Bombs are small, and burst inside their group only.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from agentkernel.drivers.limits import Cgroup, Cgroups, Limits, find
from agentkernel.model.errors import AgentkernelError

MIB = 1 << 20
SMALL = Limits(32 * MIB, 1.0, 20)
ROOMY = Limits(128 * MIB, 2.0, 200)
WITHIN_S = 30.0
ALLOCATE = "x = bytearray(64 << 20)"
SPIN = "while True: pass"
FORK = "import os, time\nwhile True:\n    try: os.fork()\n    except OSError: time.sleep(0.01)"
STUBBORN = (
    "import os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "if os.fork() == 0:\n    os.setsid()\n    os.fork()\nprint('up', flush=True)\ntime.sleep(1000)"
)


def inside(group: Cgroup, program: str) -> subprocess.Popen[bytes]:
    """A Python program that starts once its process is in the group."""
    gate = "import sys; sys.stdin.readline();"
    command = [sys.executable, "-c", f"{gate} exec({program!r})"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    group.attach(process.pid)
    assert process.stdin
    process.stdin.write(b"go\n")
    process.stdin.close()
    return process


def ended(process: subprocess.Popen[bytes]) -> int:
    """Its exit status, negative for a signal."""
    if process.stdout:
        process.stdout.close()
    return process.wait(WITHIN_S)


def until(condition: Callable[[], bool]) -> bool:
    """Whether it comes to hold."""
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def memory(cgroups: Cgroups) -> dict[str, object]:
    """A memory bomb, and the same program where there is room."""
    said: dict[str, object] = {}
    for name, limits in (("small", SMALL), ("roomy", ROOMY)):
        group = cgroups.create(f"memory-{name}", limits)
        said[name] = {"status": ended(inside(group, ALLOCATE))}
        stats = group.stats()
        said[name] |= {"oom_kills": stats.oom_kills, "peak": stats.memory_peak_bytes}  # type: ignore[operator]
        group.destroy()
    return said


def processes(cgroups: Cgroups) -> dict[str, object]:
    """A fork bomb, beside a group in which something else starts meanwhile."""
    group, neighbour = cgroups.create("forks", SMALL), cgroups.create("neighbour", SMALL)
    bomb = inside(group, FORK)
    full = until(lambda: group.stats().processes == SMALL.pids)
    time.sleep(0.2)
    said = {"full": full, "most": group.stats().processes, "neighbour": ended(inside(neighbour, "pass"))}
    group.kill()
    said |= {"status": ended(bomb), "emptied": until(lambda: not group.processes())}
    group.destroy()
    neighbour.destroy()
    return said


def processor(cgroups: Cgroups) -> dict[str, object]:
    """Two that spin in a tenth of a processor, and one that has all it wants."""
    said: dict[str, object] = {}
    for name, cpus in (("tenth", 0.1), ("plenty", 64.0)):
        group = cgroups.create(f"cpu-{name}", Limits(64 * MIB, cpus, 20))
        spinning = inside(group, SPIN)
        busy = until(lambda: (group.stats().cpu_s or 0) > 0.1)  # noqa: B023  called at once
        paths = [folder / "cpu.stat" for folder in group.folders if (folder / "cpu.stat").exists()]
        fields = dict(line.split()[:2] for path in paths for line in path.read_text().splitlines())
        said[name] = {"busy": busy, "throttled": int(fields["nr_throttled"])}
        group.destroy()
        ended(spinning)
    return said


def standing_still(cgroups: Cgroups) -> dict[str, object]:
    """Frozen, thawed, and killed while frozen."""
    group = cgroups.create("frozen", SMALL)
    spinning = inside(group, SPIN)
    moved = until(lambda: (group.stats().cpu_s or 0) > 0.05)
    group.freeze()
    before = group.stats().cpu_s
    time.sleep(0.3)
    after = group.stats().cpu_s
    group.thaw()
    went_on = until(lambda: (group.stats().cpu_s or 0) > (after or 0) + 0.02)
    group.freeze()
    group.kill()
    status = ended(spinning)
    group.destroy()
    return {"moved": moved, "stood": before == after, "went_on": went_on, "status": status}


def changing(cgroups: Cgroups) -> dict[str, object]:
    """Limits up and down, as the kernel's files then say."""
    group = cgroups.create("changed", SMALL)
    said: list[dict[str, str]] = []
    for limits in (ROOMY, SMALL):
        group.set(limits)
        names = ("memory.max", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.swap.max", "pids.max")
        paths = [folder / name for folder in group.folders for name in names]
        said.append({path.name: path.read_text().strip() for path in paths if path.exists()})
    group.destroy()
    return {"roomy": said[0], "small": said[1]}


def ending(cgroups: Cgroups, ours: str) -> dict[str, object]:
    """What destroys, and what the next daemon reaps."""
    group = cgroups.create("ended", SMALL)
    stubborn = inside(group, STUBBORN)
    assert stubborn.stdout
    stubborn.stdout.readline()
    several = until(lambda: len(group.processes()) == 3)
    group.destroy()
    said = {"several": several, "status": ended(stubborn), "gone": not any(map(Path.exists, group.folders))}
    group.destroy()
    left = cgroups.create("left", SMALL)
    orphan = inside(left, SPIN)
    find(ours=ours).reap("left")
    said |= {"reaped": ended(orphan), "left": [str(folder) for folder in left.folders if folder.exists()]}
    find(ours=ours).reap("left")
    return said


def refusals(cgroups: Cgroups) -> dict[str, str]:
    """Names that are no name, a group that is there, a process that is not."""
    said = {}
    attempts: dict[str, Callable[[], object]] = {
        "parent": lambda: cgroups.create("../x", SMALL),
        "empty": lambda: cgroups.reap(""),
        "nobody": lambda: cgroups.create("nobody", SMALL).attach(2**22 - 1),
    }
    for name, attempt in attempts.items():
        try:
            attempt()
        except AgentkernelError as error:
            said[name] = error.code
    cgroups.reap("nobody")
    return said


def main(ours: str) -> None:
    """Everything, in order; the folder itself is removed at the end."""
    cgroups = find(ours=ours)
    said = {
        "mode": type(cgroups).__name__,
        "missing": cgroups.missing,
        "memory": memory(cgroups),
        "processes": processes(cgroups),
        "processor": processor(cgroups),
        "standing_still": standing_still(cgroups),
        "changing": changing(cgroups),
        "ending": ending(cgroups, ours),
        "refusals": refusals(cgroups),
    }
    homes = list(cgroups.homes())
    for home in homes:
        home.rmdir()
    said["homes"] = len(homes)
    print(json.dumps(said))


if __name__ == "__main__":
    main(sys.argv[1])
