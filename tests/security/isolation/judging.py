"""Facts of the probe against the promises of a tier. Pure: what is compared, not how it is got."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
TOLD_NOTHING = {"", "empty", "not told"}
SHOWN = 6

Fact = str | list[str]


@dataclass(frozen=True, slots=True)
class Promise:
    """One row of promises.toml; that file says what each field means."""

    id: str
    text: str
    facts: tuple[str, ...]
    rule: str
    tiers: frozenset[str]
    users: frozenset[str]
    words: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    shown: str = ""


def promises() -> tuple[list[Promise], frozenset[str]]:
    """All of them, in their order, and what counts as a refusal."""
    table = tomllib.loads((FOLDER / "promises.toml").read_text())
    return [promise_of(row) for row in table["promise"]], frozenset(table["refusals"])


def unjudged() -> list[str]:
    """Facts that are reported and no promise is about."""
    return list(tomllib.loads((FOLDER / "promises.toml").read_text())["unjudged"])


def promise_of(row: Mapping[str, Any]) -> Promise:
    """One row of the file. Raises TypeError for a field that is none."""
    sets = {name: frozenset(row[name]) for name in ("tiers", "users")}
    lists = {name: tuple(row.get(name, ())) for name in ("facts", "words", "also")}
    return Promise(**{**row, **sets, **lists})


def matching(patterns: Sequence[str], names: Mapping[str, Fact]) -> list[str]:
    """Names of facts that one of the patterns stands for."""
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def breaches(
    promise: Promise, facts: Mapping[str, Fact], host: Mapping[str, Fact], refusals: frozenset[str]
) -> list[str]:
    """What speaks against a promise, each in a few words that hold nothing of this host; empty where it is kept.

    Raises:
        LookupError: the probe reported none of the promise's facts.
    """
    names = matching(promise.facts, facts)
    if not names:
        raise LookupError(f"{promise.id}: the probe reports none of {', '.join(promise.facts)}")
    return [words for name in names for words in _of_one(promise, name, facts[name], host.get(name), refusals)]


def _of_one(promise: Promise, name: str, fact: Fact, host: Fact | None, refusals: frozenset[str]) -> Iterator[str]:
    match promise.rule, fact:
        case "refused", str() if fact not in refusals and fact not in promise.also:
            yield f"{name}: {fact}"
        case "own", str() if fact == host and fact not in refusals and fact not in TOLD_NOTHING:
            yield f"{name}: the host's"
        case "is", str() if fact not in promise.words:
            yield f"{name}: {fact}"
        case "only", list():
            extra = [word for word in fact if not any(fnmatchcase(word, pattern) for pattern in promise.words)]
            yield from [f"{name}: {promise.shown}"] * bool(extra and promise.shown)
            yield from [f"{name}: {word}" for word in extra[:SHOWN] if not promise.shown]
            yield from [f"{name}: and more"] * (len(extra) > SHOWN and not promise.shown)
        case "lacks", list():
            yield from [f"{name}: {word}" for word in fact if any(fnmatchcase(word, each) for each in promise.words)]
        case ("refused" | "own" | "is", str()):
            return
        case _:
            raise LookupError(f"{promise.id}: {name} is no fact for the rule {promise.rule}")


def judged(facts: Mapping[str, Fact], host: Mapping[str, Fact], user: str) -> dict[str, list[str]]:
    """Each promise that concerns that user to what speaks against it, whoever promises it."""
    rows, refusals = promises()
    return {row.id: breaches(row, facts, host, refusals) for row in rows if user in row.users}


def broken(verdicts: Mapping[str, list[str]], tier: str) -> dict[str, list[str]]:
    """The promises of a tier that are not kept."""
    promised = {row.id: row.text for row in promises()[0] if tier in row.tiers}
    return {f"{id_}: {promised[id_]}": found for id_, found in verdicts.items() if found and id_ in promised}
