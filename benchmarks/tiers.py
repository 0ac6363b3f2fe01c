"""The same work on every tier that works here: a static program, a start, a loop in Python, `npm install`, memory.

Beside each tier stands the engine's own exec in a container of the same image. Everything of one row's kind is
sampled in turns, so that the machine's moods fall on all tiers alike.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from common import Daemon, Report, arguments, daemon, say, timed_ms
from engines import COMMAND, Action, Engines, engine_exec, engines, runsc_exec
from npm_project import INSTALL, project

from agentkernel.client import Connection, DaemonError
from agentkernel.images.store import Store
from agentkernel.model.kinds import Backend

PEER_EVERY = 5
"""The engines' own exec takes ten times as long: one sample to so many of ours."""
IDLE = 4
WARM_DEADLINE_S = 60.0
POLL_S = 0.01
REST_S = 1.2
"""So that the successor, which begins at once, has come up: a boot in gVisor takes a third of a second."""
LOOP = """
import time
began, x = time.perf_counter(), 0
for n in range(1_500_000):
    x = (x * 31 + n) % 1_000_003
print((time.perf_counter() - began) * 1000)
"""


@dataclass(frozen=True)
class Tier:
    """One backend, as the table and as a request calls it."""

    name: str
    backend: str


TIERS = (
    Tier("microvm", "firecracker"),
    Tier("docker", "docker"),
    Tier("podman", "podman"),
    Tier("gvisor", "gvisor"),
)


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__, rounds=200, fresh=15, starts=5, loops=2, installs=1)
    report = Report("tiers")
    with engines() as found:
        report.notes += found.why_not
        with daemon(min_warm=0, config=f"max_warm = 0\n{found.config()}") as running, running.connect() as connection:
            usable = [tier for tier in TIERS if _works(report, connection, tier)]
            _starts(report, connection, usable, options.starts)
            _leased(report, connection, found, usable, options.rounds)
            _memory(report, running, connection, found, usable)
            _loops(report, connection, usable, options.loops)
            _npm(report, connection, usable, options.installs)
        with daemon(min_warm=1, config=found.config()) as running, running.connect() as connection:
            _fresh(report, connection, usable, options.fresh)
            _rested(report, connection, usable, options.fresh)
    report.finish(as_json=options.json)


def _works(report: Report, connection: Connection, tier: Tier) -> bool:
    """Whether it does; images and templates are made by the way."""
    say(f"{tier.name}: first use")
    try:
        for runtime in ("base", "python", "node"):
            connection.ask("release", id=_lease(connection, tier, runtime))
    except DaemonError as error:
        report.note(f"{tier.name}: skipped, {error}")
        return False
    return True


def _lease(connection: Connection, tier: Tier, runtime: str) -> str:
    return str(connection.ask("acquire", runtime=runtime, backend=tier.backend)["id"])


def _run(connection: Connection, lease: str, tier: Tier, command: list[str], **more: Any) -> dict[str, Any]:
    runtime = {} if "image" in more else {"runtime": more.pop("runtime", "base")}
    reply = connection.ask("exec", command=command, sandbox=lease, backend=tier.backend, **runtime, **more)
    if reply["exit_code"]:
        raise RuntimeError(f"{tier.name}: {command[:2]} ended with {reply['exit_code']}: {reply['stderr'][-500:]}")
    return reply


