"""Where an engine listens: what the user configured, what its own tools would take, the usual places.

Nothing is ever taken from the current directory.
"""

from __future__ import annotations

import hashlib
import json
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from agentkernel.model.errors import Refused, Unsupported

TLS_PORT = 2376
PLAIN_PORT = 2375


@dataclass(frozen=True, slots=True)
class Certificates:
    """What a TLS engine is checked by, and what it checks us by.

    Attributes:
        folder: holds `ca.pem`, `cert.pem`, `key.pem`, whichever are there.
        verify: whether the engine has to prove who it is.
    """

    folder: Path
    verify: bool

    def context(self) -> ssl.SSLContext:
        """Raises Refused for files that cannot be read."""
        authority, own, key = (self.folder / name for name in ("ca.pem", "cert.pem", "key.pem"))
        try:
            context = ssl.create_default_context(cafile=str(authority) if authority.is_file() else None)
            if not self.verify:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if own.is_file():
                context.load_cert_chain(own, key)
        except (OSError, ssl.SSLError) as err:
            raise Refused(
                f"the certificates in {self.folder} cannot be used: {err}", hint="mend DOCKER_CERT_PATH or the context"
            ) from err
        return context


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address of an engine.

    Attributes:
        socket: a Unix socket; empty where `host` and `port` are not.
        origin: what named it, for messages.
    """

    origin: str
    socket: str = ""
    host: str = ""
    port: int = 0
    certificates: Certificates | None = None

    def __str__(self) -> str:
        return f"unix://{self.socket}" if self.socket else f"tcp://{self.host}:{self.port}"


def parse(address: str, origin: str, certificates: Certificates | None = None) -> Endpoint:
    """`unix:///PATH`, `tcp://HOST[:PORT]`, `http://…`, `https://…`.

    Raises:
        Refused: it is none of these.
        Unsupported: a kind that we cannot use.
    """
    parts = urlsplit(address)
    match parts.scheme:
        case "unix":
            path = parts.netloc + parts.path
            if path.startswith("/"):
                return Endpoint(origin, socket=path)
        case "ssh":
            raise Unsupported(
                f"{origin} names {address}: engines are not reached over ssh",
                hint="forward its socket: ssh -L /tmp/engine.sock:/var/run/docker.sock HOST, and name unix:///tmp/engine.sock",
            )
        case "npipe":
            raise Unsupported(f"{origin} names {address}: named pipes are not supported", hint="use a tcp address")
        case "tcp" | "http" | "https" if parts.hostname:
            secure = certificates is not None or parts.scheme == "https"
            checked = certificates or (Certificates(Path("/nonexistent"), verify=True) if secure else None)
            try:
                port = parts.port or (TLS_PORT if secure else PLAIN_PORT)
            except ValueError as err:
                raise Refused(f"{origin} names {address}: {err}", hint="tcp://HOST:PORT") from err
            return Endpoint(origin, host=parts.hostname, port=port, certificates=checked)
    raise Refused(f"{origin} names {address!r}, which is no engine's address", hint="unix:///PATH or tcp://HOST:PORT")


def docker_endpoint(configured: str, environ: Mapping[str, str]) -> Endpoint:
    """The engine that the docker command would use, unless our configuration names one.

    Raises:
        Unsupported: nobody named one and none stands in the usual places.
        Refused: what names it is of no use.
    """
    if configured:
        return parse(configured, "[docker] host", _certificates(environ))
    if address := environ.get("DOCKER_HOST"):
        return parse(address, "DOCKER_HOST", _certificates(environ))
    if found := _context(environ):
        return found
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    places = [
        "/var/run/docker.sock",
        f"{runtime}/docker.sock" if runtime else "",
        _home(environ, ".docker/run/docker.sock"),
    ]
    return _usual(
        places, "Docker", "start it (systemctl start docker), or say where it is: DOCKER_HOST, or [docker] host"
    )


def podman_endpoint(configured: str, environ: Mapping[str, str]) -> Endpoint:
    """The engine that `podman --remote` would use, unless our configuration names one. Raises as `docker_endpoint`."""
    if configured:
        return parse(configured, "[podman] host")
    if address := environ.get("CONTAINER_HOST"):
        return parse(address, "CONTAINER_HOST")
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    places = [f"{runtime}/podman/podman.sock" if runtime else "", "/run/podman/podman.sock"]
    return _usual(
        places, "Podman", "systemctl --user start podman.socket, or say where it is: CONTAINER_HOST, or [podman] host"
    )


def _usual(places: list[str], name: str, remedy: str) -> Endpoint:
    looked = [place for place in places if place.startswith("/")]
    for place in looked:
        try:
            there = Path(place).is_socket()
        except PermissionError:
            there = True  # somebody may say so when it is used
        if there:
            return Endpoint("the usual place", socket=place)
    raise Unsupported(f"{name}'s API socket is not there (looked at {', '.join(looked)})", hint=remedy)


def _certificates(environ: Mapping[str, str]) -> Certificates | None:
    verify, folder = environ.get("DOCKER_TLS_VERIFY", ""), environ.get("DOCKER_CERT_PATH", "")
    if not verify and not folder:
        return None
    return Certificates(Path(folder or _home(environ, ".docker")), verify=bool(verify))


def _home(environ: Mapping[str, str], below: str) -> str:
    home = environ.get("HOME", "")
    return f"{home}/{below}" if home.startswith("/") else ""


def _context(environ: Mapping[str, str]) -> Endpoint | None:
    """The docker command's current context. None where it is the default one."""
    folder = Path(environ.get("DOCKER_CONFIG") or _home(environ, ".docker") or "/nonexistent")
    name = environ.get("DOCKER_CONTEXT") or str(_json(folder / "config.json").get("currentContext") or "")
    if name in ("", "default"):
        return None
    for identity, meta in _contexts(folder):
        if meta.get("Name") == name:
            endpoint = meta.get("Endpoints", {}).get("docker", {})
            certificates = folder / "contexts/tls" / identity / "docker"
            skip = bool(endpoint.get("SkipTLSVerify"))
            tls = Certificates(certificates, verify=not skip) if certificates.is_dir() or skip else None
            return parse(str(endpoint.get("Host", "")), f"the docker context {name!r}", tls)
    raise Refused(f"the docker context {name!r} is not there", hint="docker context ls, or unset DOCKER_CONTEXT")


def _contexts(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Identity and content of each context's `meta.json`. The identity is the SHA-256 of its name."""
    for path in sorted((folder / "contexts/meta").glob("*/meta.json")):
        meta = _json(path)
        yield hashlib.sha256(str(meta.get("Name", "")).encode()).hexdigest(), meta


def _json(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}
