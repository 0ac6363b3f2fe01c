"""Python in a wasm sandbox behaves as CPython does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.machines import Machine, run

from agentkernel.drivers.contract import Guest

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

WIDE = Path(__file__).with_name("wide.py")

BEHAVIOURS = {
    "an exit code": ("import sys; sys.exit(7)", ()),
    "a text as exit code": ("raise SystemExit('bye')", ()),
    "no exit code": ("raise SystemExit", ()),
    "a large exit code": ("raise SystemExit(258)", ()),
    "arguments": ("import sys; print(sys.argv)", ("a b", "", "\u00e9", "--x")),
    "standard error apart": ("import sys; print('out'); print('err', file=sys.stderr)", ()),
    "bytes": ("import sys; sys.stdout.buffer.write(bytes(range(256)))", ()),
    "something at the end": ("import atexit; atexit.register(print, 'last'); print('first')", ()),
    "os._exit": ("import os; print('lost'); os._exit(9)", ()),
    "a broken interpreter promise": ("import sys; sys.stdout.close()", ()),
    "names of main": ("import __main__; x = 3; print(__main__.x, __name__)", ()),
    "input": ("print(input().upper()); import sys; print(sys.stdin.read())", ()),
    "a class of main that is pickled": (
        "import pickle\nclass A: pass\nprint(type(pickle.loads(pickle.dumps(A()))).__name__)",
        (),
    ),
    "a hook for exceptions": ("import sys; sys.excepthook = lambda *a: print('hooked', a[1]); 1/0", ()),
}


def here(*arguments: str, folder: Path, stdin: bytes) -> tuple[int, bytes, bytes]:
    """What this interpreter says."""
    environment = {"HOME": "/home/sandbox", "LANG": "C.UTF-8"}
    ended = subprocess.run(
        [sys.executable, *arguments], cwd=folder, input=stdin, capture_output=True, env=environment, check=False
    )
    return ended.returncode, ended.stdout, ended.stderr


async def there(guest: Guest, *arguments: str, stdin: bytes) -> tuple[int, bytes, bytes]:
    """What the sandbox says."""
    ran = await run(guest, "python3", *arguments, stdin=stdin, env=(b"HOME=/home/sandbox", b"LANG=C.UTF-8"))
    return ran.code, ran.stdout, ran.stderr


async def test_a_program_of_two_hundred_lines_says_what_cpython_says(guest: Guest, tmp_path: Path) -> None:
    await guest.write_file("/workspace/wide.py", WIDE.read_bytes())
    (tmp_path / "wide.py").write_bytes(WIDE.read_bytes())
    expected = here("wide.py", "one", folder=tmp_path, stdin=b"from outside")
    assert expected[0] == 3 and expected[2] == b"to standard error\n"
    assert await there(guest, "wide.py", "one", stdin=b"from outside") == expected


async def test_ends_arguments_and_streams_are_those_of_cpython(guest: Guest, tmp_path: Path) -> None:
    for name, (program, arguments) in BEHAVIOURS.items():
        expected = here("-c", program, *arguments, folder=tmp_path, stdin=b"line\nrest")
        assert await there(guest, "-c", program, *arguments, stdin=b"line\nrest") == expected, name


async def test_a_traceback_names_file_line_and_reason_and_nothing_of_ours(guest: Guest, tmp_path: Path) -> None:
    source = "import json\n\n\ndef load(text):\n    return json.loads(text)\n\n\nload('{')\n"
    await guest.write_file("/workspace/broken.py", source.encode())
    ran = await run(guest, "python3", "broken.py")
    lines = ran.stderr.decode().splitlines()
    assert (ran.code, lines[0]) == (1, "Traceback (most recent call last):")
    assert lines[1] == '  File "/workspace/broken.py", line 8, in <module>'
    assert "    return json.loads(text)" in lines
    assert any("json/decoder.py" in line for line in lines)
    assert lines[-1].startswith("json.decoder.JSONDecodeError: Expecting property name")
    (tmp_path / "broken.py").write_text(source)
    code, _, said = here("broken.py", folder=tmp_path, stdin=b"")
    assert (code, said.decode().splitlines()[0]) == (1, lines[0])


async def test_a_program_comes_as_text_file_module_or_input(guest: Guest) -> None:
    await guest.write_file("/workspace/pack/__main__.py", b"print('a folder', __name__)", make_parents=True)
    await guest.write_file("/workspace/calendar.py", b"print('mine before the library')")
    assert (await run(guest, "python3", "-", "x", stdin=b"import sys; print(sys.argv)")).text == "['-', 'x']"
    assert (await run(guest, "python3", stdin=b"print(6 * 7)")).text == "42"
    assert (await run(guest, "/usr/bin/python3", "pack")).text == "a folder __main__"
    assert (await run(guest, "python", "-m", "pack")).text == "a folder __main__"
    assert (await run(guest, "python3", "-m", "json.tool", stdin=b'{"a":1}')).text == '{\n    "a": 1\n}'
    assert (await run(guest, "python3", "-c", "import calendar")).text == "mine before the library"
    assert (await run(guest, "python3", "--version")).text.startswith("Python 3.")
    missing = await run(guest, "python3", "nothing.py")
    assert (missing.code, b"can't open file '/workspace/nothing.py'" in missing.stderr) == (2, True)
    assert (await run(guest, "python3", "-Y")).code == 2


async def test_environment_and_directory_are_the_callers(guest: Guest) -> None:
    program = "import os; print(os.getcwd(), sorted(os.environ.items()), os.environb[b'ODD'])"
    ran = await run(guest, "python3", "-c", program, env=(b"ODD=\xff", b"HOME=/x"), cwd="/scratch")
    environment = [("HOME", "/x"), ("LOGNAME", "sandbox"), ("ODD", "\udcff"), ("USER", "sandbox")]
    assert ran.text == "/scratch " + repr(environment) + " b'\\xff'"


async def test_each_instance_has_a_chance_of_its_own(guest: Guest) -> None:
    program = "import random, os, uuid; print(random.random(), os.urandom(8).hex(), uuid.uuid4())"
    said = {(await run(guest, "python3", "-c", program)).text for _ in range(5)}
    assert len({word for line in said for word in line.split()}) == 15


async def test_nothing_stays_in_an_instance_but_files_stay_in_the_sandbox(machine: Machine) -> None:
    guest = machine.guest
    await run(
        guest, "python3", "-c", "import builtins, json; builtins.left = json.left = 1; open('left', 'w').write('x')"
    )
    ran = await run(
        guest, "python3", "-c", "import builtins, json; print(hasattr(builtins, 'left'), hasattr(json, 'left'))"
    )
    assert ran.text == "False False"
    assert await guest.read_file("/workspace/left") == b"x"


TRACES = """
import atexit, gc, linecache, sys, warnings
print(sys.argv, linecache.cache, atexit._ncallbacks(), gc.isenabled(), len(warnings.filters) > 0, sys.flags.verbose)
print(sorted(name for name in vars(sys.modules["__main__"]) if not name.startswith("__")), "__main__" in sys.modules)
print(hasattr(sys, "last_value"), sys.exc_info(), sys.gettrace(), sys.getrecursionlimit())
try:
    exec(compile("1/0", "<string>", "exec"))
except ZeroDivisionError as error:
    import traceback
    print(repr(error), repr(traceback.extract_tb(error.__traceback__)[-1].line or ""))
"""


async def test_nothing_that_ran_before_a_program_is_found_by_it(guest: Guest, tmp_path: Path) -> None:
    await guest.write_file("/workspace/traces.py", TRACES.encode())
    (tmp_path / "traces.py").write_text(TRACES)
    code, expected, said = here("traces.py", folder=tmp_path, stdin=b"")
    assert (code, said) == (0, b"") and b"ZeroDivisionError" in expected
    found = await there(guest, "traces.py", stdin=b"")
    assert found == (0, expected, b"")
