"""What an image's name means: a file or folder of this host, or a registry's repository. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePath

from agentkernel.model.errors import Refused

TAG = "latest"
"""What a name without one means, as everywhere."""
NAME_MOST = 1024
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?")
_LOOPBACK = re.compile(r"(?:localhost|127(?:\.[0-9]{1,3}){3}|\[::1\])(?::[0-9]+)?")


class Form(StrEnum):
    """How an image lies on this host."""

    DOCKER_ARCHIVE = "docker-archive"
    OCI_ARCHIVE = "oci-archive"
    OCI = "oci"


@dataclass(frozen=True, slots=True)
class Local:
    """An image on this host. `tag` is empty where none was said: then there may be only one image in it."""

    form: Form
    path: PurePath
    tag: str = ""

    def __str__(self) -> str:
        return f"{self.form}:{self.path}" + (f":{self.tag}" if self.tag else "")


@dataclass(frozen=True, slots=True)
class Remote:
    """An image of a registry.

    Attributes:
        registry: host, and port where it has one.
        tag: empty where a digest says it all.
        digest: `sha256:` and 64 digits, or empty.
    """

    registry: str
    repository: str
    tag: str = TAG
    digest: str = ""

    @property
    def is_loopback(self) -> bool:
        """Whether it is this host, which is spoken to without TLS."""
        return _LOOPBACK.fullmatch(self.registry) is not None

    @property
    def wanted(self) -> str:
        """What its manifest is asked for by."""
        return self.digest or self.tag

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.registry}/{self.repository}{tag}" + (f"@{self.digest}" if self.digest else "")


def parse(text: str, default_registry: str = "") -> Local | Remote:
    """Read a name: `docker-archive:FILE`, `oci-archive:FILE[:TAG]`, `oci:DIR[:TAG]`, `NAME[:TAG][@sha256:DIGITS]`.

    Args:
        default_registry: `HOST[:PORT][/NAMESPACE]` for names without a registry; the namespace is for names that have
            none either. Empty refuses such names.

    Raises:
        Refused: it is no name of an image.
    """
    if (
        not text
        or len(text) > NAME_MOST
        or any(ord(sign) < 0x21 or ord(sign) == 0x7F for sign in text.replace(" ", "x"))
    ):
        raise Refused(f"{text[:60]!r} names no image", hint="use docker-archive:FILE, oci:DIR[:TAG] or NAME[:TAG]")
    form, colon, rest = text.partition(":")
    if colon and form in list(Form):
        return _local(Form(form), rest)
    return _remote(text, default_registry)


def absolute(text: str, here: PurePath) -> str:
    """The same name with its path, if it has one, made absolute: for whoever passes it on to another directory."""
    form, colon, rest = text.partition(":")
    return f"{form}:{here / rest}" if colon and rest and form in list(Form) else text


def _local(form: Form, rest: str) -> Local:
    path, colon, tag = rest.rpartition(":")
    if not colon or form is Form.DOCKER_ARCHIVE or not _TAG.fullmatch(tag):
        path, tag = rest, ""
    if not PurePath(path).is_absolute():
        raise Refused(f"{form}:{path} is not an absolute path", hint=f"write {form}:/whole/path")
    return Local(form, PurePath(path), tag)


def _remote(text: str, default_registry: str) -> Remote:
    name, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise Refused(f"{digest[:80]!r} is no digest", hint="a digest is sha256: and 64 hexadecimal digits")
    head, slash, rest = name.partition("/")
    registry, path = (head, rest) if slash and _is_host(head) else ("", name)
    path, colon, tag = path.partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise Refused(f"{tag[:80]!r} is no tag", hint="a tag is letters, digits, dots, dashes and underscores")
    if not registry:
        registry, path = _completed(path, default_registry)
    if not _HOST.fullmatch(registry) or not _REPOSITORY.fullmatch(path) or len(path) > 255:
        raise Refused(
            f"{text[:100]!r} names no image",
            hint="a name is [REGISTRY/]REPOSITORY[:TAG], its repository in lower case; or docker-archive:FILE, oci:DIR",
        )
    return Remote(registry, path, tag if tag or digest else TAG, digest)


def _is_host(word: str) -> bool:
    """A first word with a dot or a port is a host, as the field has it; and so is this one."""
    return "." in word or ":" in word or word == "localhost"


def _completed(path: str, default: str) -> tuple[str, str]:
    if not default:
        raise Refused(
            f"{path[:100]!r} does not say which registry has it",
            hint="write the whole name, REGISTRY/REPOSITORY:TAG, or set images.registry to your default registry; "
            "`agentkernel images list` shows the runtimes that come with agentkernel",
        )
    host, _, namespace = default.partition("/")
    return host, f"{namespace}/{path}" if namespace and "/" not in path else path
