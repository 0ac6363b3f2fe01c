"""What a command asks of a wasm sandbox, and the command line of its Python."""

from __future__ import annotations

import importlib.util
import sys
from importlib import resources
from types import ModuleType

import pytest

from agentkernel.drivers.worker.programs import PATTERNS, Foreign, Kind, program_of


@pytest.fixture(scope="module")
def command_line() -> ModuleType:
    """The module as it is built into the component."""
    path = resources.files("agentkernel.images") / "guests/python/command_line.py"
    spec = importlib.util.spec_from_file_location("guest_command_line", str(path))
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules["guest_command_line"] = made
    spec.loader.exec_module(made)
    return made


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("python3", Kind.PYTHON),
        ("/usr/bin/python", Kind.PYTHON),
        ("js", Kind.JAVASCRIPT),
        ("app.wasm", Kind.MODULE),
        ("./dir/app.wasm", Kind.MODULE),
    ],
)
def test_a_program_is_known_by_its_name(name: str, kind: Kind) -> None:
    assert program_of(name) is kind


@pytest.mark.parametrize("name", ["bash", "node", "python3.12", "", ".wasm", "app.wasm/", "app.wat"])
def test_any_other_program_is_foreign_and_told_what_is_here(name: str) -> None:
    foreign = program_of(name)
    assert isinstance(foreign, Foreign)
    assert str(foreign).startswith(f"{name} (a wasm sandbox runs python3, js and .wasm files")
    assert {"python3", "js", "*.wasm"} <= set(PATTERNS)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-c", "x", "a", "-b"], ("code", "x", ["-c", "a", "-b"])),
        (["-cx", "a"], ("code", "x", ["-c", "a"])),
        (["-uIc", "x"], ("code", "x", ["-c"])),
        (["-W", "error", "-m", "mod", "a"], ("module", "mod", ["-m", "a"])),
        (["file.py", "-c", "x"], ("file", "file.py", ["file.py", "-c", "x"])),
        (["--", "-odd.py"], ("file", "-odd.py", ["-odd.py"])),
        (["-", "a"], ("stdin", "", ["-", "a"])),
        ([], ("stdin", "", [""])),
        (["-V"], ("version", "", [])),
        (["-X", "utf8", "-Bs", "f"], ("file", "f", ["f"])),
    ],
)
def test_options_are_read_as_python_reads_them(
    command_line: ModuleType, arguments: list[str], expected: tuple[str, str, list[str]]
) -> None:
    command = command_line.parse(["python3", *arguments])
    assert (command.kind, command.text, command.argv) == expected


@pytest.mark.parametrize("arguments", [["-Y"], ["-c"], ["-W"], ["--what"], ["-um"]])
def test_what_is_no_option_or_lacks_its_argument_is_said(command_line: ModuleType, arguments: list[str]) -> None:
    with pytest.raises(command_line.Usage):
        command_line.parse(["python3", *arguments])
    assert command_line.parse(["python3", "-u", "-c", "x"]).unbuffered
