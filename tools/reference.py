"""Writes the generated pages of docs/reference from the code; with --check, says which of them are out of date."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from agentkernel.cli.commands import main as cold
from agentkernel.cli.hot import HELP
from agentkernel.drivers.catalogue import ABOUT, Settings, catalogue
from agentkernel.images.recipe import Cookbook
from agentkernel.images.store import Store
from agentkernel.model import errors as model_errors
from agentkernel.model.errors import DOORS, AgentkernelError
from agentkernel.model.kinds import Feature
from agentkernel.policy.config import KEYS, Key, Project
from agentkernel.policy.presets import PRESETS, RUNTIME_OF_PROGRAM
from agentkernel.protocol.words import wire_backend

FOLDER = Path(__file__).parents[1] / "docs/reference"
ISOLATION = Path(__file__).parents[1] / "tests/security/isolation"
ORIGIN = "<!-- Written by tools/reference.py from the code (`make docs`); edit the code, not this page. -->"
PROJECT_MAY = {
    Project.NEVER: "no",
    Project.FREELY: "yes",
    Project.SMALLER: "smaller only",
    Project.STRICTER: "stricter only",
}
OTHER_VARIABLES = {
    "AGENTKERNEL_HOME": "state folder: socket, lock, journal, log, `config.toml`, `recipes/`; default `~/.agentkernel`",
    "AGENTKERNEL_SOCKET": "path of the daemon's socket alone",
    "AGENTKERNEL_DATA": "data folder: tools, kernels, images; default `agentkernel` in `$XDG_DATA_HOME`, "
    "else in `~/.local/share`",
    "AGENTKERNEL_BACKEND": "backend of `agentkernel run` when it names none, in the words of `--backend`; default "
    "`microvm`. A variable and no key, because clients read no file",
    "AGENTKERNEL_MIRROR": "package archive to use in place of the host's sources",
    "FIRECRACKER_BIN": "Firecracker's program, with `jailer` beside it, where `[microvm] firecracker` names none",
    "AGENTKERNEL_KERNEL": "`backports` (default, the newest that the archive has) or `stable`",
}
ERROR_CLASSES = {
    kind.code: name
    for name, kind in vars(model_errors).items()
    if isinstance(kind, type) and issubclass(kind, AgentkernelError)
} | {"timeout": "TimeoutError"}


def configuration() -> Iterator[str]:
    """Every key, by section."""
    yield "# Configuration"
    yield (
        "Layers, later ones win: defaults, the user's `config.toml` in the state folder, `AGENTKERNEL_*` variables. "
        "An unknown key is refused with the nearest known one; a value that does not fit is refused with the rule. "
        "The daemon reads all of it once, at its start. *Effect* says whether this version does anything with a key; "
        "a key without effect is known, checked, and named in the daemon's log when it is set."
    )
    yield (
        "*Project* says what a file of a project, taken from a directory that nobody vouches for, may do with a key. "
        "The rule is part of the schema and tested; this version reads no project file yet."
    )
    section = ""
    for path, key in KEYS.items():
        name = path.rpartition(".")[0]
        if name != section:
            section = name
            yield f"## `[{section}]`"
            yield "| key | type | default | allowed | project | effect | meaning |\n|---|---|---|---|---|---|---|"
        yield _row(
            f"`{path.rpartition('.')[2]}`",
            {list: "list of strings", str: "string", int: "integer", bool: "boolean"}[key.rule.kind],
            _default(key),
            _allowed(key),
            PROJECT_MAY[key.rule.project],
            "yes" if key.rule.effective else "not yet",
            key.rule.meaning,
        )
    yield "## Variables"
    yield (
        "Each key is a variable too: `pool.max_warm` is `AGENTKERNEL_POOL_MAX_WARM`; items of a list are separated by "
        "commas or blanks. Beside those:"
    )
    yield "| variable | meaning |\n|---|---|"
    for name, meaning in OTHER_VARIABLES.items():
        yield _row(f"`{name}`", meaning)
    yield "## Presets"
    yield (
        "What a compatibility mode keeps warm unless `pool.min_warm` and `pool.max_warm` say otherwise. "
        "Every other runtime of a mode keeps nothing ahead of time, and at most one while it is in use."
    )
    yield "| mode | runtime | at least | at most |\n|---|---|---|---|"
    for mode, preset in PRESETS.items():
        yield _row(f"`{mode}`", f"`{preset.runtime}`", str(preset.warm.min_warm), str(preset.warm.max_warm))


def cli() -> Iterator[str]:
    """`run`'s own help, then every other command from click."""
    yield "# The command line"
    yield "`agentkernel` and `ak` are the same program."
    yield "## `agentkernel run`"
    yield f"```text\n{HELP.rstrip()}\n```"
    yield "With `-t` the exit code is 124 at the deadline. SIGINT and SIGTERM are passed on to the program."
    yield from _commands("agentkernel", cold)
    yield "## Exit codes of the other commands"
    yield "0 when done, 125 when it failed (one line says why, a second one what to do), 2 for a wrong usage."


