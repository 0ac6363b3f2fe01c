"""Docker and Podman for tests: started privately, without a service manager or any change to the host's network, and
ended with all that they made.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from agentkernel.drivers.docker import DockerDriver
from agentkernel.drivers.docker.container import name_of
from agentkernel.drivers.docker.endpoint import parse
from agentkernel.images.store import Store
from agentkernel.model.kinds import Backend
from agentkernel.model.spec import BootSpec
from tests import conftest
from tests.support.machines import Cradle, alive

UP_S = 30.0
DOWN_S = 20.0
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
OPEN_FILES = 16_384
"""An engine without CAP_SYS_RESOURCE cannot give more than it has."""
PROCESSES = 16_384
CGROUP = f"agentkernel-tests-{os.getpid()}"
NETWORK = ("--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false", "--bridge=none")


@dataclass(slots=True)
class ContainerEngine:
    """One that runs.

    Attributes:
        place: holds everything that it keeps.
    """

    backend: Backend
    place: Path
    argv: list[str]
    environment: dict[str, str]
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        """Begin, also once more after its death; returns when it answers."""
        self.socket.unlink(missing_ok=True)
        with (self.place / "log").open("ab") as log:
            self.process = subprocess.Popen(
                # In a mount namespace of its own, so that its mounts are nobody else's and end with it.
                ["unshare", "--mount", "--propagation", "private", *self.argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | self.environment | {"TMPDIR": str(self.place)},
                preexec_fn=_die_with_parent,  # noqa: PLW1509  # two system calls
            )
        conftest.KEPT_ROOTS.add(self.process.pid)
        _wait_until_up(self)

    def die(self) -> None:
        """At once, with all that it started, as when its service's group of processes is killed."""
        parts = _orphans(self.place)
        self.process.kill()
        self.process.wait()
        for pid in parts:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)  # ours now; a zombie would pass for a running containerd
        conftest.KEPT_ROOTS.discard(self.process.pid)

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.place / "engine.sock"

    @property
    def address(self) -> str:
        """As DOCKER_HOST has it."""
        return f"unix://{self.socket}"

    def ask(self, method: str, path: str, **more: Any) -> Any:
        """Ask it behind the product's back; None where the thing is not there."""
        with httpx.Client(
            transport=httpx.HTTPTransport(uds=str(self.socket), verify=False), trust_env=False, timeout=60
        ) as client:
            answer = client.request(method, f"http://engine/v1.41{path}", **more)
            if answer.status_code == 404:
                return None
            answer.raise_for_status()
            try:
                return answer.json()
            except ValueError:
                return answer.text

    def holds(self) -> dict[str, set[str]]:
        """Everything that it keeps, by name or id."""
        return {
            "containers": {each["Id"] for each in self.ask("GET", "/containers/json", params={"all": "1"})},
            "volumes": {each["Name"] for each in self.ask("GET", "/volumes")["Volumes"] or []},
            "networks": {each["Name"] for each in self.ask("GET", "/networks")},
            "images": {each["Id"] for each in self.ask("GET", "/images/json")},
        }

    def driver(self, store: Store, **wishes: Any) -> DockerDriver:
        """The driver as the catalogue makes it, for this engine."""
        return DockerDriver(
            self.backend, store, lambda: parse(self.address, "the test"), files=self.place / "files", **wishes
        )

    def state(self, birth: Cradle) -> Mapping[str, Any]:
        """What it says of a sandbox's container; empty when there is none."""
        with suppress(httpx.HTTPError):
            return (self.ask("GET", f"/containers/{name_of(birth.id)}/json") or {}).get("State") or {}
        return {}

    def processes(self, birth: Cradle) -> set[str]:
        """The host's processes in a sandbox's container."""
        pid = int(self.state(birth).get("Pid") or 0)
        return {str(each) for each in (pid,) if each and alive(each)}

    def remains(self, birth: Cradle) -> set[str]:
        """The container, the volumes that are its alone, its processes."""
        found = {f"process {pid}" for pid in self.processes(birth)}
        labelled = json.dumps({"label": [f"agentkernel.sandbox={birth.id}"]})
        for each in self.ask("GET", "/containers/json", params={"all": "1", "filters": labelled}):
            found.add(f"container {each['Id']}")
        for volume in self.holds()["volumes"]:
            if not volume.startswith("agentkernel-agent-"):
                found.add(f"volume {volume}")
        return found

    def end_behind(self, birth: Cradle) -> None:
        """Remove a sandbox's container, as somebody with the engine's own command would. (A signal alone does not reach
        what is frozen by cgroup v1.)
        """
        self.ask("DELETE", f"/containers/{name_of(birth.id)}", params={"force": "1"})

    def spec(self, store: Store, **changes: int) -> BootSpec:
        """A small sandbox of the base runtime."""
        sizes = {"memory_mib": 256, "disk_mib": 64, "pids": 256} | changes
        return BootSpec(self.backend, "base", store.resolve("base"), **sizes)


