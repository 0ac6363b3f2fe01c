"""Which instance a program gets, and when the next is made."""

from __future__ import annotations

import itertools
import os
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from wasmtime import WasmtimeError

from agentkernel.drivers.wasm.engine import new_engine
from agentkernel.drivers.wasm.worker.host import Language
from agentkernel.drivers.wasm.worker.instances import Instance
from agentkernel.drivers.worker.execution import Ended, Stopped
from agentkernel.drivers.worker.execution import Program as Request
from agentkernel.drivers.worker.run import Run

SOON_S = 10.0
MANY = 20


class Slot:
    """Stands where an instance stands: it runs a program by ending with the code that it was given."""

    def __init__(self) -> None:
        self.given: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self.closed = threading.Event()

    def close(self) -> None:
        self.closed.set()


class Program:
    """Stands where a run stands; `then` is called when its end is told."""

    def __init__(self, code: int, then: Any = None) -> None:
        self.code, self.then = code, then
        self.over: queue.SimpleQueue[Ended] = queue.SimpleQueue()

    def started(self) -> None:
        """It runs."""

    def begin(self, slot: Slot) -> None:
        slot.given.put(self.code)

    def finished(self, ended: Ended) -> None:
        if self.then:
            self.then()
        self.over.put(ended)


class Rig:
    """A language that counts its instances."""

    def __init__(self, *, broken: bool = False) -> None:
        self.made: list[Slot] = []
        self.broken = broken
        self.language = Language(self._new, self._run)
        first = self.language.prepare()
        assert first is not None
        first.make()

    def _new(self) -> Instance:
        self.made.append(Slot())
        return cast(Instance, self.made[-1])

    def _run(self, instance: Instance) -> Ended:
        if self.broken:
            raise WasmtimeError("does not instantiate")
        code = cast(Slot, instance).given.get()
        if code is None:
            raise Stopped
        return Ended(code)

    def end(self) -> None:
        """Nobody brings a program any more."""
        for slot in self.made:
            slot.given.put(None)

    def start(self, program: Program) -> None:
        self.language.start(cast(Run, program))


@pytest.fixture
def new_rig() -> Iterator[Callable[..., Rig]]:
    """What it makes ends with the test, and so do the threads of instances that wait."""
    rigs: list[Rig] = []

    def new(*, broken: bool = False) -> Rig:
        rigs.append(Rig(broken=broken))
        return rigs[-1]

    yield new
    for rig in rigs:
        rig.end()


def test_who_comes_right_after_an_end_gets_the_one_instance_that_is_being_made(new_rig: Callable[..., Rig]) -> None:
    rig = new_rig()
    programs = [Program(code) for code in range(MANY)]
    for one, after in itertools.pairwise(programs):
        one.then = lambda after=after: rig.start(after)  # as early as anybody can know of the end
    rig.start(programs[0])
    assert [program.over.get(timeout=SOON_S).code for program in programs] == list(range(MANY))
    assert len(rig.made) == MANY + 1


def test_who_comes_while_another_runs_does_not_wait_for_its_end(new_rig: Callable[..., Rig]) -> None:
    rig = new_rig()
    first = Program(1)
    gate = threading.Event()
    first.then = lambda: gate.wait(SOON_S)
    rig.start(first)
    second = Program(2)
    rig.start(second)
    assert second.over.get(timeout=SOON_S).code == 2
    assert first.over.empty()
    gate.set()
    assert first.over.get(timeout=SOON_S).code == 1


def test_an_instance_is_freed_at_its_end_and_one_waits_behind_it(new_rig: Callable[..., Rig]) -> None:
    rig = new_rig()
    program = Program(3)
    rig.start(program)
    assert program.over.get(timeout=SOON_S).code == 3
    assert rig.made[0].closed.wait(SOON_S)
    assert len(rig.made) == 2 and not rig.made[1].closed.is_set()
    assert rig.language.prepare() is None


def test_a_language_that_cannot_be_had_ends_each_program_and_is_not_tried_without_one(
    new_rig: Callable[..., Rig],
) -> None:
    rig = new_rig(broken=True)
    assert rig.made[0].closed.wait(SOON_S)
    for _ in range(3):
        program = Program(0)
        rig.start(program)
        ended = program.over.get(timeout=SOON_S)
        assert (ended.signal, ended.words) == (6, "does not instantiate")
    assert len(rig.made) <= 2 * 3 + 1


def test_what_an_instance_says_before_it_took_its_program_is_not_the_programs(tmp_path: Path) -> None:
    heard: list[bytes] = []

    def hear(data: bytes) -> bool:
        heard.append(data)
        return True

    instance = Instance(new_engine(), tmp_path, 1 << 20)
    instance.give(Request((b"python3",), (), b"/", hear, hear))
    assert instance._write(b"rehearsed", "stdout") == len(b"rehearsed")
    instance.take()
    assert instance._write(b"played", "stdout") == len(b"played")
    assert heard == [b"played"]
    os.close(instance.stdin)
    instance.close()
