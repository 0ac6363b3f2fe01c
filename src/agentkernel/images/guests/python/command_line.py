"""The options of `python3` that make sense here."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

VERSION = f"Python {sys.version.split()[0]}"
IGNORED = frozenset("bBdEiIOPqRsSvx")
"""Options without an argument that change nothing here."""


class Usage(Exception):
    """An option that is none."""


@dataclass
class Command:
    """What to run.

    Attributes:
        kind: `code`, `module`, `file`, `stdin` or `version`.
        argv: what becomes of `sys.argv`.
    """

    kind: str
    text: str
    argv: list[str]
    unbuffered: bool = False
    warnings: list[str] = field(default_factory=list)


def parse(arguments: list[str]) -> Command:
    """Read a command line, the program's name first. Raises Usage."""
    rest = list(arguments[1:])
    unbuffered, warnings = False, []
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--version":
            return Command("version", "", [])
        if word == "--":
            break
        if word.startswith("--"):
            raise Usage(f"unknown option {word}\nusage: python3 [-c cmd | -m mod | file | -] [arg] ...")
        letters = word[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            if letter in "cmWX":
                if not letters and not rest:
                    raise Usage(f"Argument expected for the -{letter} option")
                text = letters or rest.pop(0)
                letters = ""
                if letter == "c":
                    return Command("code", text, ["-c", *rest], unbuffered, warnings)
                if letter == "m":
                    return Command("module", text, ["-m", *rest], unbuffered, warnings)
                if letter == "W":
                    warnings.append(text)
            elif letter == "V":
                return Command("version", "", [])
            elif letter == "u":
                unbuffered = True
            elif letter not in IGNORED:
                raise Usage(f"Unknown option: -{letter}\nusage: python3 [-c cmd | -m mod | file | -] [arg] ...")
    if not rest:
        return Command("stdin", "", [""], unbuffered, warnings)
    if rest[0] == "-":
        return Command("stdin", "", rest, unbuffered, warnings)
    return Command("file", rest[0], rest, unbuffered, warnings)
