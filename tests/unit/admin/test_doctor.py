"""The table of drivers: one that hangs or fails has a row, and keeps no other from its own."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from agentkernel.admin import doctor
from agentkernel.drivers.contract import Driver
from agentkernel.drivers.fake import FakeDriver
from agentkernel.images.store import Store
from agentkernel.model.errors import Refused
from agentkernel.model.kinds import Backend, Vmm
from agentkernel.model.readiness import Readiness
from agentkernel.policy.config import Config

pytestmark = pytest.mark.anyio


class Failing(FakeDriver):
    """Its probe has a fault."""

    async def probe(self) -> Readiness:
        raise KeyError("Version")


def drivers() -> dict[str, Driver]:
    hanging = FakeDriver(backend=Backend.DOCKER)
    hanging.faults.probe_hangs = True
    broken = FakeDriver(backend=Backend.PODMAN)
    broken.faults.unusable = "no engine listens"
    return {
        "docker": hanging,
        "qemu": FakeDriver(vmm=Vmm.QEMU),
        "podman": broken,
        "gvisor": Failing(backend=Backend.GVISOR),
    }


async def test_every_driver_has_a_verdict_though_one_hangs_and_one_fails() -> None:
    found = await doctor.verdicts(drivers(), deadline_s=0.05)
    assert list(found) == ["docker", "qemu", "podman", "gvisor"]
    assert found["qemu"].usable
    assert {name: verdict.reason for name, verdict in found.items() if not verdict.usable} == {
        "docker": "no answer within 0.05 s",
        "podman": "no engine listens",
        "gvisor": "the probe failed: KeyError: 'Version'",
    }
    assert "--timeout" in found["docker"].remedy


async def test_the_table_and_the_json_say_the_same() -> None:
    found = await doctor.verdicts(drivers(), deadline_s=0.05)
    heading, *lines = doctor.table(found)
    assert heading.split() == list(doctor.HEADINGS)
    rows = [line for line in lines if not line.startswith(" ")]
    for (name, verdict), row in zip(found.items(), rows, strict=True):
        facts = doctor.fields(name, verdict)
        assert row.split()[:3] == [name, "yes" if facts["usable"] else "no", facts["isolation"] or "-"]
        labels = {"reason": "why" if verdict.usable else "why not", "remedy": "remedy", "tested": "tested with"}
        told = [f"{label} {facts[key]}" for key, label in labels.items() if facts[key]]
        assert _below(lines, row) == " ".join(told)
        assert facts["tested"] == doctor.TOLD[name].tested


def _below(lines: list[str], row: str) -> str:
    """The texts under a row, unwrapped."""
    after = lines[lines.index(row) + 1 :]
    return " ".join(" ".join(line for line in itertools.takewhile(lambda line: line.startswith(" "), after)).split())


@pytest.mark.parametrize("width", [60, 98, 100])
def test_no_line_of_the_table_is_too_long(width: int) -> None:
    verdict = Readiness(usable=False, reason="a reason " * 40, remedy="what to do about it " * 20)
    lines = doctor.table(dict.fromkeys(doctor.TOLD, verdict), width=width)
    assert max(map(len, lines)) in range(width - 12, width + 1), "wrapped, and no earlier than it must be"


async def test_doctor_heeds_the_users_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTKERNEL_HOME", str(tmp_path))
    monkeypatch.setenv("AGENTKERNEL_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(doctor, "drivers_of", lambda config, *_, **__: {(Backend.DOCKER, None): Told(config)})
    store = Store()
    assert (await doctor.examine(store))["docker"].reason == ""
    (tmp_path / "config.toml").write_text('[docker]\nhost = "unix:///run/elsewhere.sock"\n')
    assert (await doctor.examine(store))["docker"].reason == "unix:///run/elsewhere.sock"
    (tmp_path / "config.toml").write_text("[docker]\nhots = 1\n")
    with pytest.raises(Refused, match=r"unknown key docker\.hots"):
        await doctor.examine(store)


class Told(FakeDriver):
    """Says what it was told."""

    def __init__(self, config: Config) -> None:
        super().__init__(backend=Backend.DOCKER)
        self.host = config.docker.host

    async def probe(self) -> Readiness:
        return Readiness(usable=True, reason=self.host)
