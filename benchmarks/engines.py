"""What sandboxes are compared with: an engine's own way to run a command in something that runs already."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
from common import HERE

from agentkernel.model.kinds import Backend

# The tests start private engines, and end them with all that they made.
sys.path.append(str(HERE.parent))
from tests.support.container_engines import ContainerEngine, container_engine, missing

Action = Callable[[], None]
COMMAND = ["/bin/busybox", "true"]
HOLD = ["/bin/busybox", "sleep", "3600"]
API = "http://engine/v1.41"
RUNSC = ("--platform=systrap", "--network=none", "--ignore-cgroups", "--overlay2=root:memory")
UP_S = 20.0
CLIENTS: Mapping[Backend, Callable[[str], list[str]]] = {
    Backend.DOCKER: lambda address: ["docker", "--host", address],
    Backend.PODMAN: lambda address: ["podman", "--remote", "--url", address],
}


@dataclass
class Engines:
    """Container engines of one's own.

    Attributes:
        running: by backend; the others are not usable here.
        why_not: a line for each of those.
    """

    running: dict[Backend, ContainerEngine]
    why_not: list[str]

    def config(self) -> str:
        """What a daemon has to be told to find them."""
        return "\n".join(f'[{backend}]\nhost = "{engine.address}"' for backend, engine in self.running.items())


@contextmanager
def engines() -> Iterator[Engines]:
    """Start what is installed; everything in it ends with the block."""
    found = Engines({}, [])
    with ExitStack() as stack:
        for backend in (Backend.DOCKER, Backend.PODMAN):
            if reason := missing(backend):
                found.why_not.append(f"{backend}: skipped, {reason}")
            else:
                found.running[backend] = stack.enter_context(container_engine(backend))
        yield found


@contextmanager
def engine_exec(engine: ContainerEngine, image: str) -> Iterator[dict[str, Action]]:
    """Run `COMMAND` by the engine's API, and by its command line if that is installed, in a plain container.

    Args:
        image: its name or id there.
    """
    transport = httpx.HTTPTransport(uds=str(engine.socket))
    with httpx.Client(transport=transport, base_url=API, trust_env=False, timeout=60) as client:
        container = _container(client, image)
        try:
            yield _ways(engine, client, container)
        finally:
            client.delete(f"/containers/{container}", params={"force": "1", "v": "1"})


def _container(client: httpx.Client, image: str) -> str:
    body = {"Image": image, "Cmd": HOLD, "Entrypoint": [], "User": "0", "HostConfig": {"NetworkMode": "none"}}
    container = str(_asked(client, "/containers/create", body)["Id"])
    client.post(f"/containers/{container}/start").raise_for_status()
    return container


def _ways(engine: ContainerEngine, client: httpx.Client, container: str) -> dict[str, Action]:
    def by_api() -> None:
        body = {"Cmd": COMMAND, "AttachStdout": True, "AttachStderr": True}
        made = _asked(client, f"/containers/{container}/exec", body)["Id"]
        client.post(f"/exec/{made}/start", json={"Detach": False, "Tty": False}).raise_for_status()
        if json.loads(client.get(f"/exec/{made}/json").content)["ExitCode"] != 0:
            raise RuntimeError(f"{engine.backend}: the engine's own exec failed")

    ways: dict[str, Action] = {f"{engine.backend}: Engine API exec": by_api}
    argv = CLIENTS[engine.backend](engine.address)
    if shutil.which(argv[0]):
        ways[f"{engine.backend}: command line exec"] = lambda: _run([*argv, "exec", container, *COMMAND])
    return ways


def _asked(client: httpx.Client, path: str, body: Mapping[str, object]) -> dict[str, object]:
    answer = client.post(path, json=body)
    answer.raise_for_status()
    return dict(answer.json())


@contextmanager
def runsc_exec(program: Path, image: Path) -> Iterator[dict[str, Action]]:
    """Run `COMMAND` by `runsc exec` in a container of the same root file system, without our agent or our limits.

    Args:
        program: runsc.
        image: the root file system.
    """
    with tempfile.TemporaryDirectory(prefix="agentkernel-bench-") as place:
        bundle = Path(place) / "bundle"
        (bundle / "rootfs").mkdir(parents=True)
        (bundle / "config.json").write_text(json.dumps(_plain_bundle(image)))
        runsc = [str(program), "--root", f"{place}/state", *RUNSC]
        running = subprocess.Popen([*runsc, "run", "--bundle", str(bundle), "peer"], stdin=subprocess.DEVNULL)
        try:
            _until(lambda: _run([*runsc, "exec", "peer", *COMMAND]), running)
            yield {"gvisor: runsc exec": lambda: _run([*runsc, "exec", "peer", *COMMAND])}
        finally:
            with suppress(subprocess.CalledProcessError):
                _run([*runsc, "kill", "peer", "KILL"])
            with suppress(subprocess.TimeoutExpired):
                running.wait(UP_S)
            running.kill()
            running.wait()


def _plain_bundle(image: Path) -> dict[str, object]:
    kind = "dev.gvisor.spec.rootfs"
    return {
        "ociVersion": "1.0.2",
        "process": {"user": {"uid": 0, "gid": 0}, "args": HOLD, "env": [], "cwd": "/", "capabilities": {}},
        "root": {"path": "rootfs"},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "annotations": {f"{kind}.source": str(image), f"{kind}.type": "erofs", f"{kind}.overlay": "memory"},
        "linux": {"namespaces": [{"type": each} for each in ("pid", "ipc", "uts", "mount", "network")]},
    }


def _until(action: Action, running: subprocess.Popen[bytes]) -> None:
    """Repeat until it succeeds, while that process runs."""
    deadline_s = time.monotonic() + UP_S
    while True:
        try:
            return action()
        except subprocess.CalledProcessError:
            if running.poll() is not None or time.monotonic() > deadline_s:
                raise
        time.sleep(0.1)


def _run(argv: list[str]) -> None:
    subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, check=True)
