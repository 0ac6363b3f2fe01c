"""What the benchmarks share: a daemon of their own, samples and their summary, the machine's facts, the table.

A benchmark prints one table. With `--json` it prints the record instead; `benchmarks/out/` gets the record either way.
Nothing here compares with a target: a machine is noisy, so read ratios of rows of one run, and minimum and p50 first.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentkernel import __version__
from agentkernel.client import Connection
from agentkernel.images.store import data_folder

HERE = Path(__file__).parent
OUT = HERE / "out"
WARM_DEADLINE_S = 180.0
POLL_S = 0.01
STOP_S = 15.0


@dataclass(frozen=True)
class Row:
    """One line of the table. `samples` of one thing, or one figure that was measured once."""

    name: str
    samples: Sequence[float]
    unit: str = "ms"

    def record(self) -> dict[str, Any]:
        """p50, p90, p99, minimum, n, unit."""
        ordered = sorted(self.samples)

        def at(share: float) -> float:
            return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 4)

        figures = {"min": at(0), "p50": at(0.5), "p90": at(0.9), "p99": at(0.99)}
        return {"name": self.name, "n": len(ordered), "unit": self.unit, **figures}


@dataclass
class Report:
    """Everything that one program measured."""

    benchmark: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, samples: Sequence[float], unit: str = "ms") -> None:
        """One row; nothing when there are no samples."""
        if samples:
            self.rows.append(Row(name, samples, unit).record())

    def stages(self, prefix: str, timings: dict[str, dict[str, float]]) -> None:
        """The daemon's own stages, as `status` tells them."""
        for stage, summary in timings.items():
            self.rows.append({"name": f"{prefix}{stage}", "unit": "ms", **summary})

    def note(self, text: str) -> None:
        """One line below the table: a ratio, or why a row is missing."""
        self.notes.append(text)

    def p50(self, name: str) -> float:
        """Of a row that was added."""
        return next(float(row["p50"]) for row in self.rows if row["name"] == name)

    def least(self, name: str) -> float:
        """Minimum of a row that was added."""
        return next(float(row["min"]) for row in self.rows if row["name"] == name)

    def finish(self, *, as_json: bool) -> None:
        """Print, and keep the record."""
        record = {"benchmark": self.benchmark, "machine": machine(), "rows": self.rows, "notes": self.notes}
        OUT.mkdir(exist_ok=True)
        (OUT / f"{self.benchmark}.json").write_text(json.dumps(record, indent=1) + "\n")
        sys.stdout.write(json.dumps(record) + "\n" if as_json else self.table())

    def table(self) -> str:
        """For people."""
        width = max((len(row["name"]) for row in self.rows), default=10)
        columns = ("min", "p50", "p90", "p99")
        lines = [f"\n{self.benchmark}", f"{'':{width}}  {'n':>6}" + "".join(f"{name:>11}" for name in columns)]
        for row in self.rows:
            figures = "".join(f"{row[name]:>11.3f}" for name in columns)
            lines.append(f"{row['name']:{width}}  {row['n']:>6.0f}{figures} {row['unit']}")
        return "\n".join([*lines, *self.notes, ""])


def arguments(description: str | None, *, rounds: int, **more: int) -> argparse.Namespace:
    """`--json`, `--rounds`, and whatever integers a benchmark adds."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="print the record, not the table")
    for name, default in {"rounds": rounds, **more}.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help=f"default {default}")
    return parser.parse_args()


def say(text: str) -> None:
    """Progress, beside the table."""
    sys.stderr.write(f"{text}\n")


# --- measuring --------------------------------------------------------------------------------------------------------


def timed_ms(action: Callable[[], object]) -> float:
    """One sample."""
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1000


def interleaved_ms(actions: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Samples of several things, in turn, so that the machine's moods fall on all of them alike."""
    samples: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            samples[name].append(timed_ms(action))
    return samples


# --- a daemon ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Daemon:
    """One that runs for a benchmark, in a home of its own."""

    home: Path
    pid: int
    environ: dict[str, str]

    def connect(self) -> Connection:
        """A new connection."""
        return Connection(str(self.home / "daemon.sock"))

    def wait_warm(self, connection: Connection) -> None:
        """Until something is warm and nothing boots beside it: an emulated boot takes a whole core."""
        deadline_s = time.monotonic() + WARM_DEADLINE_S
        while True:
            status = connection.ask("status")
            if status["warm"] > 0 and status["warm"] >= status["min_warm"] and not status["booting"]:
                return
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"nothing became warm within {WARM_DEADLINE_S:.0f} s: {status}")
            time.sleep(POLL_S)

    def timings(self) -> dict[str, dict[str, float]]:
        """What the daemon measured of its stages."""
        with self.connect() as connection:
            timings: dict[str, dict[str, float]] = connection.ask("status", timings=True).get("timings", {})
        return timings


@contextmanager
def daemon(*, simulated: bool = False, config: str = "", min_warm: int = 1) -> Iterator[Daemon]:
    """Start one; stop it at the end.

    Args:
        simulated: its sandboxes are simulated guests in the daemon's own process; what is left is the daemon itself.
        config: further lines of its configuration.
    """
    program = [str(HERE / "simulated.py")] if simulated else ["-m", "agentkernel.daemon"]
    with tempfile.TemporaryDirectory(prefix="agentkernel-bench-") as home:
        (Path(home) / "config.toml").write_text(f"[pool]\nprewarm = []\nmin_warm = {min_warm}\n{config}\n")
        environ = {**os.environ, "AGENTKERNEL_HOME": home}
        environ.pop("AGENTKERNEL_SOCKET", None)
        environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed program has its modules compiled
        ready, ready_write = os.pipe()
        process = subprocess.Popen(
            [sys.executable, *program, "--ready-fd", str(ready_write)], env=environ, pass_fds=[ready_write]
        )
        os.close(ready_write)
        try:
            with open(ready) as pipe:
                verdict = pipe.read()
            if not verdict.startswith("ready"):
                raise RuntimeError(f"the daemon did not start: {verdict}")
            yield Daemon(Path(home), process.pid, environ)
        finally:
            _stop(process, Path(home))


def _stop(process: subprocess.Popen[bytes], home: Path) -> None:
    try:
        with suppress(OSError), Connection(str(home / "daemon.sock")) as connection:
            connection.ask("shutdown")
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# --- the machine ------------------------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """What a figure depends on."""
    return {
        "cores": os.cpu_count(),
        "cpu": _first("/proc/cpuinfo", "model name"),
        "memory": _first("/proc/meminfo", "MemTotal"),
        "kernel": platform.release(),
        "accelerator": _accelerator(),
        "load": round(os.getloadavg()[0], 2),
        "versions": {"agentkernel": __version__, "python": platform.python_version(), "qemu": _qemu_version()},
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _first(path: str, name: str) -> str:
    with suppress(OSError):
        for line in Path(path).read_text().splitlines():
            if line.startswith(name):
                return line.partition(":")[2].strip()
    return ""


def _accelerator() -> str:
    """The daemon's verdict, as the driver keeps it; empty before the first probe."""
    found = sorted((data_folder(os.environ) / "readiness").glob("kvm-*.json"), key=lambda path: path.stat().st_mtime)
    return str(json.loads(found[-1].read_text())["accelerator"]) if found else ""


def _qemu_version() -> str:
    for path in (data_folder(os.environ) / "tools").glob("*/manifest.json"):
        versions = json.loads(path.read_text()).get("versions", {})
        found = [version for name, version in versions.items() if name.startswith("qemu-system-x86")]
        if found:
            return str(found[0])
    return ""
