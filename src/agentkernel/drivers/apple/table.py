"""The commands and options of `container` that this driver uses, as facts: what takes a value, what an option means.

Source: the project's command reference, and the options of version 1.x that it does not list yet (`--read-only`,
`--cap-drop`). The stand-in that the tests drive refuses whatever is not here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

FLAG, VALUE, MANY = "flag", "value", "many"
"""An option without a value, with one, with one and allowed more than once."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command.

    Attributes:
        options: long name to FLAG, VALUE or MANY.
        least, most: how many words follow the options; a most of None is any number.
        passes_on: all after the first word is another program's, options or not.
    """

    options: dict[str, str] = field(default_factory=dict)
    least: int = 0
    most: int | None = 0
    passes_on: bool = False


COMMANDS: dict[tuple[str, ...], Command] = {
    ("run",): Command(
        {
            "--detach": FLAG,
            "--interactive": FLAG,
            "--name": VALUE,
            "--label": MANY,
            "--cpus": VALUE,
            "--memory": VALUE,
            "--network": VALUE,
            "--no-dns": FLAG,
            "--read-only": FLAG,
            "--tmpfs": MANY,
            "--mount": MANY,
            "--cap-drop": MANY,
            "--uid": VALUE,
            "--gid": VALUE,
            "--init": FLAG,
            "--entrypoint": VALUE,
            "--progress": VALUE,
        },
        least=1,
        most=None,
        passes_on=True,
    ),
    ("exec",): Command(
        {"--interactive": FLAG, "--uid": VALUE, "--gid": VALUE, "--workdir": VALUE}, least=2, most=None, passes_on=True
    ),
    ("stop",): Command({"--time": VALUE, "--signal": VALUE}, least=1, most=None),
    ("delete",): Command({"--force": FLAG}, least=1, most=None),
    ("list",): Command({"--all": FLAG, "--format": VALUE}),
    ("inspect",): Command({}, least=1, most=None),
    ("image", "inspect"): Command({}, least=1, most=None),
    ("image", "pull"): Command({"--progress": VALUE}, least=1, most=1),
    ("system", "status"): Command({}),
    ("--version",): Command({}),
}


def faults(words: Sequence[str]) -> list[str]:
    """What is wrong with a command line after the program's name, one phrase each; empty when nothing is."""
    name = next((name for name in COMMANDS if tuple(words[: len(name)]) == name), None)
    if name is None:
        return [f"no such command: {' '.join(words[:2])}"]
    command, rest = COMMANDS[name], list(words[len(name) :])
    seen: list[str] = []
    found: list[str] = []
    plain: list[str] = []
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            plain.append(word)
            if command.passes_on:
                plain += rest
                break
            continue
        kind = command.options.get(word)
        if kind is None:
            found.append(f"unknown option {word}")
        elif kind is not FLAG and not rest:
            found.append(f"{word} lacks its value")
        elif kind is not FLAG:
            rest.pop(0)
        if kind is not MANY and word in seen:
            found.append(f"{word} is given twice")
        seen.append(word)
    if len(plain) < command.least or (command.most is not None and len(plain) > command.most):
        found.append(f"{len(plain)} arguments")
    return found
