"""Where an engine is looked for, in which order."""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agentkernel.drivers.docker.endpoint import docker_endpoint, parse, podman_endpoint
from agentkernel.model.errors import Refused, Unsupported


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "run/podman").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def sockets(home: Path) -> Iterator[None]:
    """The usual ones of a user."""
    with ExitStack() as stack:
        for name in ("run/docker.sock", "run/podman/podman.sock"):
            stack.enter_context(socket.socket(socket.AF_UNIX)).bind(str(home / name))
        yield


def environ(home: Path, **more: str) -> dict[str, str]:
    return {"HOME": str(home), "XDG_RUNTIME_DIR": str(home / "run"), **more}


def context(home: Path, name: str, host: str, **endpoint: object) -> None:
    folder = home / ".docker/contexts/meta" / hashlib.sha256(name.encode()).hexdigest()
    folder.mkdir(parents=True)
    meta = {"Name": name, "Endpoints": {"docker": {"Host": host, **endpoint}}}
    (folder / "meta.json").write_text(json.dumps(meta))


@pytest.mark.usefixtures("sockets")
def test_the_configuration_comes_first_then_the_variable_then_the_context_then_the_usual_places(home: Path) -> None:
    context(home, "far", "tcp://far:2375")
    (home / ".docker/config.json").write_text(json.dumps({"currentContext": "far"}))
    named = environ(home, DOCKER_HOST="unix:///of/variable")
    assert docker_endpoint("unix:///of/config", named).socket == "/of/config"
    assert docker_endpoint("", named).socket == "/of/variable"
    assert str(docker_endpoint("", environ(home))) == "tcp://far:2375"
    (home / ".docker/config.json").unlink()
    assert docker_endpoint("", environ(home)).socket in ("/var/run/docker.sock", f"{home}/run/docker.sock")


@pytest.mark.usefixtures("sockets")
def test_podman_has_a_configuration_a_variable_and_places_of_its_own(home: Path) -> None:
    named = environ(home, CONTAINER_HOST="unix:///of/variable", DOCKER_HOST="unix:///of/docker")
    assert podman_endpoint("tcp://h:1", named).port == 1
    assert podman_endpoint("", named).socket == "/of/variable"
    assert podman_endpoint("", environ(home)).socket == f"{home}/run/podman/podman.sock"


def test_an_engine_that_nobody_named_and_that_stands_nowhere_is_unsupported_with_the_places(home: Path) -> None:
    with pytest.raises(Unsupported, match=r"podman\.sock") as refusal:
        podman_endpoint("", environ(home))
    assert "CONTAINER_HOST" in refusal.value.hint


def test_a_context_may_be_named_by_a_variable_and_has_its_certificates(home: Path) -> None:
    context(home, "safe", "tcp://far:2376")
    tls = home / ".docker/contexts/tls" / hashlib.sha256(b"safe").hexdigest() / "docker"
    tls.mkdir(parents=True)
    found = docker_endpoint("", environ(home, DOCKER_CONTEXT="safe"))
    assert found.certificates is not None
    assert (found.certificates.folder, found.certificates.verify) == (tls, True)
    assert "safe" in found.origin


def test_a_context_that_is_not_there_is_refused(home: Path) -> None:
    with pytest.raises(Refused, match="'gone'"):
        docker_endpoint("", environ(home, DOCKER_CONTEXT="gone"))


@pytest.mark.usefixtures("sockets")
def test_a_configuration_that_is_no_json_counts_as_none(home: Path) -> None:
    (home / ".docker").mkdir()
    (home / ".docker/config.json").write_text("{")
    assert docker_endpoint("", environ(home)).socket in ("/var/run/docker.sock", f"{home}/run/docker.sock")


def test_tls_is_asked_for_by_docker_s_own_variables() -> None:
    found = docker_endpoint("", {"DOCKER_HOST": "tcp://h", "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": "/c"})
    assert (found.host, found.port) == ("h", 2376)
    assert found.certificates is not None
    assert (found.certificates.folder, found.certificates.verify) == (Path("/c"), True)
    assert docker_endpoint("", {"DOCKER_HOST": "tcp://h"}).port == 2375


def test_certificates_that_cannot_be_read_are_refused_with_their_folder(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("none")
    found = docker_endpoint("", {"DOCKER_HOST": "tcp://h", "DOCKER_CERT_PATH": str(tmp_path)})
    assert found.certificates is not None
    with pytest.raises(Refused, match=str(tmp_path)):
        found.certificates.context()


@pytest.mark.parametrize("address", ["", "here", "unix://relative", "tcp://", "file:///x", "tcp://h:port", "unix://"])
def test_what_is_no_address_is_refused_with_who_named_it(address: str) -> None:
    with pytest.raises(Refused, match="DOCKER_HOST names"):
        parse(address, "DOCKER_HOST")


@pytest.mark.parametrize("address", ["ssh://user@host", "npipe:////./pipe/docker_engine"])
def test_what_cannot_be_reached_is_unsupported_with_a_way_out(address: str) -> None:
    with pytest.raises(Unsupported) as refusal:
        parse(address, "DOCKER_HOST")
    assert refusal.value.hint
