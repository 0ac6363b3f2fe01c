"""A small world for confinement tests: a home of mode 0700 with a tree in it, and a daemon, as root or as a user."""

from __future__ import annotations

import ctypes
import os
import pickle
import select
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio._backends._asyncio  # before a test gives up the right to read its interpreter
import pytest

from agentkernel.drivers.confine import Confinement, confined, process, spec
from agentkernel.model.ids import SandboxId, new_sandbox_id

REPOSITORY = Path(__file__).parents[2]
PROBE = Path(__file__).with_name("confinement_probe.c")
DEADLINE_S = 20
ORDINARY_UID = 61_234


@dataclass
class Birth:
    """What the engine would hand to a driver."""

    directory: Path
    id: SandboxId = field(default_factory=new_sandbox_id)
    facts: dict[str, str | int] = field(default_factory=dict)

    async def record(self, **facts: str | int) -> None:
        self.facts.update(facts)


def words(text: str) -> dict[str, str]:
    """`ACTION = RESULT` lines of the probe."""
    return dict(line.split(" = ", 1) for line in text.splitlines() if " = " in line)


def become_ordinary() -> None:
    """Give up root for good, in a child of the test."""
    os.setgroups([])
    os.setresgid(ORDINARY_UID, ORDINARY_UID, ORDINARY_UID)
    os.setresuid(ORDINARY_UID, ORDINARY_UID, ORDINARY_UID)
    # A change of uid makes /proc/self root's (prctl(2), PR_SET_DUMPABLE), as it is for no daemon that was started so.
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)


def _heed_signals() -> None:
    """Who starts tests in the background has them ignore interrupts or hang-ups, and that is inherited."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)


@dataclass
class World:
    """A daemon's user, its home, and what tests do with them."""

    home: Path
    as_root: bool

    @property
    def tree(self) -> Path:
        return self.home / "tree"

    def spec(self, *actions: str, **more: Any) -> Confinement:
        return Confinement(argv=("/bin/probe", *actions), tree=more.pop("tree", self.tree), **more)

    def birth(self) -> Birth:
        birth = Birth(self.home)
        birth.directory = self.home / birth.id
        return birth

    def run(self, scenario: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Run a coroutine function as the daemon's user, in a process of its own where that is not us."""
        if self.as_root or os.geteuid() != 0:
            return anyio.run(self._bounded, scenario)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            self._run_as_user(scenario, writer)
        os.close(writer)
        with open(reader, "rb") as stream:
            outcome = stream.read()
        os.waitpid(child, 0)
        kind, value = pickle.loads(outcome)
        if kind == "raised":
            raise value
        return value

    def _run_as_user(self, scenario: Callable[[], Coroutine[Any, Any, Any]], writer: int) -> None:
        become_ordinary()
        try:
            outcome = ("returned", anyio.run(self._bounded, scenario))
        except BaseException as error:
            outcome = ("raised", error)
        try:
            os.write(writer, pickle.dumps(outcome))
        except Exception as error:
            os.write(writer, pickle.dumps(("raised", AssertionError(f"{outcome[1]!r} ({error})"))))
        os._exit(0)

    @staticmethod
    async def _bounded(scenario: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        with anyio.fail_after(DEADLINE_S):
            return await scenario()

    def ask(self, *actions: str, **more: Any) -> dict[str, str]:
        """What the probe says inside."""

        async def scenario() -> dict[str, str]:
            async with confined(self.spec(*actions, **more), self.birth()) as program:
                ended = await program.wait_exited()
                return {"ended": str(ended), **words(program.last_words())}

        return self.run(scenario)

    def ask_outside(self, *actions: str) -> dict[str, str]:
        """The positive control: what the same probe says on the host, as the test's own user."""
        done = subprocess.run(
            [self.tree / "bin/probe", *actions],
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
            preexec_fn=_heed_signals,
        )
        return words(done.stdout)

    def daemon(self, spec: Confinement, birth: Birth, *, keep: bool = False) -> Daemon:
        """A daemon in a process of its own that has started the program and now only waits."""
        reader, writer = os.pipe()

        async def scenario() -> None:
            async with confined(spec, birth) as program:
                if keep:
                    program.keep()
                os.write(writer, pickle.dumps({**birth.facts, "pid": program.pid}))
                os.close(writer)
                await anyio.sleep_forever()

        child = os.fork()
        if child == 0:
            os.setsid()
            os.close(reader)
            try:
                if not self.as_root and os.geteuid() == 0:
                    become_ordinary()
                anyio.run(scenario)
            finally:
                os._exit(1)
        os.close(writer)
        with open(reader, "rb") as stream:
            return Daemon(child, pickle.loads(stream.read()))


@dataclass
class Daemon:
    """A fake daemon, to be killed."""

    pid: int
    facts: dict[str, str | int]
    pidfds: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("pid", "supervisor_pid"):
            self.pidfds[name] = os.pidfd_open(int(self.facts[name]))

    def kill(self) -> None:
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)

    def is_gone(self, name: str, *, within_s: float = 5.0) -> bool:
        """Whether `pid` (the program) or `supervisor_pid` ends in time."""
        return bool(select.select([self.pidfds[name]], [], [], within_s)[0])

    def close(self) -> None:
        for pidfd in self.pidfds.values():
            os.close(pidfd)
        self.pidfds.clear()


def _compiler() -> list[str]:
    return subprocess.run([REPOSITORY / "tools/cc.sh"], capture_output=True, text=True, check=True).stdout.split()


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The probe, a static program."""
    program = tmp_path_factory.mktemp("probe") / "probe"
    subprocess.run([*_compiler(), "-O1", "-static", "-o", program, PROBE], check=True)
    return program


@pytest.fixture(scope="session")
def supervisor() -> Path:
    """The supervisor, built from these sources."""
    subprocess.run(["make", "-s", "-C", REPOSITORY / "host"], check=True)
    return spec.SUPERVISOR


@pytest.fixture(params=["root", "user"])
def world(
    request: pytest.FixtureRequest, probe: Path, supervisor: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    """A daemon's home, once as root and once as an ordinary user."""
    as_root = request.param == "root"
    if as_root and os.geteuid() != 0:
        pytest.skip("needs root")
    owner = ORDINARY_UID if not as_root and os.geteuid() == 0 else os.geteuid()
    # Not pytest's own: that one lies below a directory that only the test's user may pass through.
    home = Path(tempfile.mkdtemp(prefix="ak-confinement-"))
    (home / "tree/bin").mkdir(parents=True)
    (home / "tree/etc").mkdir()
    (home / "tree/etc/passwd").write_text("inside")
    (home / "secret").write_text("of the host")
    shutil.copy(probe, home / "tree/bin/probe")
    shutil.copy(supervisor, home / "supervisor")
    for path in (home, *home.rglob("*")):
        os.chown(path, owner, owner if owner else 0)
    for path in home.rglob("*"):
        path.chmod(0o755 if path.is_dir() or path.parent.name == "bin" or path.name == "supervisor" else 0o644)
    home.chmod(0o700)
    monkeypatch.setattr(process, "SUPERVISOR", home / "supervisor")
    yield World(home, as_root)
    shutil.rmtree(home)
