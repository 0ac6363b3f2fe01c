"""Fork to warm: a confined clone of a template, its identity, one throwaway command; by stage, one and two at once."""

from __future__ import annotations

import functools
import os
import resource
import sys
import time
from pathlib import Path

import anyio
from common import Report, arguments, say
from machines import Host, host

from agentkernel.engine.command import WARM_UP, run_command

WANTED_PER_S = 6
AT_ONCE = (1, 2)
FORK_TO_WARM = "fork to warm"


async def main(rounds: int, *, as_json: bool) -> None:
    """Measure and print."""
    report = Report("clone")
    async with host() as here:
        say("the template")
        template = await here.template()
        await _warm(here, template)
        for at_once in AT_ONCE:
            say(f"{at_once} at once")
            await _measure(report, here, template, rounds, at_once)
    report.finish(as_json=as_json)


async def _measure(report: Report, here: Host, template: Path, rounds: int, at_once: int) -> None:
    where = f"{at_once} at once"
    here.stages.samples.clear()
    rate, cpu_ms = await _rate(here, template, rounds, at_once)
    report.add(f"fork to warm, {where}", here.stages.samples.pop(FORK_TO_WARM))
    for name, samples in here.stages.samples.items():
        report.add(f"  {name}", samples)
    report.add(f"processor time of one life, {where}", [cpu_ms])
    report.add(f"made and ended per second, {where}", [rate], "1/s")
    cores = os.cpu_count() or 1
    report.note(
        f"{where}: {rate:.1f} per second (wanted: {WANTED_PER_S} on two cores, emulated); the processor time allows "
        f"{cores * 1000 / cpu_ms:.1f} on {cores} cores that nobody else uses"
    )


async def _warm(here: Host, template: Path) -> None:
    """One clone, from birth to end."""
    began = time.perf_counter()
    async with here.cloned(template) as (guest, _):
        with here.stages.measure("throwaway command"):
            await run_command(guest, WARM_UP)
        here.stages.samples[FORK_TO_WARM].append((time.perf_counter() - began) * 1000)
        began = time.perf_counter()
    here.stages.samples["ended, afterwards"].append((time.perf_counter() - began) * 1000)


async def _rate(here: Host, template: Path, rounds: int, at_once: int) -> tuple[float, float]:
    """Clones per second, and the processor milliseconds of each: ours, the supervisor's and QEMU's."""
    left = iter(range(rounds))

    async def worker() -> None:
        for _ in left:
            await _warm(here, template)

    began, used = time.perf_counter(), _used_ms()
    async with anyio.create_task_group() as group:
        for _ in range(at_once):
            group.start_soon(worker)
    return rounds / (time.perf_counter() - began), (_used_ms() - used) / rounds


def _used_ms() -> float:
    """Of this process and all that has ended below it."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum((usage.ru_utime + usage.ru_stime) * 1000 for usage in map(resource.getrusage, kinds))


if __name__ == "__main__":
    options = arguments(__doc__, rounds=24)
    sys.exit(anyio.run(functools.partial(main, options.rounds, as_json=options.json)))
