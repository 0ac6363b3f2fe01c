"""JavaScript in a wasm sandbox: the language whole, and a small host around it."""

from __future__ import annotations

import pytest
from tests.support.machines import run

from agentkernel.drivers.contract import Guest

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

SAYS = {
    "console.log(1 + 1, [1, 'x', { b: 2n }], null, undefined)": "2 [ 1, 'x', { b: 2n } ] null undefined",
    "print('\\u00e9\\u{1f600}', new Map([[1, new Set([2])]]), -0)": "\u00e9\U0001f600 Map(1) { 1 => Set(1) { 2 } } -0",
    "const a = {}; a.a = a; print(a, function f() {}, class C {})": "{ a: [Circular *1] } [Function: f] [class: C]",
    "setTimeout(() => print('later'), 5); await null; print('now')": "now\nlater",
    "let n = 0; const i = setInterval(() => { if (++n === 3) clearInterval(i); print(n) }, 1)": "1\n2\n3",
    "print(readInput(), process.argv.slice(3), process.env.HOME)": "typed [ 'x y' ] /home/sandbox",
    "writeFile('a', 'text'); print(readFile('/workspace/a'))": "text",
    "try { readFile('/../etc/passwd') } catch (e) { print(e.message) }": "No such file or directory: /../etc/passwd",
}
ENDS = {
    "process.exit(7)": (7, ""),
    "process.exitCode = 4": (4, ""),
    "throw new TypeError('bad')": (1, "TypeError: bad"),
    "throw 'text'": (1, "Uncaught 'text'"),
    "Promise.reject(new Error('lost'))": (1, "Error: lost"),
    "setTimeout(() => { throw new RangeError('late') }, 1)": (1, "RangeError: late"),
    "(": (1, "SyntaxError: "),
    "(function f() { f() })()": (1, "RangeError: "),
    "const a = []; for (;;) a.push(new Array(1e5).fill(1))": (1, "InternalError: out of memory"),
}


async def test_programs_say_what_they_should(guest: Guest) -> None:
    for source, expected in SAYS.items():
        ran = await run(guest, "js", "-e", source, "x y", stdin=b"typed")
        assert (ran.text, ran.code) == (expected, 0), (source, ran.stderr)


async def test_ends_are_exit_codes_with_the_reason(guest: Guest) -> None:
    for source, (code, reason) in ENDS.items():
        ran = await run(guest, "js", "-e", source)
        assert (ran.code, ran.stderr.decode().startswith(reason)) == (code, True), (source, ran.stderr)


async def test_a_program_comes_as_text_file_or_input(guest: Guest) -> None:
    await guest.write_file("/workspace/a.js", b"print(process.argv); undefined_name")
    ran = await run(guest, "js", "a.js", "x")
    assert (ran.text, ran.code, b"a.js:1" in ran.stderr) == ("[ 'js', 'a.js', 'x' ]", 1, True)
    assert (await run(guest, "js", stdin=b"print(6 * 7)")).text == "42"
    assert (await run(guest, "js", "nothing.js")).code == 2
    assert (await run(guest, "js", "--inspect")).code == 2


async def test_nothing_stays_in_an_instance(guest: Guest) -> None:
    await run(guest, "js", "-e", "globalThis.left = Array.prototype.left = 1")
    assert (await run(guest, "js", "-e", "print(globalThis.left, [].left)")).text == "undefined undefined"
