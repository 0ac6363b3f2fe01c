"""Twenty clients on a pool of three: all answered, nothing crosses over."""

from __future__ import annotations

import base64
import threading
from typing import Any

import pytest
from tests.support.daemons import Daemon

pytestmark = pytest.mark.vm

CALLERS = 20


def test_twenty_callers_on_a_pool_of_three_are_all_answered_and_see_nothing_of_each_other(daemon: Daemon) -> None:
    replies: dict[int, dict[str, Any]] = {}

    def call(number: int) -> None:
        mark = f"caller-{number:02d}-mark"
        # A program that looks for every other caller's traces: files, processes, environment. Then leaves its own.
        script = (
            "found=$(ls -A /workspace /scratch /tmp | grep -v ':$' | grep -c .);"
            "others=$(cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n'"
            " | grep -o 'caller-[0-9]*-mark'"
            f" | grep -vc {mark});"
            f'echo {mark} > /workspace/trace; cp /workspace/trace /tmp/; (setsid sh -c "sleep 300; echo {mark}" &);'
            f"echo {mark} $found $others $(cat /proc/sys/kernel/random/uuid) $(hostname)"
        )
        with daemon.connect(timeout_s=300) as connection:
            replies[number] = connection.ask(
                "exec",
                runtime="base",
                command=["sh", "-c", script],
                env={"MARK": mark},
                stdin=base64.b64encode(mark.encode()).decode(),
            )

    threads = [threading.Thread(target=call, args=(number,)) for number in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(replies) == list(range(CALLERS))
    words = {number: reply["stdout"].split() for number, reply in replies.items()}
    assert all(words[number][:3] == [f"caller-{number:02d}-mark", "0", "0"] for number in range(CALLERS)), words
    assert len({reply[3] for reply in words.values()}) == CALLERS, "random state differs"
    assert len({reply[4] for reply in words.values()}) == CALLERS, "hostnames differ"


def test_the_late_output_of_a_timed_out_command_reaches_nobody(daemon: Daemon) -> None:
    with daemon.connect() as connection:
        late = connection.ask(
            "exec",
            runtime="base",
            command=["sh", "-c", "(setsid sh -c 'sleep 2; echo LATE' &); sleep 600"],
            timeout_ms=500,
        )
        assert (late["timed_out"], late["stdout"]) == (True, "")
        for _ in range(3):
            assert (
                connection.ask("exec", runtime="base", command=["sh", "-c", "sleep 1; echo mine"])["stdout"] == "mine\n"
            )
