"""How long a request takes over time, under a steady load and then a burst: a picture in PNG and SVG, and a table."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from callers import Answered, ask_at, make_template
from common import OUT, Report, arguments, daemon, machine, say

COMMAND = ("/bin/busybox", "true")
MIN_WARM = 4
WARM, COLD, PHASE = "#1f6fb4", "#d1495b", "#8a8f98"


@dataclass(frozen=True)
class Phase:
    """A stretch of the load."""

    name: str
    from_s: float
    to_s: float
    due_s: Sequence[float]

    def of(self, answers: list[Answered], first: int) -> list[Answered]:
        """Its answers, where `first` requests came before it."""
        return answers[first : first + len(self.due_s)]


def main() -> None:
    """Measure, print, draw."""
    options = arguments(__doc__, rounds=20, seconds=20, per_minute=90)
    report = Report("plot")
    phases = _phases(options.seconds, options.per_minute / 60, options.rounds)
    with daemon(min_warm=MIN_WARM, config=f"max_warm = {MIN_WARM}") as running, running.connect() as connection:
        make_template(running)
        connection.ask("prewarm", compatibility_mode="native")
        running.wait_warm(connection)
        say(", ".join(f"{phase.name}: {len(phase.due_s)}" for phase in phases))
        answers = ask_at(running, [due for phase in phases for due in phase.due_s], COMMAND)
    first = 0
    for phase in phases:
        kept = phase.of(answers, first)
        first += len(kept)
        report.add(f"exec, {phase.name}", [answer.latency_ms for answer in kept if not answer.problem])
        warm, failed = sum(answer.warm for answer in kept), sum(bool(answer.problem) for answer in kept)
        report.note(f"{phase.name}: {warm} of {len(kept)} found a warm sandbox, {failed} failed")
    draw(phases, answers)
    report.note(f"drawn: {OUT.name}/latency.png and .svg")
    report.finish(as_json=options.json)


def _phases(seconds: float, per_s: float, burst: int) -> list[Phase]:
    """Steady, a burst, steady again."""

    def steady(name: str, from_s: float) -> Phase:
        count = int(seconds * per_s)
        return Phase(name, from_s, from_s + seconds, [from_s + number / per_s for number in range(count)])

    before = steady(f"steady, {per_s:g} per second", 0)
    at_s = before.to_s
    pause_s = max(1.0, burst / 4)
    together = Phase(f"burst of {burst}", at_s, at_s + pause_s, [at_s + number * 0.002 for number in range(burst)])
    return [before, together, steady(f"steady again, {per_s:g} per second", together.to_s)]


def draw(phases: list[Phase], answers: list[Answered]) -> None:
    """One dot for each request, at the time of asking."""
    import matplotlib as mpl  # noqa: PLC0415  # the rest of this program works without

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(figsize=(10, 5.2), layout="constrained")
    for warm, color, label in ((True, WARM, "found a warm sandbox"), (False, COLD, "waited for one to be cloned")):
        dots = [answer for answer in answers if answer.warm is warm and not answer.problem]
        axes.scatter(
            [answer.asked_s for answer in dots],
            [answer.latency_ms for answer in dots],
            s=22,
            color=color,
            label=f"{label} ({len(dots)})",
            zorder=3,
        )
    for number, phase in enumerate(phases):
        if number % 2:
            axes.axvspan(phase.from_s, phase.to_s, color=PHASE, alpha=0.14, linewidth=0)
        axes.text(
            (phase.from_s + phase.to_s) / 2,
            1.02,
            phase.name,
            ha="center",
            color="#444",
            transform=axes.get_xaxis_transform(),
        )
    facts = machine()
    axes.set_title(
        "Latency of one command, each in a fresh microVM\n"
        f"{' '.join(COMMAND)}; {facts['cores']} cores, accelerator {facts['accelerator']}, {MIN_WARM} kept warm",
        pad=26,
    )
    axes.set_xlabel("time of the request (s)")
    axes.set_ylabel("request to reply (ms)")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlim(-0.5, phases[-1].to_s)
    axes.grid(axis="y", which="both", color="#ddd", linewidth=0.6, zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", frameon=True)
    OUT.mkdir(exist_ok=True)
    for kind in ("png", "svg"):
        figure.savefig(OUT / f"latency.{kind}", dpi=130)


if __name__ == "__main__":
    sys.exit(main())
