"""`agentkernel` as a person runs it, against a real daemon and a real microVM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.daemons import Daemon, short_home

from agentkernel.client import Connection

pytestmark = pytest.mark.vm

PROGRAM = [sys.executable, "-m", "agentkernel"]


class Agentkernel:
    """The program, in one folder and one environment."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.environment = environment
        self.folder = folder

    def __call__(self, *arguments: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        """Run it to its end."""
        return subprocess.run(
            [*PROGRAM, *arguments],
            env=self.environment,
            cwd=self.folder,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            timeout=240,
            check=False,
        )

    def begin(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start it."""
        return subprocess.Popen(
            [*PROGRAM, *arguments],
            env=self.environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )


@pytest.fixture
def agentkernel(daemon: Daemon, tmp_path: Path) -> Agentkernel:
    """Against the shared daemon."""
    return Agentkernel(daemon.environment, tmp_path)


def test_output_goes_to_its_own_places_and_the_exit_code_is_the_commands(agentkernel: Agentkernel) -> None:
    done = agentkernel("run", "--", "sh", "-c", "echo out; echo err >&2; exit 42")
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 42)


def test_the_runtime_is_chosen_by_the_commands_name(agentkernel: Agentkernel) -> None:
    done = agentkernel("run", "python3", "-c", "import json, sys; print(json.dumps(sys.version_info[:2]))")
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout) >= [3, 11]
    assert agentkernel("run", "--", "python3-is-not-here").returncode == 127


def test_input_that_is_no_terminal_is_passed_on_whatever_its_size(agentkernel: Agentkernel) -> None:
    content = os.urandom(3_000_000)
    done = agentkernel("run", "cat", stdin=content)
    assert done.returncode == 0
    assert done.stdout == content


def test_flags_set_environment_directory_user_and_timeout(agentkernel: Agentkernel) -> None:
    agentkernel.environment["PASSED"] = "from here"
    script = 'echo "$A|$PASSED|$PWD|$(id -un)"; sleep 600'
    done = agentkernel(
        *(
            "run",
            "-e",
            "A=b=c",
            "--env",
            "PASSED",
            "--workdir=/tmp",
            "-u",
            "root",
            "-t",
            "1.5",
            "--",
            "sh",
            "-c",
            script,
        )
    )
    assert done.stdout == b"b=c|from here|/tmp|root\n"
    assert done.returncode == 124
    assert b"timed out" in done.stderr


def test_json_prints_one_object_with_the_tier_that_was_used(agentkernel: Agentkernel) -> None:
    done = agentkernel("run", "--json", "--", "sh", "-c", "cat; exit 3", stdin=b"in")
    reply = json.loads(done.stdout)
    assert (reply["exit_code"], reply["stdout"], done.returncode) == (3, "in", 3)
    assert reply["isolation"] in {"vm", "vm-emulated"}
    assert done.stdout.count(b"\n") == 1


def test_a_folder_is_copied_in_without_what_its_ignore_files_name(agentkernel: Agentkernel) -> None:
    folder = agentkernel.folder / "project"
    for name in ("src/main.py", "src/secret.key", "node_modules/x/big.js", ".git/config", "keep/notes.txt", "empty/"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir()
        else:
            path.write_text(name)
    (folder / ".gitignore").write_text("*.key\n")
    (folder / "run.sh").write_text("#!/bin/sh\necho ran in $PWD; find . | sort; id -un; test -w src && echo writable\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "link").symlink_to("src/main.py")
    done = agentkernel("run", "--dir", "project", "--", "./run.sh")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode().splitlines()
    assert lines[0] == "ran in /workspace"
    assert lines[1:-2] == sorted(
        [".", "./.gitignore", "./empty", "./keep", "./keep/notes.txt", "./link", "./run.sh", "./src", "./src/main.py"]
    )
    assert lines[-2:] == ["sandbox", "writable"]
    assert not (folder / "created").exists()


def test_a_file_that_is_only_here_is_hinted_at(agentkernel: Agentkernel) -> None:
    (agentkernel.folder / "script.py").write_text("print('hello')")
    missing = agentkernel("run", "python3", "script.py")
    assert missing.returncode == 2
    assert b"--dir ." in missing.stderr
    there = agentkernel("run", "--dir", ".", "python3", "script.py")
    assert (there.stdout, there.returncode) == (b"hello\n", 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_forwarded_and_the_commands_own_end_is_told(
    agentkernel: Agentkernel, number: signal.Signals
) -> None:
    name = number.name.removeprefix("SIG")
    script = f"trap 'echo caught; exit 7' {name}; echo ready; while :; do sleep 0.1; done"
    running = agentkernel.begin("run", "--", "sh", "-c", script)
    with running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"ready\n"
        running.send_signal(number)
        assert running.stdout.readline() == b"caught\n"
        assert running.wait(60) == 7


def test_a_reader_that_goes_away_ends_the_command(agentkernel: Agentkernel) -> None:
    running = agentkernel.begin("run", "--", "cat", "/dev/zero")
    with running:
        assert running.stdout is not None
        running.stdout.read(1000)
        running.stdout.close()
        assert running.wait(60) == 141


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run"], "no command given"),
        (["run", "--"], "no command given"),
        (["run", "--frobnicate", "x", "--", "ls"], "unknown option --frobnicate"),
        (["run", "--runtime"], "--runtime needs a value"),
        (["run", "-t", "soon", "ls"], "positive number of seconds"),
        (["run", "-b", "vmware", "ls"], "backend"),
        (["run", "-b", "firecracker", "ls"], "firecracker"),
        (["run", "-b", "docker", "ls"], "docker"),
        (["run", "-r", "no-such", "ls"], "no-such"),
        (["run", "-r", "../../etc", "ls"], "runtime"),
        (["run", "--dir", "nowhere", "ls"], "not a folder"),
        (["run", "--minimum-isolation", "fort-knox", "ls"], "minimum_isolation"),
        (["run", "-w", "/not/there", "ls"], "/not/there"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_agentkernel_cannot_do_ends_with_125_and_says_why(
    agentkernel: Agentkernel, arguments: list[str], words: str
) -> None:
    done = agentkernel(*arguments)
    assert (done.returncode, done.stdout) == (125, b"")
    assert words in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_help_and_version_need_no_daemon(tmp_path: Path) -> None:
    alone = Agentkernel({"PATH": os.environ["PATH"], "AGENTKERNEL_HOME": str(tmp_path / "none")}, tmp_path)
    assert b"--timeout" in alone("run", "--help").stdout
    assert b"doctor" in alone("--help").stdout
    assert alone("--version").stdout.startswith(b"agentkernel, version ")
    assert not (tmp_path / "none").exists()


@pytest.fixture
def fresh(images: None, tmp_path: Path) -> Iterator[Agentkernel]:
    """With a home in which no daemon runs yet; one that was started is stopped at the end."""
    with short_home() as home:
        environment = {**os.environ, "AGENTKERNEL_HOME": str(home), "AGENTKERNEL_POOL_PREWARM": ""}
        program = Agentkernel(environment, tmp_path)
        yield program
        assert program("daemon", "stop").returncode == 0


def test_run_starts_a_daemon_when_none_runs_and_uses_it_again(fresh: Agentkernel) -> None:
    first = fresh("run", "echo", "one")
    assert (first.stdout, first.stderr, first.returncode) == (b"one\n", b"", 0)
    path = fresh.environment["AGENTKERNEL_HOME"] + "/daemon.sock"
    with Connection(path, timeout_s=30) as connection:
        pid = connection.ask("hello")["pid"]
    assert fresh("run", "echo", "two").stdout == b"two\n"
    with Connection(path, timeout_s=30) as connection:
        assert connection.ask("hello")["pid"] == pid


def test_twenty_runs_at_once_start_one_daemon(fresh: Agentkernel) -> None:
    running = [fresh.begin("run", "--", "echo", str(number)) for number in range(6)]
    outputs = [process.communicate(timeout=240) for process in running]
    assert [out for out, _ in outputs] == [f"{number}\n".encode() for number in range(6)], outputs


def test_the_daemons_life_by_commands(fresh: Agentkernel) -> None:
    assert fresh("daemon", "stop").stdout == b"no daemon was running\n"
    assert fresh("daemon", "status").returncode == 125
    started = fresh("daemon", "start")
    assert started.returncode == 0, started.stderr
    assert fresh("daemon", "start").returncode == 0
    assert fresh("run", "true").returncode == 0
    status = fresh("daemon", "status", "--timings").stdout.decode()
    assert "isolation vm" in status
    assert "spawn" in status
    assert json.loads(fresh("daemon", "status", "--json").stdout)["type"] == "status"
    assert fresh("daemon", "restart").returncode == 0
    assert b"listening" in fresh("daemon", "logs").stdout
    assert fresh("daemon", "stop").stdout == b"stopped\n"


def test_a_daemon_of_another_version_is_replaced_when_idle_and_named_when_busy(fresh: Agentkernel) -> None:
    assert fresh("daemon", "start").returncode == 0
    older = Agentkernel(fresh.environment, fresh.folder)
    newer = (
        "import agentkernel, sys; agentkernel.__version__ = '99.0'\n"
        "from agentkernel.cli import hot; sys.argv = ['agentkernel', 'run', 'echo', 'hi']; sys.exit(hot.main())"
    )
    path = older.environment["AGENTKERNEL_HOME"] + "/daemon.sock"
    run_newer = [sys.executable, "-c", newer]
    with Connection(path, timeout_s=120) as connection:
        lease = connection.ask("acquire", runtime="base")["id"]
        busy = subprocess.run(run_newer, env=older.environment, capture_output=True, timeout=60, check=False)
        assert busy.returncode == 125
        assert b"busy" in busy.stderr
        connection.ask("release", id=lease)
        before = connection.ask("hello")["pid"]
    idle = subprocess.run(run_newer, env=older.environment, capture_output=True, timeout=120, check=False)
    assert b"replacing the idle daemon" in idle.stderr
    assert idle.stdout == b"hi\n"
    with Connection(path, timeout_s=60) as connection:
        assert connection.ask("hello")["pid"] != before


def test_doctor_names_the_tier_and_the_reason(agentkernel: Agentkernel) -> None:
    said = agentkernel("doctor")
    assert said.returncode == 0
    heading, *lines = said.stdout.decode().splitlines()
    assert heading.split() == ["driver", "usable", "tier", "version"]
    assert max(map(len, lines)) <= 100
    rows = [line for line in lines if not line.startswith(" ")]
    (qemu,) = [row.split() for row in rows if row.startswith("qemu")]
    assert qemu[1] == "yes"
    verdicts = json.loads(agentkernel("doctor", "--json").stdout)
    assert len(verdicts) == len(rows)
    assert verdicts["qemu"]["usable"] is True
    assert verdicts["qemu"]["isolation"] == qemu[2] in {"vm", "vm-emulated"}