def _in_turns(actions: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    samples: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            samples[name].append(action())
    return samples


# --- starts and short commands ----------------------------------------------------------------------------------------


def _starts(report: Report, connection: Connection, usable: Iterable[Tier], rounds: int) -> None:
    """From asking to a sandbox that has run its throwaway command, while nothing is warm. A microVM is a clone."""
    say("starts")

    def start(tier: Tier) -> float:
        leases: list[str] = []
        took = timed_ms(lambda: leases.append(_lease(connection, tier, "base")))
        connection.ask("release", id=leases[0])
        _rest(connection)
        return took

    actions = {tier.name: (lambda tier=tier: start(tier)) for tier in usable}  # type: ignore[misc]
    for name, samples in _in_turns(actions, rounds).items():
        report.add(f"{name}: nothing to warm", samples)


def _rest(connection: Connection) -> None:
    """Until nothing starts and nothing ends beside."""
    deadline_s = time.monotonic() + WARM_DEADLINE_S
    while time.monotonic() < deadline_s:
        status = connection.ask("status")
        if not status["booting"] and not status["in_use"]:
            return
        time.sleep(POLL_S)


def _leased(report: Report, connection: Connection, found: Engines, usable: Iterable[Tier], rounds: int) -> None:
    """Over leases, where a pool has nothing to do; the engines' own exec in turns with them."""
    say("exec over leases, and the engines' own")
    leases = {tier: _lease(connection, tier, "base") for tier in usable}
    with ExitStack() as stack:
        peers: dict[str, Action] = {}
        for tier in leases:
            for name, action in _peers(found, tier, stack).items():
                peers[name] = action
        samples: dict[str, list[float]] = {f"{tier.name}: exec, lease": [] for tier in leases} | {p: [] for p in peers}
        for number in range(rounds + 1):
            for tier, lease in leases.items():
                took = timed_ms(lambda tier=tier, lease=lease: _run(connection, lease, tier, COMMAND))  # type: ignore[misc]
                samples[f"{tier.name}: exec, lease"].append(took)
            for name, action in peers.items() if number % PEER_EVERY == 0 else ():
                samples[name].append(timed_ms(action))
    for tier, lease in leases.items():
        ours = f"{tier.name}: exec, lease"
        report.add(ours, samples[ours][1:])
        for name in (each for each in peers if each.startswith(f"{tier.name}:")):
            report.add(name, samples[name][1:])
            report.note(f"{name} takes {report.p50(name) / report.p50(ours):.0f} times as long as ours (p50)")
        connection.ask("release", id=lease)


def _peers(found: Engines, tier: Tier, stack: ExitStack) -> dict[str, Action]:
    with suppress(ValueError):
        if engine := found.running.get(Backend(tier.name)):
            images = engine.ask("GET", "/images/json")
            newest = max(images, key=lambda image: image["Created"])["Id"] if images else ""
            return stack.enter_context(engine_exec(engine, newest))
    if tier.name == Backend.GVISOR:
        return stack.enter_context(runsc_exec(*anyio.run(_gvisor_files)))
    return {}


async def _gvisor_files() -> tuple[Path, Path]:
    store = Store(os.environ)
    tool = await store.tool("runsc")
    return tool.root / tool.path.lstrip("/"), await store.root(await store.ensure("base"))


def _fresh(report: Report, connection: Connection, usable: list[Tier], rounds: int) -> None:
    """Each in a sandbox that was warm and is nobody's, while nothing boots."""
    say("exec in fresh sandboxes")
    for tier in usable:
        connection.ask("prewarm", compatibility_mode="native", backend=tier.backend)

    def once(tier: Tier) -> float:
        _until_warm(connection, len(usable))
        replies: list[dict[str, Any]] = []
        request = {"runtime": "base", "backend": tier.backend, "command": COMMAND}
        took = timed_ms(lambda: replies.append(connection.ask("exec", **request)))
        if replies[0]["exit_code"] or not replies[0]["warm"]:
            raise RuntimeError(f"not a warm success: {replies[0]}")
        return took

    actions = {tier.name: (lambda tier=tier: once(tier)) for tier in usable}  # type: ignore[misc]
    for name, samples in _in_turns(actions, rounds).items():
        report.add(f"{name}: exec, fresh", samples)


def _rested(report: Report, connection: Connection, usable: list[Tier], rounds: int) -> None:
    """The first command in a fresh sandbox while nothing boots beside, and the one right after it: what of a fresh
    one's time is its newness and its rest, and what is the boot of its successor.
    """
    say("exec in fresh sandboxes, with nothing beside")
    samples: dict[str, list[float]] = {}
    for _ in range(rounds):
        for tier in usable:
            _until_warm(connection, len(usable))
            lease = _lease(connection, tier, "base")
            time.sleep(REST_S)
            for which in ("first", "second"):
                took = timed_ms(lambda tier=tier, lease=lease: _run(connection, lease, tier, COMMAND))  # type: ignore[misc]
                samples.setdefault(f"{tier.name}: exec, {which}, rested", []).append(took)
            connection.ask("release", id=lease)
    for name, took_ms in samples.items():
        report.add(name, took_ms)


def _until_warm(connection: Connection, wanted: int) -> None:
    deadline_s = time.monotonic() + WARM_DEADLINE_S
    while True:
        status = connection.ask("status")
        if status["warm"] >= wanted and not status["booting"] and not status["in_use"]:
            return
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"nothing became warm: {status}")
        time.sleep(POLL_S)


