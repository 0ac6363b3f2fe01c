"""FirecrackerStandIn: what Firecracker and its jailer look like from outside, written from the driver's table alone.

It is not Firecracker: there is no machine. It answers the API, refuses what the table does not know or what comes in
the wrong state, insists that the files it is told of are there and may be used by its own uid, writes and reads
snapshots that are only notes, and puts the real guest agent, as an ordinary process, behind the vsock device's socket.
By order of a test it refuses a request, answers late, or dies at it.

The jailer's stand-in makes folder and nodes as the real one and changes ids. Then it changes the directory where the
real one would change the root, and goes on as Firecracker's stand-in where the real one would execute Firecracker: an
interpreter needs its libraries, and may lie where that uid does not reach.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any

from agentkernel.drivers.firecracker.table import faults, shape_of

REPOSITORY = Path(__file__).parents[2]
VERSION = "1.13.1"
PROGRAM = """#!{python}
import sys
if sys.argv[1:] == ["--version"]:
    print({said!r})
    raise SystemExit
sys.path[:0] = [{repository!r}, {sources!r}]
from tests.support.firecracker_standin import jailer_main
jailer_main({settings!r})
"""


@dataclass
class FirecrackerStandIn:
    """A pair of programs in a folder; what they were asked is recorded there.

    Attributes:
        folder: private to one test.
        trouble: `METHOD /path` to `refuse WORDS`, `late SECONDS`, `die` or `nonsense`; `vsock` to `drop N`, connections
            that are cut once they were taken.
        agent: the guest agent to run behind the vsock socket; empty for none that ever listens.
    """

    folder: Path
    agent: str
    version: str = VERSION
    jailer_version: str = VERSION
    trouble: dict[str, str] = field(default_factory=dict)
    jailer_fails: str = ""

    @property
    def program(self) -> Path:
        return self.folder / "bin" / "firecracker"

    @property
    def _record(self) -> Path:
        return self.folder / "requests.jsonl"

    def install(self) -> Path:
        """Write the programs; returns Firecracker's path. Again after a change of the settings."""
        self.program.parent.mkdir(exist_ok=True)
        self._record.touch()
        for name in ("firecracker", "jailer"):
            settings = {
                "version": self.version if name == "firecracker" else self.jailer_version,
                "record": str(self._record),
                "agent": self.agent,
                "trouble": self.trouble,
                "fails": self.jailer_fails,
            }
            text = PROGRAM.format(
                python=sys.executable,
                repository=str(REPOSITORY),
                sources=str(REPOSITORY / "src"),
                said=f"{name.title()} v{settings['version']}\n\n(a stand-in)",
                settings=settings,
            )
            (self.program.parent / name).write_text(text)
            (self.program.parent / name).chmod(0o755)
        return self.program

    def requests(self) -> list[tuple[str, str, dict[str, Any] | None]]:
        """Method, path and body of each request but those that only asked how it is, in their order."""
        lines = [json.loads(line) for line in self._record.read_text().splitlines()]
        return [(method, path, body) for method, path, body in lines if (method, path) != ("GET", "/")]

    def names(self) -> list[str]:
        """`METHOD /path` of each."""
        return [f"{method} {path}" for method, path, _ in self.requests()]

    def forget(self) -> None:
        """Start the record anew."""
        os.truncate(self._record, 0)


# --- the jailer ---


def _option(arguments: list[str], name: str) -> str:
    return arguments[arguments.index(name) + 1] if name in arguments else ""


JAILER_OPTIONS = {
    "--id",
    "--exec-file",
    "--uid",
    "--gid",
    "--chroot-base-dir",
    "--resource-limit",
    "--cgroup-version",
    "--parent-cgroup",
    "--cgroup",
}