def _commands(path: str, group: click.Group) -> Iterator[str]:
    for name, command in sorted(group.commands.items()):
        full = f"{path} {name}"
        if full == "agentkernel run":
            continue
        if isinstance(command, click.Group):
            yield from _commands(full, command)
            continue
        yield f"## `{full}`"
        yield f"```text\nusage: {' '.join([full, *map(_usage, command.params)])}\n```"
        yield (command.help or "").strip()
        options = [param for param in command.params if isinstance(param, click.Option)]
        if options:
            yield "| option | meaning |\n|---|---|"
        for option in options:
            default = f" Default: {option.default}." if option.show_default else ""
            yield _row(f"`{' '.join(option.opts)}{_value(option)}`", f"{option.help}{default}")


def _usage(param: click.Parameter) -> str:
    """How one parameter stands in a usage line. Our own, because click's changes with its version."""
    if isinstance(param, click.Option):
        return f"[{param.opts[-1]}{_value(param)}]"
    word = (param.name or "").upper()
    return f"{word}..." if param.required else f"[{word}...]"


def _value(option: click.Option) -> str:
    return "" if option.is_flag else f" {(option.metavar or option.type.name).upper()}"


def errors() -> Iterator[str]:
    """The table of codes at every door."""
    yield "# Errors"
    yield (
        "One table says what each error becomes at every door. A code is stable; a message is one line for a person; "
        "a hint, where there is one, says what to do."
    )
    yield "| code | class | same request again | command line | HTTP, later | MCP, later |\n|---|---|---|---|---|---|"
    for code, door in DOORS.items():
        yield _row(
            f"`{code}`",
            f"`{ERROR_CLASSES[code]}`",
            "may succeed" if door.retryable else "is useless",
            str(door.cli_exit),
            str(door.http_status),
            str(door.mcp_code),
        )
    yield (
        "The doors HTTP and MCP are not part of this version; their columns are fixed already, so that no code has to "
        "change its meaning when they come."
    )


def runtimes() -> Iterator[str]:
    """The recipes that come with the package."""
    yield "# Runtimes"
    yield (
        "A runtime is a recipe of a root file system. `agentkernel setup` builds `base` and `python`; the others are "
        "built on first use, or by `agentkernel images build`. How to write one: "
        "[writing a recipe](../guide/recipes.md)."
    )
    cookbook = Cookbook(FOLDER / "there-is-no-users-folder")
    yield "| runtime | made from | holds | programs that choose it |\n|---|---|---|---|"
    for name in cookbook.names():
        recipe = cookbook.lineage(name)[-1]
        chosen = " ".join(f"`{program}`" for program, runtime in RUNTIME_OF_PROGRAM.items() if runtime == name)
        everything = "everything else" if name == "base" else "-"
        parent = f"`{recipe.parent}`" if recipe.parent else "nothing"
        yield _row(f"`{name}`", parent, recipe.description, chosen or everything)
    for name in cookbook.names():
        recipe = cookbook.lineage(name)[-1]
        yield f"## `{name}`"
        wanted = [f"`{package}`" for package in recipe.packages]
        wanted += [f"the wheel `{wheel.requirement}` in `{wheel.target}`" for wheel in recipe.wheels]
        yield f"Packages: {', '.join(wanted)}."


def _default(key: Key) -> str:
    match key.default:
        case None:
            return "the preset's"
        case bool():
            return f"`{str(key.default).lower()}`"
        case tuple():
            return "`[" + ", ".join(f'"{item}"' for item in key.default) + "]`"
        case str():
            return f'`"{key.default}"`'
        case number:
            return f"`{number}`"


def _allowed(key: Key) -> str:
    rule = key.rule
    if rule.choices:
        return " ".join(f'`"{choice}"`' for choice in rule.choices)
    if rule.kind is int:
        return f"{rule.low} to {rule.high}" if rule.high < 2**53 else f"{rule.low} and above"
    return f"matches `{rule.pattern}`" if rule.pattern else ""


