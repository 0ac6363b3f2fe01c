"""Which machine a program gets: one that waits, restored from its snapshot, or another one."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentkernel.drivers.hyperlight.worker.machine import Machine, Plan
from agentkernel.drivers.hyperlight.worker.telling import Refusal, told_of
from agentkernel.drivers.worker.execution import Ended, Program, Stopped
from agentkernel.drivers.worker.programs import Foreign, Kind, program_of
from agentkernel.drivers.worker.requests import settle
from agentkernel.drivers.worker.run import KILL, Run
from agentkernel.drivers.worker.tree import Tree
from agentkernel.wire import program

USAGE = 2


class Shelf:
    """Machines of one language: at most one waits, for the sake of the host's memory."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._waiting: list[Machine] = []
        self._lock = threading.Lock()

    def prepare(self) -> None:
        """Have one wait, if none does."""
        with self._lock:
            if not self._waiting:
                self._waiting.append(Machine(self._plan))

    def take(self) -> Machine:
        """One for a program."""
        with self._lock:
            return self._waiting.pop() if self._waiting else Machine(self._plan)

    def give_back(self, machine: Machine) -> None:
        """It may be used again, if it is as good as new and none waits."""
        with self._lock:
            if not machine.worn and not self._waiting:
                self._waiting.append(machine)
                return
        machine.close()


class Use:
    """One program's time in a machine. `stop` may come before it has one."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._stdin_read, self.stdin = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.stdin, False)
        self._program: Program | None = None
        self._machine: Machine | None = None
        self._stopped = False
        self._lock = threading.Lock()

    def give(self, program: Program) -> None:
        """What it is to run."""
        self._program = program

    def stop(self) -> None:
        """End it."""
        with self._lock:
            self._stopped = True
            if self._machine is not None:
                self._machine.kill()

    def live(self, told: dict[str, Any]) -> Ended:
        """From a machine to the program's end. Raises Stopped."""
        assigned = self._program
        if assigned is None:
            raise Stopped
        try:
            with self._lock:
                if self._stopped:
                    raise Stopped
                self._machine = self._shelf.take()
            try:
                return self._machine.use(assigned, told, lambda most: os.read(self._stdin_read, most))
            finally:
                with self._lock:
                    machine, self._machine = self._machine, None
                self._shelf.give_back(machine)
        finally:
            os.close(self._stdin_read)


class Host:
    """Starts programs.

    Args:
        codes: guests' code, by language.
    """

    def __init__(self, tree: Tree, memory_mib: int, codes: Mapping[Kind, Path]) -> None:
        self._tree = tree
        self._shelves = {kind: Shelf(Plan(kind, code, memory_mib, tree.path)) for kind, code in codes.items()}
        self._shelves[Kind.PYTHON].prepare()

    def start(self, run: Run) -> program.Failed | None:
        """Begin a program on a thread of its own, or say why not."""
        refusal = settle(run, self._tree)
        if refusal is not None:
            return refusal
        name = os.fsdecode(run.request.argv[0])
        kind = program_of(name)
        if isinstance(kind, Foreign) or kind not in self._shelves:
            return program.Failed(errno.ENOENT, f"program: {name}")
        use = Use(self._shelves[kind])
        run.started()
        run.begin(use)
        threading.Thread(target=_live, args=(run, use, kind), daemon=True).start()
        return None


def _live(run: Run, use: Use, kind: Kind) -> None:
    try:
        ended = use.live(told_of(kind, run.request))
    except Stopped:
        ended = Ended(0, KILL)
    except Refusal as error:
        run.complain(f"{error}\n".encode("utf-8", "surrogateescape"))
        ended = Ended(USAGE)
    run.finished(ended)
