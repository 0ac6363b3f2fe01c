"""What a program inside can see and do, by a probe that looks, against what the tier promises: isolation/promises.toml.

The probe runs in a sandbox of every driver, as its user and, where commands may be root, as root. Its reports are kept
in isolation/reports, and docs/reference/isolation.md is written from them.
`pytest tests/security/test_isolation.py --write-isolation-reports` writes them anew, `make docs` the page.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
from tests.conformance.candidates import CANDIDATES, Candidate
from tests.conformance.conftest import heed
from tests.security.isolation.judging import Fact, Promise, breaches, broken, judged, matching, promises, unjudged
from tests.support.machines import Machine, run, store_at
from tests.support.processes import naming

from agentkernel.drivers.contract import Driver
from agentkernel.model.kinds import Feature

REPOSITORY = Path(__file__).parents[2]
SOURCES = sorted((Path(__file__).parent / "isolation").glob("*.c"))
REPORTS = Path(__file__).parent / "isolation/reports"
TOKEN = "/scratch/isolation-probe.token"
REFUSES = 3
ON_HOST = {
    "host.name": "/proc/sys/kernel/hostname",
    "host.machine-id": "/etc/machine-id",
    "host.kernel-build": "/proc/sys/kernel/version",
    "host.boot-id": "/proc/sys/kernel/random/boot_id",
    "host.command-line": "/proc/cmdline",
    "host.product": "/sys/class/dmi/id/product_name",
    "host.product-uuid": "/sys/class/dmi/id/product_uuid",
    "host.board-serial": "/sys/class/dmi/id/board_serial",
}


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The probe, one static program: an image need not hold anything that it uses."""
    program = tmp_path_factory.mktemp("probe") / "isolation-probe"
    compiler = subprocess.run([REPOSITORY / "tools/cc.sh"], capture_output=True, text=True, check=True).stdout.split()
    warnings = ("-std=c11", "-O1", "-Wall", "-Wextra", "-Werror")
    subprocess.run([*compiler, *warnings, "-static", "-o", program, *SOURCES], check=True)
    return program


@pytest.fixture(scope="module")
def witness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A process of the host that promises.toml knows by name."""
    program = tmp_path_factory.mktemp("witness") / "host-witness"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "1000"]) as running:
        yield
        running.kill()


@dataclass(frozen=True, slots=True)
class Seen:
    """What the probe said in a sandbox of one driver: facts by who asked, and the tier that the driver's probe told."""

    name: str
    tier: str
    facts: dict[str, dict[str, Fact]]
    without_token: tuple[int, bytes]

    @property
    def verdicts(self) -> dict[str, dict[str, list[str]]]:
        """By user, then by promise: what speaks against it."""
        return {user: judged(facts, of_the_host(), user) for user, facts in self.facts.items()}


def of_the_host() -> dict[str, Fact]:
    """The same facts, of this host."""
    found: dict[str, Fact] = {}
    for name, path in ON_HOST.items():
        try:
            found[name] = Path(path).read_text().partition("\n")[0].replace("\t", " ")
        except OSError:
            continue
    return found


async def look(
    machine: Machine, driver: Driver, program: bytes
) -> tuple[dict[str, dict[str, Fact]], tuple[int, bytes]]:
    """Run the probe in one sandbox: without the token first, then as each user there is."""
    token, path = secrets.token_hex(16), "/scratch/isolation-probe"
    await machine.guest.write_file(path, program, mode=0o755)
    without = await run(machine.guest, path, token)
    await machine.guest.write_file(TOKEN, token.encode())
    facts = {}
    for user in ("user", "root") if Feature.USER_ROOT in driver.capabilities else ("user",):
        ran = await run(machine.guest, path, token, user="root" if user == "root" else "")
        assert ran.code == 0, ran.stderr
        facts[user] = json.loads(ran.stdout)
    return facts, (without.code, without.stdout)