def missing(backend: Backend) -> str:
    """Why there cannot be such an engine here; empty when there can."""
    program = {Backend.DOCKER: "dockerd", Backend.PODMAN: "podman"}[backend]
    if os.geteuid() != 0:
        return "the tests start engines as root only"
    return "" if shutil.which(program) else f"{program} is not installed: make test-tools"


@contextmanager
def container_engine(
    backend: Backend, configure: Callable[[Path], None] = lambda _place: None
) -> Iterator[ContainerEngine]:
    """An engine of one's own. What is in it ends with the block, and so it does when this process is killed.

    Args:
        configure: changes the configuration in the engine's folder before it starts.
    """
    if reason := missing(backend):
        pytest.skip(reason)
    place = Path(tempfile.mkdtemp(prefix=f"{backend}-"))
    place.chmod(0o711)
    argv, environment = {Backend.DOCKER: _docker, Backend.PODMAN: _podman}[backend](place)
    configure(place)
    engine = ContainerEngine(backend, place, argv, environment)
    try:
        engine.start()
        yield engine
    finally:
        _end(engine)
        conftest.KEPT_ROOTS.discard(engine.process.pid)


_SHARED: dict[Backend, ContainerEngine] = {}


def shared_engine(backend: Backend) -> ContainerEngine:
    """The one that this session's tests share, begun by the first and ended with the session: it takes tens of seconds
    until a runtime is imported. Tests leave in it what they found, but for our own images and volume.
    """
    if backend not in _SHARED:
        _SHARED[backend] = conftest.AT_SESSION_END.enter_context(container_engine(backend))
    assert _SHARED[backend].process.poll() is None, f"a test has ended the {backend} that all share"
    return _SHARED[backend]


def _docker(place: Path) -> tuple[list[str], dict[str, str]]:
    limits = {"nofile": {"Name": "nofile", "Soft": 1024, "Hard": OPEN_FILES}}
    (place / "daemon.json").write_text(json.dumps({"default-ulimits": limits}))
    ours = ["--cgroup-parent", f"/{CGROUP}"]
    folders = [*ours, "--data-root", f"{place}/data", "--exec-root", f"{place}/exec", "--pidfile", f"{place}/pid"]
    listens = ["-H", f"unix://{place}/engine.sock", "--config-file", f"{place}/daemon.json"]
    return ["dockerd", *folders, *listens, "--storage-driver", "overlay2", *NETWORK], {}


def _podman(place: Path) -> tuple[list[str], dict[str, str]]:
    (place / "containers.conf").write_text(
        # Soft and hard are the same: this version of podman takes one for the other. runc: crun refuses hosts with both
        # versions of cgroups.
        '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "none"\nruntime = "runc"\n'
        f'[containers]\ndefault_ulimits = ["nofile={OPEN_FILES}:{OPEN_FILES}", "nproc={PROCESSES}:{PROCESSES}"]\n'
    )
    (place / "registries.conf").write_text(
        'unqualified-search-registries = []\n[[registry]]\nlocation = "127.0.0.1"\ninsecure = true\n'
    )
    folders = ["--root", f"{place}/data", "--runroot", f"{place}/r", "--tmpdir", f"{place}/tmp"]
    service = ["system", "service", "--time", "0", f"unix://{place}/engine.sock"]
    environment = {
        "CONTAINERS_CONF": f"{place}/containers.conf",
        "CONTAINERS_REGISTRIES_CONF": f"{place}/registries.conf",
    }
    return ["podman", *folders, "--storage-driver", "overlay", "--cgroup-manager", "cgroupfs", *service], environment