def jailer_main(settings: dict[str, Any]) -> None:
    """`jailer OPTIONS -- OPTIONS OF FIRECRACKER`."""
    arguments = sys.argv[1:]
    if settings["fails"]:
        sys.exit(settings["fails"])
    end = arguments.index("--")
    ours, theirs = arguments[:end], arguments[end + 1 :]
    names = ours[::2]
    if unknown := set(names) - JAILER_OPTIONS:
        sys.exit(f"jailer: unknown argument {sorted(unknown)}")
    sandbox, program = _option(ours, "--id"), Path(_option(ours, "--exec-file"))
    uid, gid = int(_option(ours, "--uid")), int(_option(ours, "--gid"))
    if "firecracker" not in program.name or not sandbox.replace("-", "").isalnum() or len(sandbox) > 64:
        sys.exit("jailer: a name or an id that is none")
    root = Path(_option(ours, "--chroot-base-dir")) / program.name / sandbox / "root"
    root.mkdir(parents=True, exist_ok=True)
    _join_cgroups(ours, sandbox)
    shutil.copy(program, root / program.name)
    (root / "dev/net").mkdir(parents=True)
    (root / "run").mkdir()
    for name, minor in (("kvm", 232), ("net/tun", 200)):
        os.mknod(root / "dev" / name, 0o20600, os.makedev(10, minor))
    for path in (root, root / "run", root / "dev", root / "dev/net", root / "dev/kvm", root / "dev/net/tun"):
        os.chown(path, uid, gid)
    if settings["agent"]:
        shutil.copy(settings["agent"], root / "run/agent-program")
    settings = {**settings, "record": open(settings["record"], "a")}  # noqa: SIM115  (as long as we live)
    os.chdir(root)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    firecracker_main(settings, ["--id", sandbox, *theirs])


def _join_cgroups(arguments: list[str], sandbox: str) -> None:
    values = [value for name, value in zip(arguments[::2], arguments[1::2], strict=True) if name == "--cgroup"]
    parent = _option(arguments, "--parent-cgroup")
    for setting in values:
        file, value = setting.split("=")
        hierarchy = Path("/sys/fs/cgroup") / (
            file.split(".")[0] if _option(arguments, "--cgroup-version") == "1" else ""
        )
        group = hierarchy / parent / sandbox
        group.mkdir(parents=True, exist_ok=True)
        (group / file).write_text(value)
        (group / ("tasks" if _option(arguments, "--cgroup-version") == "1" else "cgroup.procs")).write_text(
            str(os.getpid())
        )


# --- Firecracker ---


class _Machine:
    """What it was told, and the state that follows."""

    def __init__(self, settings: dict[str, Any], sandbox: str) -> None:
        self.settings, self.sandbox = settings, sandbox
        self.state = "Not started"
        self.told: dict[str, dict[str, Any]] = {}
        self.asked = threading.Lock()

    def carry_out(self, path: str, body: dict[str, Any]) -> str:
        """Empty, or the complaint."""
        self.told[path] = body
        match path:
            case "/actions":
                return self._start()
            case "/vm":
                self.state = {"Paused": "Paused", "Resumed": "Running"}[body["state"]]
            case "/snapshot/create":
                Path(body["snapshot_path"]).write_text(json.dumps(self.told))
                Path(body["mem_file_path"]).write_bytes(b"memory of nothing" * 1000)
            case "/snapshot/load":
                if "mem_backend" not in body:
                    return "mem_backend is missing"
                self.told = json.loads(Path(body["snapshot_path"]).read_text())
                Path(body["mem_backend"]["backend_path"]).read_bytes()
                return self._run("Running" if body.get("resume_vm") else "Paused", kernel=False)
        return ""

    def _start(self) -> str:
        if "/boot-source" not in self.told or "/machine-config" not in self.told:
            return "Cannot start microvm without kernel configuration"
        return self._run("Running", kernel=True)

    def _run(self, state: str, *, kernel: bool) -> str:
        if kernel:
            for name in ("kernel_image_path", "initrd_path"):
                Path(self.told["/boot-source"][name]).read_bytes()
        for path, body in self.told.items():
            if path.startswith("/drives/"):
                file = os.open(body["path_on_host"], os.O_RDONLY if body["is_read_only"] else os.O_RDWR)
                os.close(file)
        self.state = state
        if self.settings["agent"]:
            _serve_vsock(self.told["/vsock"]["uds_path"], self.settings["trouble"].get("vsock", "drop 0"))
        return ""


