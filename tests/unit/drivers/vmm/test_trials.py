"""What trials prove is found once, kept while it holds, and tried again after a failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentkernel.drivers.vmm.trials import Trials, Verdict
from agentkernel.model.errors import Broken

pytestmark = pytest.mark.anyio


class Attempts:
    """Counts, and finds that number; fails while it is told to."""

    def __init__(self) -> None:
        self.made = 0
        self.fails = False

    async def __call__(self) -> Verdict:
        self.made += 1
        if self.fails:
            raise Broken("it did not come up")
        return {"found": str(self.made)}


def trials(place: Path) -> Trials:
    return Trials(place / "verdicts", place / "trials")


async def test_a_verdict_is_found_once_and_kept_between_daemons(tmp_path: Path) -> None:
    attempt = Attempts()
    for _ in range(2):
        assert await trials(tmp_path).verdict("x", ("one",), attempt) == {"found": "1"}
    assert await trials(tmp_path).verdict("x", ("another program",), attempt) == {"found": "2"}
    assert await trials(tmp_path).verdict("y", ("one",), attempt) == {"found": "3"}, "another thing that is tried"


async def test_a_failure_is_not_kept(tmp_path: Path) -> None:
    attempt = Attempts()
    attempt.fails = True
    with pytest.raises(Broken):
        await trials(tmp_path).verdict("x", ("one",), attempt)
    attempt.fails = False
    assert await trials(tmp_path).verdict("x", ("one",), attempt) == {"found": "2"}


async def test_a_verdict_that_does_not_hold_any_more_is_found_anew(tmp_path: Path) -> None:
    attempt = Attempts()
    await trials(tmp_path).verdict("x", ("one",), attempt)
    kept = await trials(tmp_path).verdict("x", ("one",), attempt, holds=lambda verdict, age_s: age_s < 3600)
    assert kept == {"found": "1"}, "the control"
    anew = await trials(tmp_path).verdict("x", ("one",), attempt, holds=lambda verdict, age_s: verdict["found"] != "1")
    assert anew == {"found": "2"}


@pytest.mark.parametrize("rubbish", [b"", b"{", b"[]", b'{"found": 1}', b"\xff"])
async def test_a_damaged_file_counts_as_none(tmp_path: Path, rubbish: bytes) -> None:
    attempt = Attempts()
    await trials(tmp_path).verdict("x", ("one",), attempt)
    (file,) = (tmp_path / "verdicts").iterdir()
    file.write_bytes(rubbish)
    assert await trials(tmp_path).verdict("x", ("one",), attempt) == {"found": "2"}


async def test_a_trials_folder_is_private_and_gone_afterwards(tmp_path: Path) -> None:
    with pytest.raises(Broken), trials(tmp_path).birth() as birth:
        assert birth.directory.stat().st_mode & 0o777 == 0o700
        (birth.directory / "left").touch()
        raise Broken("it did not come up")
    assert list((tmp_path / "trials").iterdir()) == []
