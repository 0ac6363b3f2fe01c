"""The hyperlight driver, on a host whose KVM works."""

from __future__ import annotations

import json

import pytest

from tests.nested.host import NestedHost

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

ALL = "hyperlight"
QUICK = "hyperlight and ((integration and not readiness and not recursion) or boot)"
"""Chosen behaviours for every day."""


async def test_the_probe_runs_a_snippet_and_finds_it_usable(nested: NestedHost) -> None:
    """The positive control of what every other host here is refused."""
    said = await nested.run("python3", "-m", "agentkernel", "doctor", "--json")
    verdict = json.loads(said.stdout)["hyperlight"]
    assert (verdict["usable"], verdict["isolation"], verdict["reason"]) == (True, "vm", "")


async def test_a_snippet_runs_behind_hardware_and_says_so(nested: NestedHost) -> None:
    ask = """
import os
from agentkernel.client import Connection
with Connection(os.environ["AGENTKERNEL_HOME"] + "/daemon.sock", timeout_s=120) as daemon:
    wanted = {"runtime": "python", "backend": "hyperlight", "minimum_isolation": "vm"}
    reply = daemon.ask("exec", command=["python3", "-c", "print(6 * 7)"], **wanted)
    print(reply["exit_code"], reply["isolation"], reply["stdout"])
"""
    # Without the templates of microVMs, which the daemon would make meanwhile.
    started = await nested.run("python3", "-m", "agentkernel", "daemon", "start", "--no-template")
    assert started.code == 0, started.stderr
    asked = await nested.run("python3", "-c", ask)
    assert asked.stdout.split() == ["0", "vm", "42"], asked.stderr
    stopped = await nested.run("python3", "-m", "agentkernel", "daemon", "stop")
    assert stopped.code == 0, stopped.stderr


@pytest.mark.parametrize("chosen", [QUICK, pytest.param(ALL, marks=pytest.mark.deep)], ids=["quick", "all"])
async def test_programs_behave_end_cleanly_and_the_conformance_suite_holds(nested: NestedHost, chosen: str) -> None:
    """Together, because an interpreter with pytest takes many seconds to start there."""
    options = ("--require-driver=hyperlight", "-p", "no:cacheprovider", "-q")
    places = ("tests/integration/hyperlight", "tests/conformance")
    said = await nested.run("python3", "-m", "pytest", *options, *places, "-k", chosen)
    assert said.code == 0, said.stdout[-6000:] + said.stderr[-1000:]
    assert " passed" in said.stdout
