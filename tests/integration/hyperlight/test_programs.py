"""Programs in micro-VMs: they behave as elsewhere, and nothing of one is found by the next."""

from __future__ import annotations

import pytest
from tests.support.machines import request, run

from agentkernel.drivers.contract import Guest
from agentkernel.model.errors import Unsupported
from agentkernel.model.execution import Exited, Started, Stdout

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

PYTHON = {
    "prints": ("print(1 + 1)", 0, b"2\n", b""),
    "exits": ("import sys; print('no', file=sys.stderr); sys.exit(7)", 7, b"", b"no\n"),
    "leaves": ("import os; print('a', flush=True); os._exit(9)", 9, b"a\n", b""),
    "environment": ("import os; print(os.environ['WHO'], os.environ['HOME'])", 0, b"me /home/sandbox\n", b""),
    "bytes": ("import sys; sys.stdout.buffer.write(bytes(range(256)))", 0, bytes(range(256)), b""),
    "sleeps": ("import time; t = time.time(); time.sleep(0.1); print(time.time() - t > 0.09)", 0, b"True\n", b""),
    "folder": ("import os; print(os.getcwd()); os.chdir('/tmp'); print(os.getcwd())", 0, b"/workspace\n/tmp\n", b""),
    "unicode": ("print('h\u00e9\u4f60')", 0, "h\u00e9\u4f60\n".encode(), b""),
    "raises": (
        "def f():\n    raise ValueError('boo')\nf()",
        1,
        b"",
        b'Traceback (most recent call last):\n  File "<string>", line 3, in <module>\n    f()\n'
        b"  File \"<string>\", line 2, in f\n    raise ValueError('boo')\nValueError: boo\n",
    ),
    "no file": ("open('/workspace/none')", 1, b"", b"FileNotFoundError: [Errno 44] "),
}
JAVASCRIPT = {
    "prints": ("console.log(1 + 1, {a: [1, 'x']})", 0, b"2 { a: [ 1, 'x' ] }\n", b""),
    "exits": ("console.error('no'); process.exitCode = 7", 7, b"", b"no\n"),
    "leaves": ("console.log('a'); process.exit(9); console.log('b')", 9, b"a\n", b""),
    "waits": ("setTimeout(() => console.log('late'), 20); console.log(await Promise.resolve(1))", 0, b"1\nlate\n", b""),
    "files": ("writeFile('/tmp/js', 'there'); console.log(readFile('/tmp/js'))", 0, b"there\n", b""),
    "throws": ("throw new TypeError('boo')", 1, b"", b"TypeError: boo\n"),
}


@pytest.mark.parametrize("name", PYTHON)
async def test_python_behaves_as_elsewhere(guest: Guest, name: str) -> None:
    source, code, stdout, stderr = PYTHON[name]
    ran = await run(guest, "python3", "-c", source, env=(b"WHO=me",))
    assert (ran.code, ran.stdout) == (code, stdout), ran.stderr
    assert stderr in ran.stderr
    assert bool(stderr) == bool(ran.stderr)


@pytest.mark.parametrize("name", JAVASCRIPT)
async def test_javascript_behaves_as_elsewhere(guest: Guest, name: str) -> None:
    source, code, stdout, stderr = JAVASCRIPT[name]
    ran = await run(guest, "js", "-e", source)
    assert (ran.code, ran.stdout) == (code, stdout), ran.stderr
    assert stderr in ran.stderr
    assert bool(stderr) == bool(ran.stderr)


async def test_a_program_reads_its_arguments_its_neighbours_and_its_files(guest: Guest) -> None:
    await guest.write_file("/workspace/beside.py", b"def twice(text):\n    return text * 2\n")
    await guest.write_file("/workspace/given.bin", bytes(range(256)) * 100)
    source = b"""import sys, os, beside
with open('given.bin', 'rb') as given: data = given.read()
with open('/scratch/made.txt', 'w') as made: made.write(beside.twice(sys.argv[1]))
print(len(data), data[:256] == bytes(range(256)), sorted(os.listdir('/scratch')), os.path.isfile('given.bin'))
"""
    await guest.write_file("/workspace/program.py", source)
    ran = await run(guest, "python3", "program.py", "\u00e9x")
    assert (ran.code, ran.text) == (0, "25600 True ['made.txt'] True"), ran.stderr
    assert await guest.read_file("/scratch/made.txt") == "\u00e9x\u00e9x".encode()
    for path in ("/workspace/beside.py", "/workspace/given.bin", "/workspace/program.py", "/scratch/made.txt"):
        await guest.remove(path)