@pytest.fixture(scope="module", params=CANDIDATES)
def seen(request: pytest.FixtureRequest, probe: Path, witness: None, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """A sandbox of one driver, probed."""
    name: str = request.param
    candidate: Candidate = CANDIDATES[name]
    place = tmp_path_factory.mktemp(name)
    store = store_at(place / "state")
    with candidate.ready(store):
        driver = candidate.driver(store)
        if driver.programs is not None:
            pytest.skip(f"{name} runs {' '.join(driver.programs)} and no program like the probe")
        verdict = anyio.run(driver.probe)
        heed(name, verdict, required=name in request.config.getoption("--require-driver"))
        assert verdict.isolation is not None

        async def scenario() -> tuple[dict[str, dict[str, Fact]], tuple[int, bytes]]:
            way = next(iter(candidate.lifecycles.values()))
            async with way(driver, candidate.spec(store), place / "sandboxes") as machine:
                return await look(machine, driver, probe.read_bytes())

        (place / "sandboxes").mkdir()
        facts, without = anyio.run(scenario)
    return Seen(name, verdict.isolation.value, facts, without)


def test_the_probe_refuses_on_the_host_and_says_nothing(probe: Path) -> None:
    for argument in ([], ["0" * 32]):
        refused = subprocess.run([probe, *argument], capture_output=True, timeout=10, check=False)
        assert (refused.returncode, refused.stdout) == (REFUSES, b"")
        assert b"this is no sandbox" in refused.stderr


@pytest.mark.vm
def test_the_probe_refuses_in_a_sandbox_whose_caller_did_not_ask(seen: Seen) -> None:
    """And with the token there it ran, or there would be nothing to look at."""
    assert seen.without_token == (REFUSES, b"")
    assert "user" in seen.facts


@pytest.mark.vm
def test_every_promise_of_the_tier_is_kept(seen: Seen) -> None:
    assert naming("host-witness")
    unkept = {user: broken(verdicts, seen.tier) for user, verdicts in seen.verdicts.items()}
    assert {user: found for user, found in unkept.items() if found} == {}


@pytest.mark.vm
def test_every_fact_is_judged_or_said_not_to_be(seen: Seen) -> None:
    patterns = [pattern for row in promises()[0] for pattern in row.facts] + unjudged()
    for facts in seen.facts.values():
        assert set(facts) - set(matching(patterns, facts)) == set()


@pytest.mark.vm
def test_the_report_that_the_page_is_written_from_says_what_is_found_now(
    seen: Seen, request: pytest.FixtureRequest
) -> None:
    path = REPORTS / f"{seen.name}.json"
    fresh = {"driver": seen.name, "tier": seen.tier, "found": seen.verdicts}
    if request.config.getoption("--write-isolation-reports"):
        path.write_text(json.dumps(fresh, indent=1) + "\n")
    assert path.exists(), f"write it: pytest {Path(__file__).relative_to(REPOSITORY)} --write-isolation-reports"
    kept = json.loads(path.read_text())
    assert kept["driver"] == seen.name
    for user, verdicts in seen.verdicts.items():
        assert set(kept["found"][user]) == set(verdicts)
        changed = {id_ for id_, found in verdicts.items() if bool(found) != bool(kept["found"][user][id_])}
        assert changed == set(), (user, {id_: verdicts[id_] for id_ in changed})


REFUSALS = frozenset({"EPERM"})
RULES: dict[str, tuple[str, tuple[str, ...], Fact, Fact]] = {
    "refused": ("refused", (), "EPERM", "ok"),
    "refused, not for want of privilege": ("refused", (), "EPERM", "EINVAL"),
    "own": ("own", (), "another", "the same"),
    "is": ("is", ("1",), "1", "0"),
    "only": ("only", ("a*",), ["ab", "a"], ["ab", "b"]),
    "lacks": ("lacks", ("b*",), ["a"], ["a", "bc"]),
}


@pytest.mark.parametrize(("rule", "words", "kept", "breach"), RULES.values(), ids=RULES)
def test_a_breach_of_each_rule_is_found_and_what_keeps_it_is_not(
    rule: str, words: tuple[str, ...], kept: Fact, breach: Fact
) -> None:
    promise = Promise("id", "text", ("fact",), rule, frozenset({"vm"}), frozenset({"user"}), words)
    host: dict[str, Fact] = {"fact": "the same"}
    assert breaches(promise, {"fact": kept}, host, REFUSALS) == []
    assert len(breaches(promise, {"fact": breach}, host, REFUSALS)) == 1
    with pytest.raises(LookupError, match="none of fact"):
        breaches(promise, {"other": kept}, host, REFUSALS)
    with pytest.raises(LookupError, match="no fact for the rule"):
        breaches(promise, {"fact": ["x"] if isinstance(kept, str) else "x"}, host, REFUSALS)


def test_a_failure_names_the_promise_and_only_the_tiers_that_gave_it() -> None:
    found = {"filter": ["itself.seccomp: 0"], "name": []}
    assert broken(found, "container") == {"filter: A system call filter of ours holds programs": ["itself.seccomp: 0"]}
    assert broken(found, "vm") == {}


def test_no_report_holds_anything_of_the_host_that_wrote_it() -> None:
    reports = list(REPORTS.glob("*.json"))
    assert reports
    for value in (*of_the_host().values(), str(Path.home()), os.environ["TMPDIR"]):
        assert not [path.name for path in reports if len(value) > 3 and str(value) in path.read_text()]
