"""A program of two hundred lines that uses the standard library widely and prints what any CPython prints.

Run by tests/integration/wasm/test_python.py in a sandbox and by this interpreter, whose outputs are compared.
"""

from __future__ import annotations

import asyncio
import bisect
import collections
import contextlib
import copy
import csv
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import hashlib
import heapq
import io
import itertools
import json
import logging
import math
import operator
import os
import pathlib
import pickle
import random
import re
import sqlite3
import statistics
import string
import struct
import sys
import textwrap
import typing
import zlib

Record = collections.namedtuple("Record", "name amount when")


class Kind(enum.Enum):
    """What a transaction is."""

    CREDIT = "credit"
    DEBIT = "debit"


@dataclasses.dataclass(order=True, frozen=True)
class Transaction:
    """One line of the ledger."""

    when: datetime.date
    account: str
    cents: int
    tags: tuple[str, ...] = dataclasses.field(default=(), compare=False)

    @property
    def kind(self) -> Kind:
        """By its sign."""
        return Kind.CREDIT if self.cents >= 0 else Kind.DEBIT


class Ledger(typing.Generic[typing.TypeVar("T")]):
    """Transactions in their order."""

    def __init__(self) -> None:
        self.lines: list[Transaction] = []

    def add(self, line: Transaction) -> None:
        """Keep it sorted."""
        bisect.insort(self.lines, line)

    def balance(self) -> dict[str, int]:
        """Account to cents."""
        totals: collections.Counter[str] = collections.Counter()
        for line in self.lines:
            totals[line.account] += line.cents
        return dict(sorted(totals.items()))


def title(text: str) -> None:
    """A line between parts."""
    print(f"== {text} ".ljust(40, "="))


def ledger() -> Ledger:
    """Pseudo-random, and the same everywhere."""
    chance, made = random.Random(20240229), Ledger()
    start = datetime.date(2024, 2, 27)
    for number in range(60):
        account = chance.choice(["rent", "food", "books", "tea"])
        made.add(Transaction(start + datetime.timedelta(days=number % 9), account, chance.randint(-5000, 5000)))
    return made


def show_data(made: Ledger) -> None:
    title("data")
    print(json.dumps(made.balance(), indent=1, sort_keys=True))
    print(sum(1 for line in made.lines if line.kind is Kind.DEBIT), Kind("credit"), repr(Kind.DEBIT))
    print(made.lines[0], dataclasses.asdict(made.lines[-1])["account"])
    again = pickle.loads(pickle.dumps(made.lines, protocol=4))
    print(again == made.lines, copy.deepcopy(again)[3] is again[3])
    print([len(list(group)) for _, group in itertools.groupby(made.lines, key=operator.attrgetter("when"))])
    print(heapq.nsmallest(3, (line.cents for line in made.lines)), typing.get_type_hints(Transaction)["cents"])


def show_text() -> None:
    title("text")
    words = re.findall(r"(?P<word>[a-z]+)(?:\d+)?", "alpha1 beta22 gamma delta333 \u00e9t\u00e9")
    print(words, re.sub(r"(\w)(\w*)", lambda found: found[2] + found[1], "pig latin"))
    print(textwrap.fill("the quick brown fox jumps over the lazy dog " * 2, 30))
    print(string.Template("$who owes $$${what}").substitute(who="Ann", what=12), f"{'wide':*^12}|{1234567.891:,.2f}")
    print(
        "\u00e9\u4f60\u597d\U0001f600".encode(), "stra\u00dfe".upper(), "{:05.1f}|{:6}|{:x}".format(3.14159, "ab", 255)
    )