def isolation() -> Iterator[str]:
    """What a program inside can see and do, by driver, from the reports that the isolation tests keep."""
    reports = [json.loads(path.read_text()) for path in sorted((ISOLATION / "reports").glob("*.json"))]
    rows = tomllib.loads((ISOLATION / "promises.toml").read_text())["promise"]
    yield "# Isolation"
    yield (
        "What a program inside a sandbox can see and do, on each driver: found by a probe that runs there "
        "(`tests/security/isolation`), and compared with what the tier promises by `tests/security/test_isolation.py`. "
        "**promised**: it was found to hold, and the test fails where it does not. *holds*: found so, not promised. "
        "A number: not promised, and not so; what was found stands below. A virtual machine or a kernel in between "
        "promises less of these because what is behind them is not the host's."
    )
    for user, head in (("user", "The sandbox's user"), ("root", "Root inside, where commands may be root")):
        found = {report["driver"]: report["found"][user] for report in reports if user in report["found"]}
        tiers = {report["driver"]: report["tier"] for report in reports}
        notes: list[str] = []
        yield f"## {head}"
        heads = [f"{driver} ({tiers[driver]})" for driver in found]
        yield f"| what | {' | '.join(heads)} |\n|{'---|' * (len(heads) + 1)}"
        for row in rows:
            if user in row["users"]:
                cells = (
                    _held(row, tiers[driver], verdicts.get(row["id"]), notes) for driver, verdicts in found.items()
                )
                yield _row(row["text"], *cells)
        yield "\n".join(f"{number}. {note}" for number, note in enumerate(notes, 1)) or "No exceptions."


def drivers() -> Iterator[str]:
    """What each driver declares, and what it was tested against."""
    yield "# Drivers"
    yield (
        "What the drivers declare of themselves; `agentkernel doctor` tries them, and says which of it holds on your "
        "host. *Wire* is the protocol's word (`backend`), behind it that of `vmm`. The tier is the strongest that "
        "works. Which backend to take: [the guide](../guide/backends.md)."
    )
    made = catalogue(Store({"HOME": "/nowhere"}), Settings({}, Path("/nowhere"), Path("/nowhere")))
    names = {which: str(which[1] or which[0]) for which in made}
    yield "| driver | makes | wire | tiers | needs |\n|---|---|---|---|---|"
    for which, about in ABOUT.items():
        wire = f"`{wire_backend(which[0])}`" + (f" `{which[1]}`" if which[1] else "")
        yield _row(f"`{names[which]}`", about.makes, wire, " ".join(f"`{tier}`" for tier in about.tiers), about.needs)
    yield "## Tested against"
    yield "| driver | tested against | cannot |\n|---|---|---|"
    for which, about in ABOUT.items():
        yield _row(f"`{names[which]}`", about.tested, about.lacks)
    yield "## Features"
    yield (
        "A request for a feature that a driver does not declare is refused as `unsupported`, and held to that by "
        "`tests/conformance`. What no driver declares is not in the table: "
        + ", ".join(
            f"`{feature}`" for feature in Feature if not any(feature in one.capabilities for one in made.values())
        )
        + "."
    )
    yield f"| feature | {' | '.join(f'`{name}`' for name in names.values())} |\n|{'---|' * (len(names) + 1)}"
    for feature in Feature:
        if any(feature in driver.capabilities for driver in made.values()):
            has = ("yes" if feature in driver.capabilities else "-" for driver in made.values())
            yield _row(f"`{feature}`", *has)
    yield "What each feature means: `Feature` in `src/agentkernel/model/kinds.py`."


def _held(row: dict[str, Any], tier: str, breaches: list[str] | None, notes: list[str]) -> str:
    """One cell, and where something was found, its note."""
    if breaches is None:
        return "not looked at"
    if breaches:
        note = ", ".join(f"`{breach}`" for breach in breaches)
        if note not in notes:
            notes.append(note)
        return f"{notes.index(note) + 1}"
    return "**promised**" if tier in row["tiers"] else "*holds*"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def page(blocks: Iterator[str]) -> str:
    """Blocks with an empty line between them; rows of one table stay together."""
    text = ORIGIN
    table = False
    for block in blocks:
        row = block.startswith("|")
        text += ("\n" if row and table else "\n\n") + block
        table = row
    return text + "\n"


def pages() -> dict[str, str]:
    """Every generated page by its name."""
    return {
        "configuration.md": page(configuration()),
        "cli.md": page(cli()),
        "errors.md": page(errors()),
        "runtimes.md": page(runtimes()),
        "isolation.md": page(isolation()),
        "drivers.md": page(drivers()),
    }


def stale() -> list[str]:
    """Names of pages that do not say what the code does."""
    return [
        name
        for name, text in pages().items()
        if not (FOLDER / name).is_file() or (FOLDER / name).read_text(encoding="utf-8") != text
    ]


def main() -> int:
    """Write, or check."""
    if "--check" in sys.argv[1:]:
        wrong = stale()
        if wrong:
            sys.stderr.write(f"out of date: {' '.join(wrong)}; run `make docs`\n")
        return 1 if wrong else 0
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
