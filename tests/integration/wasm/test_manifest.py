"""The page that says what Python lacks here says what is so."""

from __future__ import annotations

import json
import tomllib
from importlib import resources

import pytest
from tests.support.machines import run

from agentkernel.drivers.contract import Guest

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

OF_OTHER_SYSTEMS = {"msvcrt", "nt", "winreg", "winsound"}
SIDE_EFFECTS = {"antigravity", "this", "turtle"}
IMPORT_ALL = """
import importlib, json, sys
found, missing = [], []
for name in sorted(sys.stdlib_module_names):
    if not name.startswith("_") and name not in json.loads(sys.argv[1]):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            missing.append(name)
        else:
            found.append(name)
print(json.dumps([found, missing]))
"""
LACKING = {
    "threading": ("import threading; threading.Thread(target=print).start()", "RuntimeError"),
    "subprocess": ("import subprocess; subprocess.run(['true'])", "OSError"),
    "socket": ("import socket; socket.create_connection(('127.0.0.1', 80))", "socket.gaierror"),
    "asyncio": ("import asyncio; asyncio.run(asyncio.Event().wait())", "RuntimeError"),
    "zoneinfo": ("import zoneinfo; zoneinfo.ZoneInfo('Europe/Berlin')", "zoneinfo._common.ZoneInfoNotFoundError"),
    "os": ("import os; os.fork()", "AttributeError"),
    "hashlib": ("import hashlib; hashlib.new('ripemd160')", "ValueError"),
}


def page() -> dict[str, str]:
    """As it is shipped."""
    return tomllib.loads((resources.files("agentkernel.drivers.wasm") / "python.toml").read_text())


async def test_every_module_is_there_or_listed_as_missing(guest: Guest) -> None:
    ran = await run(guest, "python3", "-c", IMPORT_ALL, json.dumps(sorted(OF_OTHER_SYSTEMS | SIDE_EFFECTS)))
    found, missing = json.loads(ran.stdout.splitlines()[-1])
    assert missing == sorted(page()["missing"].split())
    assert set(page()["ready"].split()) <= {*found, "_strptime"}


async def test_what_is_said_to_be_of_no_use_is(guest: Guest) -> None:
    for name, (program, error) in LACKING.items():
        assert name in page()["lacking"]
        ran = await run(guest, "python3", "-c", program)
        assert (ran.code, ran.stderr.decode().splitlines()[-1].partition(":")[0]) == (1, error), name