# --- memory -----------------------------------------------------------------------------------------------------------


def _memory(report: Report, running: Daemon, connection: Connection, found: Engines, usable: Iterable[Tier]) -> None:
    """What a few idle sandboxes add to the PSS of the daemon, the engines and all that descends from them."""
    say("memory")
    roots = [running.pid, *(engine.process.pid for engine in found.running.values())]
    for tier in usable:
        kept = [_lease(connection, tier, "base")]
        before = _pss_mib(roots)
        kept += [_lease(connection, tier, "base") for _ in range(IDLE)]
        report.add(f"{tier.name}: memory, idle", [(_pss_mib(roots) - before) / IDLE], "MiB")
        for lease in kept:
            connection.ask("release", id=lease)
        _rest(connection)


def _pss_mib(roots: Iterable[int]) -> float:
    """Of these processes and all below them."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            children.setdefault(int(path.read_text().rpartition(")")[2].split()[1]), []).append(int(path.parent.name))
    waiting, total_kib = list(roots), 0
    while waiting:
        pid = waiting.pop()
        waiting += children.get(pid, [])
        with suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total_kib += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total_kib / 1024


# --- work -------------------------------------------------------------------------------------------------------------


def _loops(report: Report, connection: Connection, usable: Iterable[Tier], rounds: int) -> None:
    """A loop that only calculates, by the clock of where it runs; the host's own Python is another build."""
    say("a loop in Python")
    leases = {tier: _lease(connection, tier, "python") for tier in usable}

    def loop(tier: Tier, lease: str) -> float:
        return float(_run(connection, lease, tier, ["python3", "-c", LOOP], runtime="python")["stdout"])

    actions: dict[str, Callable[[], float]] = {"host": _loop_of_host}
    actions |= {tier.name: (lambda tier=tier, lease=lease: loop(tier, lease)) for tier, lease in leases.items()}  # type: ignore[misc]
    for name, samples in _in_turns(actions, rounds).items():
        report.add(f"{name}: Python loop", samples)
        report.note(f"{name}: the loop takes {min(samples) / report.least('host: Python loop'):.2f} times the host's")
    for lease in leases.values():
        connection.ask("release", id=lease)


def _loop_of_host() -> float:
    return float(subprocess.run([sys.executable, "-c", LOOP], capture_output=True, text=True, check=True).stdout)


def _npm(report: Report, connection: Connection, usable: Iterable[Tier], rounds: int) -> None:
    """Wall time of the command, over a lease; each installs into an empty folder."""
    say("npm install")
    leases = {tier: _lease(connection, tier, "node") for tier in usable}
    for tier, lease in leases.items():
        _run(connection, lease, tier, ["true"], runtime="node", files=project())

    def install(tier: Tier, lease: str) -> float:
        return timed_ms(lambda: _run(connection, lease, tier, INSTALL, runtime="node"))

    actions = {tier.name: (lambda tier=tier, lease=lease: install(tier, lease)) for tier, lease in leases.items()}  # type: ignore[misc]
    for name, samples in _in_turns(actions, rounds).items():
        report.add(f"{name}: npm install", samples)
    for lease in leases.values():
        connection.ask("release", id=lease)


if __name__ == "__main__":
    sys.exit(main())
