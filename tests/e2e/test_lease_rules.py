"""A lease is no way around what a request for a fresh sandbox would be refused."""

from __future__ import annotations

from typing import Any

import pytest

from agentkernel.client import Connection, DaemonError

pytestmark = pytest.mark.vm


WISHES: dict[str, dict[str, Any]] = {
    "network": {"network": "open"},
    "profile": {"profile": "permissive"},
    "limits": {"limits": {"memory_mb": 1}},
    "firecracker": {"vmm": "firecracker"},
}


@pytest.mark.parametrize("word", WISHES)
def test_what_cannot_be_had_is_refused_in_a_lease_too(connection: Connection, lease: str, word: str) -> None:
    request = {"runtime": "base", "command": ["true"], "sandbox": lease}
    assert connection.ask("exec", **request)["exit_code"] == 0, "the control"
    with pytest.raises(DaemonError, match=word) as caught:
        connection.ask("exec", **request, **WISHES[word])
    assert caught.value.code == "unsupported"


def test_a_minimum_that_a_lease_does_not_reach_is_refused(connection: Connection, lease: str) -> None:
    request = {"runtime": "base", "command": ["true"], "sandbox": lease}
    tier = connection.ask("exec", **request)["isolation"]
    assert connection.ask("exec", **request, minimum_isolation=tier)["exit_code"] == 0
    if tier == "vm":
        assert connection.ask("exec", **request, minimum_isolation="container")["exit_code"] == 0
    else:
        with pytest.raises(DaemonError, match="wanted is vm"):
            connection.ask("exec", **request, minimum_isolation="vm")