async def test_input_comes_in_pieces_while_it_runs(guest: Guest) -> None:
    process = await guest.exec(
        request("python3", "-u", "-c", "while line := input(): print('got', line, flush=True)", stdin=True)
    )
    events = aiter(process)
    assert isinstance(await anext(events), Started)
    for word in (b"one", b"two"):
        await process.send_stdin(word + b"\n")
        said = b""
        while not said.endswith(b"\n"):
            event = await anext(events)
            assert isinstance(event, Stdout)
            said += event.data
        assert said == b"got " + word + b"\n"
    await process.send_stdin(b"\n")
    await process.close_stdin()
    end = [event async for event in events][-1]
    assert isinstance(end, Exited) and end.code == 0


async def test_nothing_of_a_program_is_found_by_the_next(guest: Guest) -> None:
    """Each is run in a machine restored from its snapshot; the files are the sandbox's and stay."""
    leave = "import sys, os, builtins; sys.secret = builtins.secret = 'x'; os.environ['SECRET'] = 'x'; open('s', 'w')"
    look = "import sys, os, builtins; print([hasattr(w, 'secret') for w in (sys, builtins)], 'SECRET' in os.environ)"
    assert (await run(guest, "python3", "-c", f"{leave}; print(sys.secret)")).text == "x"  # it was there
    ran = await run(guest, "python3", "-c", f"{look}; print(os.listdir('.'))")
    assert ran.text == "[False, False] False\n['s']"
    await guest.remove("/workspace/s")
    assert (await run(guest, "js", "-e", "globalThis.secret = 1; console.log(secret)")).text == "1"
    assert (await run(guest, "js", "-e", "console.log(typeof secret)")).text == "undefined"


async def test_chance_is_not_restored(guest: Guest) -> None:
    for command in (
        ("python3", "-c", "import random, os; print(random.random(), os.urandom(8))"),
        ("js", "-e", "console.log(Math.random(), crypto.getRandomValues(new Uint8Array(8)).join())"),
    ):
        said = [(await run(guest, *command)).text for _ in range(3)]
        assert len(set(said)) == 3, said


HAS = """
abc ast binascii bisect collections dataclasses datetime enum errno functools hashlib heapq inspect io itertools
json math operator os random re struct sys time types typing unicodedata zlib
""".split()  # noqa: SIM905
LACKS = """
argparse asyncio base64 contextlib csv decimal email html logging pathlib pickle shutil socket sqlite3
statistics string subprocess textwrap threading traceback unittest urllib.parse
uuid warnings xml.etree.ElementTree tempfile
""".split()  # noqa: SIM905


async def test_what_its_library_has_and_lacks_is_what_limitations_says(guest: Guest) -> None:
    source = f"""
for name in {HAS + LACKS}:
    try: __import__(name)
    except ImportError: print('-' + name, end=' ')
    else: print(name, end=' ')
"""
    ran = await run(guest, "python3", "-c", source)
    assert ran.text.split() == HAS + [f"-{name}" for name in LACKS], ran.stderr


async def test_what_it_has_under_public_names_works(guest: Guest) -> None:
    source = """
import datetime, struct, bisect, hashlib
print(datetime.date(2024, 2, 29) + datetime.timedelta(1), struct.pack('>H', 258))
print(bisect.bisect([1, 2, 3], 2), hashlib.sha256(b'').hexdigest()[:8], hashlib.new('md5', b'').hexdigest()[:8])
"""
    ran = await run(guest, "python3", "-c", source)
    assert ran.text == "2024-03-01 b'\\x01\\x02'\n2 e3b0c442 d41d8cd9", ran.stderr


async def test_other_programs_are_refused_with_what_runs_here(guest: Guest) -> None:
    for name in ("bash", "app.wasm"):
        with pytest.raises(Unsupported) as refusal:
            await guest.exec(request(name))
        assert "python3" in refusal.value.hint
    assert (await run(guest, "python3", "-c", "print('here')")).text == "here"
