"""Who we are to a registry: the files in which other tools keep passwords, and the challenge of a registry.

Source: containers-auth.json(5) and the Docker client's `config.json`; RFC 9110, 11.3.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentkernel.model.errors import Refused

_FILE_BYTES_MOST = 1 << 20
_PARAMETER = re.compile(r'([A-Za-z][A-Za-z0-9_-]*)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))\s*(?:,|$)\s*')


@dataclass(frozen=True, slots=True)
class Credentials:
    """A name and a password, or a token to get others with. Never part of a message.

    Attributes:
        helper: a program that would know, and that we do not ask.
    """

    user: str = ""
    password: str = ""
    identity_token: str = ""
    helper: str = ""

    def __repr__(self) -> str:
        return "Credentials(...)"

    @property
    def basic(self) -> str:
        """An `Authorization` header; empty without a name."""
        if not self.user:
            return ""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


@dataclass(frozen=True, slots=True)
class Challenge:
    """How a registry wants to be spoken to: `basic` or `bearer`, and what it said with that."""

    scheme: str
    parameters: Mapping[str, str]


def challenges(header: str) -> list[Challenge]:
    """Those of a `WWW-Authenticate` header that we know. Pure."""
    found = []
    for scheme, rest in re.findall(
        r"(?i)\b(basic|bearer)\s+((?:[^\s=,]+\s*=\s*(?:\"(?:[^\"\\]|\\.)*\"|[^\s,\"]+)\s*,?\s*)+)", header
    ):
        parameters = {key.lower(): quoted or plain for key, quoted, plain in _PARAMETER.findall(rest)}
        found.append(Challenge(scheme.lower(), parameters))
    return found


def files(environ: Mapping[str, str]) -> list[Path]:
    """Where credentials may be, the first ones first."""
    home = Path(environ.get("HOME") or "/")
    config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    docker = Path(environ.get("DOCKER_CONFIG") or home / ".docker")
    runtime = environ.get("XDG_RUNTIME_DIR")
    named = environ.get("REGISTRY_AUTH_FILE")
    return [
        *([Path(named)] if named else []),
        *([Path(runtime) / "containers/auth.json"] if runtime else []),
        config / "containers/auth.json",
        docker / "config.json",
    ]


def look_up(registry: str, repository: str, environ: Mapping[str, str]) -> Credentials:
    """What the user's files say of that repository; empty credentials when they say nothing.

    Raises:
        Refused: a file is malformed.
    """
    helper = ""
    for path in files(environ):
        content = _read(path)
        for place in _places(registry, repository):
            if found := _entry(content, place, path):
                return found
        helper = helper or _helper(content, registry)
    return Credentials(helper=helper)


def _places(registry: str, repository: str) -> Iterator[str]:
    """The repository, what is above it, the registry: the nearest says most."""
    parts = repository.split("/")
    for count in range(len(parts), 0, -1):
        yield "/".join((registry, *parts[:count]))
    yield registry


def _entry(content: Mapping[str, Any], place: str, path: Path) -> Credentials | None:
    entries = content.get("auths")
    if not isinstance(entries, dict):
        return None
    for key, entry in entries.items():
        if re.sub(r"^https?://|/(?:v[12]/?)?$", "", key) == place and isinstance(entry, dict):
            token = entry.get("identitytoken") or ""
            user, password = _decoded(entry.get("auth") or "", path)
            user, password = entry.get("username") or user, entry.get("password") or password
            if user or token:
                return Credentials(str(user), str(password), str(token))
    return None


def _decoded(auth: object, path: Path) -> tuple[str, str]:
    try:
        user, _, password = base64.b64decode(str(auth), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise Refused(f"{path} has a malformed `auth`", hint="log in again with the tool that wrote it") from error
    return user, password.rstrip("\0")


def _helper(content: Mapping[str, Any], registry: str) -> str:
    helpers = content.get("credHelpers")
    named = helpers.get(registry) if isinstance(helpers, dict) else None
    return str(named or content.get("credsStore") or "")


def _read(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(_FILE_BYTES_MOST))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return {}
    except (ValueError, RecursionError) as error:
        raise Refused(
            f"{path} is malformed: {error}", hint="mend it, or log in again with the tool that wrote it"
        ) from error
    return content if isinstance(content, dict) else {}
