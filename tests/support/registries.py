"""A real registry on loopback, what tests push to it, and a front of it that fails in chosen ways."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import shutil
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from tests.support.layers import INDEX, MANIFEST, Image, index, sha256

USER, PASSWORD = "agent", "two words"
HTPASSWD = "$2y$05$BHbwTYlZZEuXRUvD.GTte.aYmfv.ea6ZKttqLJeKjjRs7AzW9QeRu"
"""Of that password, by bcrypt."""
_CONFIG = """
version: 0.1
log: {{level: info, formatter: text}}
storage: {{filesystem: {{rootdirectory: {data}}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:0"}}
{auth}
"""
_AUTH = "auth: {{htpasswd: {{realm: test, path: {path}}}}}"


@dataclass(frozen=True)
class Registry:
    """Where it listens, and whether it wants a password."""

    host: str
    auth: tuple[str, str] | None = None


def busybox() -> Path:
    """A static busybox."""
    found = shutil.which("busybox")
    if found is None:
        pytest.skip("this host has no busybox; tools/test-tools.sh installs it")
    return Path(found)


@contextmanager
def running_registry(folder: Path, *, password: bool = False) -> Iterator[Registry]:
    """The distribution's docker-registry, with its data below `folder`."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("this host has no docker-registry; tools/test-tools.sh installs it")
    (folder / "htpasswd").write_text(f"{USER}:{HTPASSWD}\n")
    auth = _AUTH.format(path=folder / "htpasswd") if password else ""
    (folder / "config.yml").write_text(_CONFIG.format(data=folder / "data", auth=auth))
    with subprocess.Popen(
        [program, "serve", folder / "config.yml"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as server:
        try:
            assert server.stderr is not None
            said = next((line for line in server.stderr if "listening on" in line), "it ended")
            found = re.search(r"listening on (127\.0\.0\.1:\d+)", said)
            assert found, said
            reader = threading.Thread(target=server.stderr.read)
            reader.start()
            yield Registry(found[1], (USER, PASSWORD) if password else None)
        finally:
            server.kill()
            reader.join()


async def push(registry: Registry, repository: str, tag: str, *images: Image) -> str:
    """Upload by the distribution API; several images become an index. Returns the image's name."""
    base = f"http://{registry.host}/v2/{repository}"
    async with httpx.AsyncClient(auth=registry.auth, trust_env=False, timeout=60) as client:
        for image in images:
            for digest, blob in image.all_blobs().items():
                started = await client.post(f"{base}/blobs/uploads/")
                started.raise_for_status()
                place = httpx.URL(started.headers["location"]).copy_merge_params({"digest": digest})
                (await client.put(place, content=blob)).raise_for_status()
            await _put(client, f"{base}/manifests/{sha256(image.manifest)}", image.manifest, MANIFEST)
        if len(images) > 1:
            await _put(client, f"{base}/manifests/{tag}", index(*images), INDEX)
        else:
            await _put(client, f"{base}/manifests/{tag}", images[0].manifest, MANIFEST)
    return f"{registry.host}/{repository}:{tag}"


async def _put(client: httpx.AsyncClient, url: str, content: bytes, kind: str) -> None:
    (await client.put(url, content=content, headers={"Content-Type": kind})).raise_for_status()


def write_login(folder: Path, host: str, *, user: str = USER, password: str = PASSWORD) -> None:
    """A `config.json` as `docker login` leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    (folder / "config.json").write_text(f'{{"auths": {{"{host}": {{"auth": "{auth}"}}}}}}')


@dataclass
class Asked:
    """One request that the front got."""

    path: str
    headers: dict[str, str]


@dataclass
class Answer:
    """What the front answers. `cut` sends that many bytes of the content and breaks off."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes = b""
    cut: int | None = None


Rule = Callable[[Asked, Callable[[], Answer]], Answer]
"""From a request, and a function that asks the real registry, to an answer."""


class Front:
    """A stand-in for what stands before a registry: passes requests on, or does what a rule says."""

    def __init__(self, registry: Registry | None, rule: Rule) -> None:
        self.registry = registry
        self.rule = rule
        self.asked: list[Asked] = []
        self.host = ""

    def real(self, asked: Asked) -> Answer:
        """What the registry says."""
        assert self.registry is not None
        headers = {key: value for key, value in asked.headers.items() if key in ("accept", "range")}
        request = urllib.request.Request(f"http://{self.registry.host}{asked.path}", headers=headers)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=60) as answer:
                kept = {key: value for key, value in answer.headers.items() if key.lower() not in _HOP}
                return Answer(answer.status, kept, answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, {}, error.read())


_HOP = ("content-length", "connection", "date", "transfer-encoding")


@contextmanager
def front(registry: Registry | None, rule: Rule) -> Iterator[Front]:
    """Listens on loopback for the length of the block."""
    here = Front(registry, rule)

    class Door(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = Asked(self.path, {key.lower(): value for key, value in self.headers.items()})
            here.asked.append(asked)
            answer = here.rule(asked, lambda: here.real(asked))
            self.send_response(answer.status)
            for key, value in answer.headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(answer.content)))
            self.send_header("Connection", "close")
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(answer.content[: answer.cut])
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Door) as server:
        here.host = f"127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield here
        finally:
            server.shutdown()
            thread.join()


def environment_without_logins(folder: Path) -> dict[str, str]:
    """This process's, in which nobody is logged in anywhere."""
    hidden = (
        "DOCKER_CONFIG",
        "XDG_RUNTIME_DIR",
        "REGISTRY_AUTH_FILE",
        "XDG_CONFIG_HOME",
        "AGENTKERNEL_IMAGES_REGISTRY",
    )
    kept = {key: value for key, value in os.environ.items() if key not in hidden}
    return {**kept, "HOME": str(folder)}
