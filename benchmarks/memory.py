"""Memory of idle clones (PSS: what is shared counts once over all of them), and how many of them fit into 4 GiB."""

from __future__ import annotations

import functools
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
from common import Report, arguments, say
from machines import Birth, Host, host

from agentkernel.drivers.contract import Guest
from agentkernel.engine.command import WARM_UP, run_command
from agentkernel.policy.environment import exec_request

MIB_FOR_DENSITY = 4096
WANTED = {"before its throwaway command": 22, "after it": 32}
PARTS = ("JIT", "guest's memory, its own", "guest's memory, shared", "heap and other", "programs and libraries")
JIT_KIB = 131_072
"""At least as big is only the room for translated code, and the guest's memory, which has a name."""

Made = list[tuple[Guest, Birth]]


async def main(vms: int, *, as_json: bool) -> None:
    """Measure and print."""
    report = Report("memory")
    async with host() as here, AsyncExitStack() as stack:
        say(f"{vms} clones")
        template = await here.template()
        made = [await stack.enter_async_context(here.cloned(template)) for _ in range(vms)]
        await _stage(report, "before its throwaway command", made)
        await _all(made, lambda guest: run_command(guest, WARM_UP))
        await _stage(report, "after it", made)
        await _all(made, functools.partial(_recipe, here))
        await _stage(report, "after the runtime's own warm-up", made)
    report.finish(as_json=as_json)


async def _recipe(here: Host, guest: Guest) -> None:
    for command in here.warm_up[:1]:
        await run_command(guest, exec_request(command))


async def _all(made: Made, action: Callable[[Guest], Awaitable[object]]) -> None:
    for guest, _ in made:
        await action(guest)


async def _stage(report: Report, when: str, made: Made) -> None:
    """One row for the whole, one for each part, and how many would fit."""
    maps = [_maps(birth) for _, birth in made]
    pss = [sum(kib for _, kib, _ in areas) / 1024 for areas in maps]
    report.add(f"PSS of an idle clone, {when}", pss, "MiB")
    for part in PARTS:
        report.add(f"  {part}", [sum(kib for name, kib, _ in areas if name == part) / 1024 for areas in maps], "MiB")
    own = [sum(dirty for _, _, dirty in areas) / 1024 for areas in maps]
    shared = sum(pss) - sum(own)
    fit = int((MIB_FOR_DENSITY - shared) / (sum(own) / len(own)))
    wanted = f"; wanted {WANTED[when]} MB" if when in WANTED else ""
    report.note(
        f"{when}: {sum(pss) / len(pss) * 1.048576:.1f} MB each{wanted}; {sum(own) / len(own):.1f} MiB its own and "
        f"{shared:.0f} MiB shared by all, so {fit} in 4 GiB, extrapolated from {len(made)}"
    )


def _maps(birth: Birth) -> list[tuple[str, int, int]]:
    """Of each area: which part it belongs to, its share in KiB, and what is its own alone."""
    areas: list[tuple[str, int, int]] = []
    name, size, pss = "", 0, 0
    for line in Path(f"/proc/{birth.facts['pid']}/smaps").read_text().splitlines():
        key, *rest = line.split()
        match key:
            case "Size:":
                size = int(rest[0])
            case "Pss:":
                pss = int(rest[0])
            case "Anonymous:":
                own = int(rest[0])
                if name.endswith("/memory"):
                    areas += [(PARTS[1], own, own), (PARTS[2], pss - own, 0)]
                elif name.startswith("/"):
                    areas.append((PARTS[4], pss, own))
                else:
                    areas.append((PARTS[0] if size >= JIT_KIB - 64 else PARTS[3], pss, own))
            case _ if not key.endswith(":"):
                name = rest[4] if len(rest) > 4 else ""
    return areas


if __name__ == "__main__":
    options = arguments(__doc__, rounds=1, vms=20)
    sys.exit(anyio.run(functools.partial(main, options.vms, as_json=options.json)))