def show_numbers() -> None:
    title("numbers")
    print(math.isqrt(10**20), math.comb(40, 20), math.fsum([0.1] * 10), math.hypot(3, 4), round(math.tau, 9))
    print(decimal.Decimal("1") / decimal.Decimal("7"), fractions.Fraction(3, 9) + fractions.Fraction("0.25"))
    print(statistics.mean([1, 2, 3, 4]), statistics.stdev([2, 4, 4, 4, 5, 5, 7, 9]), 2**200 % 1_000_007)
    print(struct.pack("<IhdQ", 7, -2, 1.5, 2**63).hex(), struct.calcsize("<IhdQ"))
    print([format(number, "08b") for number in (5, 250)], int("ff", 16), divmod(-7, 2), 0.1 + 0.2, 1e300 * 10)


def show_digests() -> None:
    title("digests")
    for name in ("md5", "sha1", "sha256", "sha512", "sha3_256", "blake2b"):
        print(name, hashlib.new(name, b"agentkernel").hexdigest()[:24])
    packed = zlib.compress(b"again and " * 50, 9)
    print(len(packed) < 60, zlib.decompress(packed)[:10], zlib.crc32(b"agentkernel"))


def show_files() -> None:
    title("files")
    folder = pathlib.Path("wide-files") / "inner"
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "table.csv"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["name", "value"])
        writer.writeheader()
        writer.writerows({"name": f"row {n}", "value": n * n} for n in range(3))
    print(table.read_text().splitlines(), [row["value"] for row in csv.DictReader(table.open())])
    print(sorted(path.relative_to("wide-files").as_posix() for path in pathlib.Path("wide-files").rglob("*")))
    print(table.suffix, table.stem, table.with_suffix(".txt").name, table.stat().st_size, os.path.lexists("nothing"))
    table.rename(folder / "moved.csv")
    (folder / "moved.csv").unlink()
    folder.rmdir()
    folder.parent.rmdir()
    try:
        pathlib.Path("nothing").read_text()
    except FileNotFoundError as error:
        print(type(error).__name__, error.filename, error.strerror)


def show_database() -> None:
    title("database")
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.execute("create table lines (name text, cents int)")
        database.executemany("insert into lines values (?, ?)", [("tea", 120), ("rent", 5000), ("tea", 80)])
        print(database.execute("select name, sum(cents) from lines group by name order by name").fetchall())
        try:
            database.execute("select nothing")
        except sqlite3.OperationalError as error:
            print(error)


async def work(name: str, seconds: float, done: list[str]) -> str:
    await asyncio.sleep(seconds)
    done.append(name)
    return name.upper()


async def show_tasks() -> None:
    title("tasks")
    done: list[str] = []
    print(await asyncio.gather(work("slow", 0.05, done), work("quick", 0.01, done)), done)
    try:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(5)
    except TimeoutError:
        print("timed out")
    queue: asyncio.Queue[int] = asyncio.Queue()
    async with asyncio.TaskGroup() as group:
        group.create_task(queue.put(7))
        print(await group.create_task(queue.get()))


@functools.cache
def fibonacci(number: int) -> int:
    return number if number < 2 else fibonacci(number - 1) + fibonacci(number - 2)


def main() -> int:
    made = ledger()
    show_data(made)
    show_text()
    show_numbers()
    show_digests()
    show_files()
    show_database()
    asyncio.run(show_tasks())
    title("the rest")
    print(fibonacci(80), fibonacci.cache_info().hits, functools.reduce(operator.mul, range(1, 15)))
    print(
        datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC).isoformat(),
        datetime.date(2024, 12, 30).isocalendar(),
    )
    print(
        list(collections.OrderedDict(b=1, a=2).items()),
        collections.deque(range(9), maxlen=3),
        collections.ChainMap({"x": 1}, {"y": 2})["y"],
    )
    stream = io.StringIO()
    logging.basicConfig(stream=stream, level=logging.INFO, format="%(levelname)s:%(name)s:%(message)s")
    logging.getLogger("wide").info("logged %d", 3)
    print(stream.getvalue().strip(), sys.argv[1:], sys.stdin.read())
    print("to standard error", file=sys.stderr)
    return 3


if __name__ == "__main__":
    sys.exit(main())
