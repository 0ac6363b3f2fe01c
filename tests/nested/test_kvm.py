"""The QEMU driver with `accel=kvm`, on a host where that works."""

from __future__ import annotations

import json

import pytest

from tests.nested.host import NestedHost

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

QUICK = "(fresh and starting) or (forked and life)"
"""Chosen behaviours for every day; all of them take eight minutes."""


async def test_the_probe_finds_a_kvm_that_works(nested: NestedHost) -> None:
    """The positive control of what every other host here is refused."""
    said = await nested.run("python3", "-m", "agentkernel", "doctor", "--json")
    verdict = json.loads(said.stdout)["qemu"]
    assert (verdict["usable"], verdict["isolation"], verdict["reason"]) == (True, "vm", "")


async def test_a_command_runs_behind_hardware_and_says_so(nested: NestedHost) -> None:
    ask = """
import os
from agentkernel.client import Connection
with Connection(os.environ["AGENTKERNEL_HOME"] + "/daemon.sock", timeout_s=120) as daemon:
    reply = daemon.ask("exec", runtime="base", command=["true"], minimum_isolation="vm")
    print(reply["exit_code"], reply["isolation"], reply["vmm"])
"""
    ran = await nested.run("python3", "-m", "agentkernel", "run", "--", "uname", "-s")
    assert (ran.code, ran.stdout) == (0, "Linux\n"), ran.stderr
    asked = await nested.run("python3", "-c", ask)
    assert asked.stdout.split() == ["0", "vm", "qemu"], asked.stderr
    stopped = await nested.run("python3", "-m", "agentkernel", "daemon", "stop")
    assert stopped.code == 0, stopped.stderr


@pytest.mark.parametrize("chosen", [QUICK, pytest.param("", marks=pytest.mark.deep)], ids=["quick", "all"])
async def test_the_conformance_suite_holds_with_kvm(nested: NestedHost, chosen: str) -> None:
    words = [
        "tests/conformance",
        "--require-driver=qemu",
        "-p",
        "no:cacheprovider",
        "-q",
        "-k",
        f"qemu and ({chosen or 'test'})",
    ]
    said = await nested.run("python3", "-m", "pytest", *words)
    assert said.code == 0, said.stdout[-4000:] + said.stderr[-1000:]
    assert " passed" in said.stdout
