"""A microVM without the daemon: boot to greeting, first and later commands, its end, and memory when idle (PSS)."""

from __future__ import annotations

import functools
import sys
import time
from contextlib import AsyncExitStack

import anyio
from common import Report, arguments, say
from machines import Host, host

from agentkernel.engine.command import WARM_UP, run_command


async def main(rounds: int, vms: int, *, as_json: bool) -> None:
    """Measure and print."""
    report = Report("boot")
    async with host() as here:
        await _lives(report, here, rounds)
        await _memory(report, here, vms)
    report.finish(as_json=as_json)


async def _lives(report: Report, here: Host, rounds: int) -> None:
    boots: list[float] = []
    ends: list[float] = []
    commands: dict[str, list[float]] = {"first": [], "second": [], "third": [], "tenth": []}
    pings: list[float] = []
    for number in range(rounds):
        say(f"boot {number + 1} of {rounds}")
        began = time.perf_counter()
        async with here.booted() as (guest, _):
            boots.append((time.perf_counter() - began) * 1000)
            for at in range(10):
                started = time.perf_counter()
                await run_command(guest, WARM_UP)
                name = {0: "first", 1: "second", 2: "third", 9: "tenth"}.get(at)
                if name:
                    commands[name].append((time.perf_counter() - started) * 1000)
            for _ in range(20):
                started = time.perf_counter()
                await guest.ping()
                pings.append((time.perf_counter() - started) * 1000)
            ending = time.perf_counter()
        ends.append((time.perf_counter() - ending) * 1000)
    report.add("boot to greeting and mounted disk", boots)
    for name, samples in commands.items():
        what = " (the throwaway, /bin/true)" if name == "first" else ""
        report.add(f"{name} command{what}", samples)
    report.add("ping", pings)
    report.add("destroy", ends)


async def _memory(report: Report, here: Host, vms: int) -> None:
    """Proportional set size of idle microVMs, all at once: what is shared counts once over all of them."""
    say(f"memory of {vms} microVMs")
    async with AsyncExitStack() as stack:
        made = [await stack.enter_async_context(here.booted()) for _ in range(vms)]
        report.add("PSS, idle, before its throwaway command", [birth.pss_mib()["Pss"] for _, birth in made], "MiB")
        for guest, _ in made:
            await run_command(guest, WARM_UP)
        report.add("PSS, idle, after it", [birth.pss_mib()["Pss"] for _, birth in made], "MiB")


if __name__ == "__main__":
    options = arguments(__doc__, rounds=5, vms=4)
    sys.exit(anyio.run(functools.partial(main, options.rounds, options.vms, as_json=options.json)))