def _die_with_parent() -> None:
    """In the child: end when pytest does, and keep what is orphaned below."""
    library = ctypes.CDLL(None)
    library.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    library.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _wait_until_up(engine: ContainerEngine) -> None:
    deadline = time.monotonic() + UP_S
    while time.monotonic() < deadline and engine.process.poll() is None:
        if engine.socket.is_socket() and _answers(engine.socket):
            return
        time.sleep(0.05)
    raise AssertionError(f"{engine.backend} did not come up: {(engine.place / 'log').read_text()[-2000:]}")


def _answers(path: Path) -> bool:
    """It listens before it answers; and httpx would leave a socket to the garbage collector where nobody listens."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(UP_S)
        try:
            probe.connect(str(path))
            probe.sendall(b"GET /_ping HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n")
            return b" 200 " in probe.recv(4096)
        except OSError:
            return False


def _end(engine: ContainerEngine) -> None:
    """Remove its containers, end it, then whatever of it is left."""
    with suppress(httpx.HTTPError):
        # One that is dead has nothing to say, and a connection that fails leaves a socket to the garbage collector.
        for container in [] if engine.process.poll() is not None else engine.holds()["containers"]:
            engine.ask("DELETE", f"/containers/{container}", params={"force": "1", "v": "1"})
    engine.process.terminate()
    try:
        engine.process.wait(DOWN_S)
    except subprocess.TimeoutExpired:
        engine.process.kill()
        engine.process.wait()
    _kill_orphans(engine.place)
    _remove_cgroups()
    _remove(engine.place)


def _kill_orphans(place: Path) -> None:
    """Shims and monitors of a dead engine name its folders in their arguments, and became our children."""
    deadline = time.monotonic() + DOWN_S
    while left := _orphans(place):
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)
        if time.monotonic() > deadline:
            raise AssertionError(f"processes of {place} do not end: {left}")


def _orphans(place: Path) -> list[int]:
    return [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if int(path.parent.name) != os.getpid() and _mentions(path, str(place).encode())
    ]


def _mentions(path: Path, words: bytes) -> bool:
    try:
        return words in path.read_bytes()
    except OSError:
        return False


def _remove_cgroups() -> None:
    """Empty ones that engines leave behind."""
    for top in (CGROUP, "libpod_parent"):
        for folder in [*Path("/sys/fs/cgroup").glob(top), *Path("/sys/fs/cgroup").glob(f"*/{top}")]:
            for each in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
                with suppress(OSError):
                    each.rmdir()
            with suppress(OSError):
                folder.rmdir()


def _remove(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    if place.exists():
        shutil.rmtree(place)


class Current:
    """The engine of a suite that names it before it runs."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._engine: ContainerEngine | None = None

    @contextmanager
    def ready(self, store: Store) -> Iterator[None]:
        """The base runtime is there, and an engine runs."""
        anyio.run(store.ensure, "base")
        self._engine = shared_engine(self._backend)
        yield

    @property
    def engine(self) -> ContainerEngine:
        """The one that runs."""
        assert self._engine is not None, "no engine runs"
        return self._engine

    def driver(self, store: Store) -> DockerDriver:
        """For it."""
        return self.engine.driver(store)

    def spec(self, store: Store, **changes: int) -> BootSpec:
        """For it."""
        return self.engine.spec(store, **changes)

    def processes(self, birth: Cradle) -> set[str]:
        """Of a sandbox."""
        return self.engine.processes(birth)

    def remains(self, birth: Cradle) -> set[str]:
        """Of a sandbox."""
        return self.engine.remains(birth)

    def end_behind(self, birth: Cradle) -> None:
        """End a sandbox."""
        self.engine.end_behind(birth)
