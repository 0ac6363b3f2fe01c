"""What is written down twice for the sake of speed or of a format is the same at both places."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from agentkernel.cli import hot
from agentkernel.cli.commands import main as cold
from agentkernel.home.places import places
from agentkernel.images.recipe import Cookbook
from agentkernel.images.tools import MACHINES
from agentkernel.model import errors
from agentkernel.model.errors import DOORS, AgentkernelError, Refused, code_of
from agentkernel.model.kinds import Backend, Vmm
from agentkernel.policy.presets import BASE_RUNTIME, PRESETS, RUNTIME_OF_PROGRAM, runtime_of
from agentkernel.protocol.codec import Rejected, decode_request
from agentkernel.protocol.requests import Exec, ExecStart, given
from agentkernel.protocol.words import WireBackend

ROOT = Path(__file__).parents[2]
HEAVY = (
    "agentkernel.model",
    "argparse",
    "asyncio",
    "anyio",
    "click",
    "dataclasses",
    "inspect",
    "logging",
    "msgspec",
    "pathlib",
    "pathspec",
    "subprocess",
    "tomllib",
    "typing",
)


def test_the_hot_path_imports_nothing_heavy() -> None:
    program = (
        "import sys; before = set(sys.modules); import agentkernel.cli.hot, agentkernel.cli.session; "
        "print('\\n'.join(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {program}"],
        capture_output=True,
        text=True,
        check=True,
    )
    imported = set(done.stdout.split())
    assert "agentkernel.cli.session" in imported, "the control: it sees what is imported"
    assert [name for name in HEAVY if name in imported] == []


def test_the_hot_path_knows_the_same_programs_as_policy() -> None:
    assert hot.RUNTIMES == RUNTIME_OF_PROGRAM


@pytest.mark.parametrize("program", ["python3", "/usr/bin/python3", "cargo", "git", "./x"])
def test_the_hot_path_chooses_the_runtime_that_policy_would(program: str) -> None:
    assert hot.parse(["--", program]).runtime == runtime_of([program])


@pytest.mark.parametrize(
    "environ",
    [
        {"HOME": "/root"},
        {"HOME": "/root", "XDG_RUNTIME_DIR": "/run/user/0"},
        {"XDG_RUNTIME_DIR": "/run/user/1000"},
        {"HOME": "", "XDG_RUNTIME_DIR": "/run/user/1000"},
        {"HOME": "/root", "AGENTKERNEL_HOME": "/var/lib/ak"},
        {"HOME": "/root", "AGENTKERNEL_HOME": "/var/lib/ak/"},
        {"HOME": "/root", "AGENTKERNEL_HOME": ""},
        {"HOME": "/root", "AGENTKERNEL_SOCKET": "/run/ak.sock"},
        {"HOME": "/root", "AGENTKERNEL_HOME": "/var/lib/ak", "AGENTKERNEL_SOCKET": "/run/ak.sock"},
        {"HOME": "/root", "AGENTKERNEL_SOCKET": ""},
    ],
    ids=str,
)
def test_the_command_line_looks_where_the_daemon_listens(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "XDG_RUNTIME_DIR", "AGENTKERNEL_HOME", "AGENTKERNEL_SOCKET"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert Path(hot.socket_path()) == places(environ).socket


def test_without_any_home_both_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_RUNTIME_DIR", "AGENTKERNEL_HOME", "AGENTKERNEL_SOCKET"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(hot.Failure, match="no home directory"):
        hot.socket_path()
    with pytest.raises(Refused, match="no home directory"):
        places({})


EVERYTHING = [
    *("--runtime", "node", "--backend", "qemu", "--env", "A=1", "--env", "EMPTY=", "--workdir", "/scratch"),
    *("--user", "root", "--timeout", "0.0001", "--minimum-isolation", "vm-emulated", "--", "node", "-e", "1"),
]


@pytest.mark.parametrize(
    "arguments", [["true"], ["--", "sh", "-c", "exit 3"], ["--image", "debian:12", "-b", "docker"], EVERYTHING], ids=len
)
@pytest.mark.parametrize("kind", [Exec, ExecStart])
def test_a_message_of_the_hot_path_is_a_request(arguments: list[str], kind: type[Exec | ExecStart]) -> None:
    options = hot.parse(arguments)
    message = hot.message_of(options, "exec" if kind is Exec else "exec_start")
    request = decode_request(json.dumps(message).encode())
    assert isinstance(request, kind), request
    assert request.command == options.command
    assert (request.runtime, request.image) == (options.runtime, options.image)
    assert request.env == options.env
    assert request.cwd == options.workdir
    assert request.user == options.user
    if options.timeout_s:
        assert given(request.timeout_ms) == 1, "rounded up, never to no deadline"
        assert given(request.vmm) is Vmm.QEMU


@pytest.mark.parametrize("word", ["microvm", "qemu", "firecracker"])
def test_what_a_user_calls_a_microvm_is_one_on_the_wire(word: str) -> None:
    message = hot.message_of(hot.parse(["-b", word, "true"]), "exec")
    assert WireBackend(str(message["backend"])).choice is Backend.MICROVM


@pytest.mark.parametrize("word", [word for word in WireBackend if word is not WireBackend.FIRECRACKER])
def test_every_other_backend_is_passed_on_by_its_name(word: WireBackend) -> None:
    request = decode_request(json.dumps(hot.message_of(hot.parse(["-b", word, "true"]), "exec")).encode())
    assert not isinstance(request, Rejected)


def error_classes() -> list[type[AgentkernelError]]:
    found = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, AgentkernelError)]
    assert len(found) == 7
    return found


def test_every_error_has_a_code_and_every_code_its_doors() -> None:
    codes = {code_of(kind("message")) for kind in error_classes()} | {code_of(TimeoutError()), code_of(ValueError())}
    assert codes == set(DOORS)


@pytest.mark.parametrize("kind", error_classes(), ids=lambda kind: kind.__name__)
def test_an_error_says_of_itself_what_the_table_says_of_it(kind: type[AgentkernelError]) -> None:
    assert kind.retryable == DOORS[kind.code].retryable


def test_the_command_line_ends_with_its_own_code_for_all_but_a_deadline() -> None:
    assert {code: door.cli_exit for code, door in DOORS.items() if door.cli_exit != hot.EXIT_OURS} == {"timeout": 124}


def test_every_recipe_parses_and_leads_to_base(tmp_path: Path) -> None:
    cookbook = Cookbook(tmp_path)
    assert BASE_RUNTIME in cookbook.names()
    for name in cookbook.names():
        lineage = cookbook.lineage(name)
        assert lineage[0].name == BASE_RUNTIME
        assert lineage[-1].description
        assert lineage[-1].checks, f"{name} proves nothing of itself"


def test_every_runtime_that_is_named_anywhere_has_its_recipe(tmp_path: Path) -> None:
    named = {*RUNTIME_OF_PROGRAM.values(), BASE_RUNTIME, *(preset.runtime for preset in PRESETS.values())}
    assert named <= set(Cookbook(tmp_path).names())


def test_make_uses_no_option_that_the_command_line_lacks() -> None:
    used = re.findall(r"\$\(BIN\)/agentkernel (\w+) (--[\w-]+)?", (ROOT / "Makefile").read_text())
    assert ("setup", "--for-command") in used
    for name, option in used:
        if name != "run" and option:
            assert option in {word for param in cold.commands[name].params for word in param.opts}


def test_the_wheel_is_built_for_every_machine_that_images_know() -> None:
    makefile = (ROOT / "Makefile").read_text()
    recipe = makefile.partition("\nwheel:")[2].partition("\n\n")[0]
    for machine in MACHINES:
        assert f"agent-{machine}" in recipe
        assert f"ARCH={machine}" in recipe
