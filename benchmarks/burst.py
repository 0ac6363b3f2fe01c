"""Fifty requests at once on an empty pool: none lost, served in their order; how long each waits, and all of them."""

from __future__ import annotations

import sys

from callers import Answered, ask_at, make_template
from common import Report, arguments, daemon, say

APART_S = 0.005
"""Between two requests, so that their order of arrival is known."""
COMMAND = ("/bin/busybox", "true")


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__, rounds=50)
    report = Report("burst")
    say("the template")
    with daemon(min_warm=0) as running:
        make_template(running)
    say(f"{options.rounds} requests")
    with daemon(min_warm=0) as running:
        answers = ask_at(running, [number * APART_S for number in range(options.rounds)], COMMAND)
        timings = running.timings()
    failed = [answer.problem for answer in answers if answer.problem]
    total_s = max(answer.answered_s for answer in answers)
    report.add("one request, from asking to its reply", [answer.latency_ms for answer in answers if not answer.problem])
    report.add("all of them", [total_s * 1000])
    report.stages("  ", timings)
    report.note(
        f"{len(answers) - len(failed)} of {len(answers)} succeeded" + (f"; first: {failed[0]}" if failed else "")
    )
    report.note(f"{len(answers) / total_s:.1f} per second; order: {_order(answers)}")
    report.finish(as_json=options.json)


def _order(answers: list[Answered]) -> str:
    """How far the order of the replies is from the order of the requests."""
    replied = sorted(answers, key=lambda answer: answer.answered_s)
    overtaken = max(max(0, place - answer.number) for place, answer in enumerate(replied))
    return f"no request was overtaken by more than {overtaken} others"


if __name__ == "__main__":
    sys.exit(main())
