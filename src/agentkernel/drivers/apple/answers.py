"""What `container` says: JSON of two generations, and complaints for people. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agentkernel.model.errors import AgentkernelError, Broken, NotFound, Refused, Unsupported
from agentkernel.model.ids import Digest
from agentkernel.model.spec import ImageFacts

WORDS_KEPT = 300
START = "container system start starts it"

_CAUSES: tuple[tuple[str, type[AgentkernelError], str], ...] = (
    (r"apiserver|xpc connection|services do not appear|system start", Unsupported, START),
    (
        r"no kernel|kernel .*not (configured|found)",
        Unsupported,
        "container system kernel set --recommended installs one",
    ),
    (r"image.*not found|no such image|failed to (resolve|pull|fetch)|manifest unknown", NotFound, "is the name right?"),
    (r"unauthori[sz]ed|authentication|denied", Refused, "container registry login logs in"),
    (r"no space left|disk is full", Broken, "free some disk space"),
    (r"unknown option|unexpected argument", Unsupported, "update Apple's container to 1.0 or later"),
    (r"platform|architecture", Refused, "take an image for linux/arm64"),
)
"""What stands in a complaint, what a caller can do about it, and how."""


@dataclass(frozen=True, slots=True)
class Container:
    """One row of `list` or `inspect`. `state` is `running`, `stopped` or whatever else it says."""

    name: str
    state: str
    labels: dict[str, str]


def complaint(words: Sequence[str], status: int, said: str) -> AgentkernelError:
    """What to raise for a command that failed: a class that says what to do, the program's own words, and a hint."""
    text = " ".join(said.split()).removeprefix("Error: ")[:WORDS_KEPT] or f"it ended with status {status}"
    what = " ".join(word for word in words[:2] if not word.startswith("--"))
    for pattern, kind, hint in _CAUSES:
        if re.search(pattern, text, re.IGNORECASE):
            return kind(f"container {what}: {text}", hint=hint)
    return Broken(f"container {what}: {text}", hint="container system logs tells more")


def version(said: str) -> str:
    """`1.0.0` of `container CLI version 1.0.0 (...)`; empty when it says none."""
    found = re.search(r"\b(\d+\.\d+(?:\.\d+)?)\b", said)
    return found[1] if found else ""


def containers(said: str) -> list[Container]:
    """Of `list --format json` and `inspect`. Raises Broken for what is neither."""
    return [_container(row) for row in _rows(said)]


def _container(row: dict[str, Any]) -> Container:
    configuration, status = row.get("configuration", {}), row.get("status")
    if not isinstance(configuration, dict):
        raise _nonsense()
    # Before 1.0 the status was a word and the name stood in the configuration alone.
    state = status.get("state") if isinstance(status, dict) else status
    name, labels = row.get("id") or configuration.get("id"), configuration.get("labels") or {}
    if not isinstance(name, str) or not isinstance(state, str) or not isinstance(labels, dict):
        raise _nonsense()
    return Container(name, state, {str(key): str(value) for key, value in labels.items()})


def image(said: str, architecture: str = "arm64") -> ImageFacts:
    """Of `image inspect`.

    Raises:
        Refused: the image is not for this processor.
        Broken: it is no such answer.
    """
    rows = _rows(said)
    if not rows:
        raise _nonsense()
    variants = rows[0].get("variants") or []
    if not isinstance(variants, list):
        raise _nonsense()
    fitting = [one for one in variants if isinstance(one, dict) and _fits(one.get("platform"), architecture)]
    if not fitting:
        raise Refused(f"the image is not for linux/{architecture}", hint=f"take one for linux/{architecture}")
    inner = fitting[0].get("config") or {}
    config = (inner.get("config") or {}) if isinstance(inner, dict) else None
    if not isinstance(config, dict):
        raise _nonsense()
    env = (line.partition("=") for line in _texts(config, "Env"))
    return ImageFacts(
        digest=_digest(rows[0]),
        env={name: value for name, _, value in env if name},
        cwd=str(config.get("WorkingDir") or ""),
        user=str(config.get("User") or ""),
        entrypoint=_texts(config, "Entrypoint"),
        command=_texts(config, "Cmd"),
    )


def _fits(platform: Any, architecture: str) -> bool:
    return isinstance(platform, dict) and (platform.get("os"), platform.get("architecture")) == ("linux", architecture)


def _texts(config: dict[str, Any], name: str) -> tuple[str, ...]:
    value = config.get(name) or []
    if not isinstance(value, list):
        raise _nonsense()
    return tuple(map(str, value))


def _digest(row: dict[str, Any]) -> Digest:
    """The index's, without its algorithm; where none is told, one of all that is."""
    for place in (row.get("index"), (row.get("configuration") or {}).get("descriptor")):
        if isinstance(place, dict) and re.fullmatch(r"sha256:[0-9a-f]{64}", str(place.get("digest"))):
            return Digest(str(place["digest"]).removeprefix("sha256:"))
    return Digest(hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest())


def _rows(said: str) -> list[dict[str, Any]]:
    try:
        rows = json.loads(said)
    except ValueError as err:
        raise _nonsense() from err
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise _nonsense()
    return rows


def _nonsense() -> Broken:
    return Broken("container's answer is not the JSON that it should be", hint="container --version: 1.0 or later?")