def _serve_vsock(path: str, trouble: str) -> None:
    """`CONNECT 52000`, and then the agent's own bytes; it runs as a process of this uid."""
    place = Path("run/agent")  # relative: the way there is not for this uid
    place.mkdir()
    subprocess.Popen(
        ["run/agent-program", "--run-directory", str(place), "--socket", str(place / "socket")],
        env={},
        stdin=subprocess.DEVNULL,
    )
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(8)

    drops = iter(range(int(trouble.split()[1])))

    def serve() -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_forward, args=(connection, place / "socket", drops), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()


def _forward(connection: socket.socket, agent: Path, drops: Iterator[int]) -> None:
    with connection, socket.socket(socket.AF_UNIX) as inner:
        said = b""
        while not said.endswith(b"\n"):
            some = connection.recv(1)
            if not some:
                return
            said += some
        try:
            inner.connect(str(agent))
        except OSError:
            return
        if said != b"CONNECT 52000\n":
            return
        connection.sendall(b"OK 1073741824\n")
        if next(drops, None) is not None:
            return
        back = threading.Thread(target=_pump, args=(inner, connection), daemon=True)
        back.start()
        _pump(connection, inner)
        back.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while some := source.recv(65_536):
            target.sendall(some)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True
    machine: _Machine


class _Api(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def address_string(self) -> str:
        return "api"

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def do_PATCH(self) -> None:
        self._serve()

    def _serve(self) -> None:
        machine = self.server.machine
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.loads(content) if content else None
        with machine.asked:
            print(json.dumps([self.command, self.path, body]), file=machine.settings["record"], flush=True)
            trouble = machine.settings["trouble"].get(f"{self.command} {self.path}", "")
            word, _, rest = trouble.partition(" ")
            if word == "die":
                os._exit(86)  # no signal of its own ends the first process of a pid namespace
            if word == "late":
                time.sleep(float(rest))
            if word == "nonsense":
                self._answer(200, b"<html>")
            elif word == "refuse":
                self._refuse(rest)
            else:
                self._judge(machine, body)

    def _judge(self, machine: _Machine, body: dict[str, Any] | None) -> None:
        shape = shape_of(self.command, self.path)
        if shape is None:
            return self._refuse(f"Invalid request method and/or path: {self.command} {self.path}")
        if machine.state not in shape.when:
            return self._refuse("The requested operation is not supported in this state of the microVM")
        if wrong := faults(shape.fields, body or {}):
            return self._refuse("An error occurred when deserializing the json body of a request: " + "; ".join(wrong))
        if self.path == "/":
            facts = {"app_name": "Firecracker", "id": machine.sandbox, "state": machine.state}
            return self._answer(200, json.dumps({**facts, "vmm_version": machine.settings["version"]}).encode())
        if self.path == "/snapshot/load" and machine.told:
            return self._refuse("Loading a microVM snapshot not allowed after configuring boot-specific resources.")
        try:
            complaint = machine.carry_out(self.path, body or {})
        except OSError as error:
            complaint = f"{error.strerror} (os error {error.errno}): {error.filename}"
        return self._refuse(complaint) if complaint else self._answer(shape.success, b"")

    def _refuse(self, words: str) -> None:
        self._answer(400, json.dumps({"fault_message": words}).encode())

    def _answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def firecracker_main(settings: dict[str, Any], arguments: list[str]) -> None:
    """`firecracker --id ID --api-sock PATH --enable-pci`."""
    if trouble := settings["trouble"].get("start"):
        sys.exit(trouble)
    known = {"--id", "--api-sock", "--enable-pci", _option(arguments, "--id"), _option(arguments, "--api-sock")}
    if set(arguments) - known or "--enable-pci" not in arguments:
        sys.exit(f"firecracker: unexpected arguments {arguments}")
    # Where the real one finds `/`, this one finds its working directory.
    server = _Server(_option(arguments, "--api-sock").lstrip("/"), _Api)
    server.machine = _Machine(settings, _option(arguments, "--id"))
    server.serve_forever()
