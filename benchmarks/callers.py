"""Requests that come when they come: each in a thread and on a connection of its own, as from as many callers."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from common import Daemon

from agentkernel.client.connection import DaemonError


@dataclass(frozen=True)
class Answered:
    """One exec in a fresh sandbox; times in seconds since the first was due.

    Attributes:
        problem: what the daemon said instead of running it; empty when it ran.
    """

    number: int
    asked_s: float
    answered_s: float
    warm: bool
    problem: str = ""

    @property
    def latency_ms(self) -> float:
        """From the request to its reply."""
        return (self.answered_s - self.asked_s) * 1000


def ask_at(running: Daemon, due_s: Sequence[float], command: Sequence[str]) -> list[Answered]:
    """One request at each of these times, in that order; all answers, in the order of the requests."""
    answers: list[Answered] = []
    threads: list[threading.Thread] = []
    began = time.perf_counter()

    def ask(number: int) -> None:
        with running.connect() as connection:
            asked_s, problem, warm = time.perf_counter() - began, "", False
            try:
                reply = connection.ask("exec", runtime="base", command=list(command))
                warm, problem = reply["warm"], "" if reply["exit_code"] == 0 else f"exit {reply['exit_code']}"
            except (DaemonError, OSError) as err:
                problem = str(err)
            answers.append(Answered(number, asked_s, time.perf_counter() - began, warm, problem))

    for number, due in enumerate(due_s):
        time.sleep(max(0.0, due - (time.perf_counter() - began)))
        threads.append(threading.Thread(target=ask, args=(number,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    return sorted(answers, key=lambda answer: answer.number)


def make_template(running: Daemon) -> None:
    """The first sandbox of a runtime waits for its template; nobody else shall."""
    with running.connect() as connection:
        connection.ask("exec", runtime="base", command=["true"])
