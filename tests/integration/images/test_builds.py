"""Dockerfiles, built by the real buildah; and the commands that a person types."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from tests.integration.images.test_commands import command
from tests.support.container_engines import container_engine, missing
from tests.support.layers import Image, member, tar, write_layout
from tests.support.registries import busybox

from agentkernel.images.oci import builder
from agentkernel.images.store import Store
from agentkernel.model.errors import NotFound, Refused, Unsupported
from agentkernel.model.kinds import Backend

pytestmark = pytest.mark.anyio

DOCKERFILE = """
FROM scratch
COPY busybox /bin/sh
COPY busybox /bin/cat
RUN echo made by RUN > /made
ENV COLOUR=green
USER 5:6
WORKDIR /w
ENTRYPOINT ["/bin/cat"]
CMD ["/made"]
"""


@pytest.fixture
def own(environment, tmp_path: Path) -> dict[str, str]:
    """An environment with a shelf of the test's own, and the session's tools on it."""
    data = Path(os.environ.get("AGENTKERNEL_DATA") or environment["AGENTKERNEL_DATA"])
    (tmp_path / "data").mkdir()
    for name in ("CACHEDIR.TAG", "tools", "generations"):
        if (data / name).exists():
            (tmp_path / "data" / name).symlink_to(data / name)
    return {**os.environ, "AGENTKERNEL_DATA": str(tmp_path / "data"), "AGENTKERNEL_HOME": str(tmp_path / "home")}


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A folder with a Dockerfile."""
    folder = tmp_path / "context"
    folder.mkdir()
    shutil.copy(busybox(), folder / "busybox")
    (folder / "Dockerfile").write_text(DOCKERFILE)
    return folder


def silent(*_: object) -> None:
    """Shows nothing."""


async def test_a_dockerfile_becomes_an_image_by_name(own, context, tmp_path):
    if shutil.which("buildah") is None:
        pytest.skip("this host has no buildah; tools/test-tools.sh installs it")
    store, told = Store(own), []
    facts = await store.library.built(context, "mine:1", lambda stage, detail, *_: told.append(detail))
    assert (facts.user, facts.cwd, facts.entrypoint, facts.command) == ("5:6", "/w", ("/bin/cat",), ("/made",))
    assert facts.env["COLOUR"] == "green"
    assert any("RUN echo" in line for line in told)
    assert await store.library.pulled("mine:1", silent) == facts
    assert facts.digest in store._in_use()["images"]
    assert list((tmp_path / "data/builds").iterdir()) == []
    (context / "Dockerfile").write_text(DOCKERFILE + "RUN false\n")
    with pytest.raises(Refused, match="does not build"):
        await store.library.built(context, "mine:1", silent)
    assert list((tmp_path / "data/builds").iterdir()) == []
    assert await store.library.pulled("mine:1", silent) == facts
    listed = command(own, "images", "list")
    assert [line.split()[0] for line in listed.stdout.splitlines()][-1] == "mine:1"
    assert "freed" in command(own, "images", "remove", "mine:1").stdout
    with pytest.raises(NotFound):
        await store.library.remove("mine:1")


async def test_without_a_builder_the_remedy_is_named(own, context, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(Unsupported) as caught:
        await Store(own).library.built(context, "mine", silent)
    assert "install buildah" in caught.value.hint


async def test_what_is_not_to_be_built_is_refused(own, context, tmp_path):
    library = Store(own).library
    for folder, name, words in ((tmp_path, "mine", "no Dockerfile"), (context, "oci:/x", "names a file")):
        with pytest.raises(Refused, match=words):
            await library.built(folder, name, silent)


def test_images_are_pulled_listed_and_removed_by_name(own, tmp_path):
    name = write_layout(Image([tar(member("x", b"x"))]), tmp_path / "layout")
    assert command(own, "images", "pull", name).returncode == 0
    assert name in command(own, "images", "list").stdout
    assert command(own, "images", "remove", name).returncode == 0
    again = command(own, "images", "remove", name)
    assert again.returncode == 125
    assert "there is no" in again.stderr
    refused = command(own, "images", "pull", "short")
    assert (refused.returncode, "images.registry" in refused.stderr) == (125, True)
    assert command(own, "images", "build", "--from", str(tmp_path)).returncode == 2


async def test_docker_builds_where_buildah_is_not(own, context, monkeypatch, tmp_path):
    if reason := missing(Backend.DOCKER):
        pytest.skip(reason)
    docker = shutil.which("docker")
    known = {"docker": docker}
    (context / "Dockerfile").write_text(DOCKERFILE.replace("RUN echo made by RUN > /made\n", ""))
    with container_engine(Backend.DOCKER) as engine:
        monkeypatch.setenv("DOCKER_HOST", engine.address)
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
        real = shutil.which
        monkeypatch.setattr(
            builder.shutil,
            "which",
            lambda name, *more, **how: known.get(name) if name in ("docker", "buildah") else real(name),
        )
        facts = await Store(own).library.built(context, "mine", silent)
    assert (facts.user, facts.cwd, facts.entrypoint, facts.command) == ("5:6", "/w", ("/bin/cat",), ("/made",))
