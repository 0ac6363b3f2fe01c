"""Images pulled from a real registry on loopback, and from a front of it that fails in chosen ways."""

from __future__ import annotations

import io
import json
import os
import stat
import tarfile
import threading
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from tests.support.layers import Image, member, sha256, tar, write_docker_archive, write_layout, write_oci_archive
from tests.support.registries import (
    Answer,
    Asked,
    Registry,
    environment_without_logins,
    front,
    push,
    running_registry,
    write_login,
)

from agentkernel.images.oci import library, reference, registry
from agentkernel.images.store import Store
from agentkernel.model.errors import Busy, Denied, NotFound, Refused

pytestmark = pytest.mark.anyio
ENV = {"Env": ["A=b"], "User": "7"}


def image(*names: str, how: str = "gzip", **changes) -> Image:
    """One layer for each name, with a file of it."""
    return Image([tar(member(name, name.encode() * 50_000)) for name in names], ENV, how, **changes)


@pytest.fixture(scope="module")
def open_registry(tmp_path_factory: pytest.TempPathFactory):
    """For everybody."""
    with running_registry(tmp_path_factory.mktemp("open")) as running:
        yield running


@pytest.fixture(scope="module")
def closed_registry(tmp_path_factory: pytest.TempPathFactory):
    """With a password."""
    with running_registry(tmp_path_factory.mktemp("closed"), password=True) as running:
        yield running


@pytest.fixture(scope="module")
def session(environment) -> Path:
    """A data folder that has the tools."""
    data = os.environ.get("AGENTKERNEL_DATA") or environment["AGENTKERNEL_DATA"]
    anyio.run(Store({**environment, "AGENTKERNEL_DATA": data}).tool, "mkfs.erofs")
    return Path(data)


@pytest.fixture
def environ(session: Path, tmp_path: Path) -> dict[str, str]:
    """A user who is logged in nowhere, with the session's tools on a shelf of the test's own."""
    data = tmp_path / "data"
    data.mkdir()
    for name in ("CACHEDIR.TAG", "tools", "generations"):
        if (session / name).exists():
            (data / name).symlink_to(session / name)
    return {
        **environment_without_logins(tmp_path),
        "AGENTKERNEL_DATA": str(data),
        "AGENTKERNEL_HOME": str(tmp_path / "ak"),
    }


async def pull(environ: dict[str, str], name: str, told: list[str] | None = None, **how):
    """By a store that was just opened."""
    lines = [] if told is None else told
    store = Store(environ)
    if how:
        return await store.library.pulled(name, lambda stage, detail, *_: lines.append(f"{stage}: {detail}"), **how)

    async def tell(line: str) -> None:
        lines.append(line)

    return await store.pulled(name, tell)


def left(environ: dict[str, str]) -> list[str]:
    """Images, layers and unfinished things on the shelf."""
    data = Path(environ["AGENTKERNEL_DATA"])
    return [f"{kind}/{path.name[:5]}" for kind in ("images", "layers", "names") for path in (data / kind).glob("*")]


async def asked_for(environ: dict[str, str], name: str):
    """What the registry says there is, without fetching it."""
    remote = reference.parse(name)
    assert isinstance(remote, reference.Remote)
    async with registry.opened(remote, environ) as opened:
        return await opened.image("x86_64")


async def test_an_image_is_pulled_told_and_remembered(environ, open_registry: Registry):
    told: list[str] = []
    name = await push(open_registry, "some/where", "1.2", image("a", "b"))
    facts = await pull(environ, name, told)
    assert (facts.env, facts.user) == ({"A": "b"}, "7")
    assert any("fetch layer 1 of 2, 100 % of 0 MiB" in line or "fetch layer" in line for line in told)
    assert any("unpack layer 2 of 2" in line for line in told)
    store = Store(environ)
    assert (await store.root(facts.digest)).is_file()
    assert [(each.name, each.digest) for each in store.library.images()] == [(name, facts.digest)]
    gone = name.replace(open_registry.host, "127.0.0.1:1")
    store.library._names.put(gone, facts.digest)
    assert await store.library.pulled(gone, lambda *_: None) == facts  # nobody is asked for what is here


async def test_layers_that_images_share_are_fetched_once(environ, open_registry: Registry):
    def passed_on(_asked: Asked, real) -> Answer:
        return real()

    await push(open_registry, "shared", "1", image("below", "one"))
    await push(open_registry, "shared", "2", image("below", "two"))
    with front(open_registry, passed_on) as before:
        one = await pull(environ, f"{before.host}/shared:1")
        two = await pull(environ, f"{before.host}/shared:2")
    assert one.digest != two.digest
    layers = [asked.path for asked in before.asked if "/blobs/" in asked.path]
    assert len(layers) == 5  # two configurations, and three layers
    assert len(set(layers)) == 5


async def test_a_new_version_is_taken_when_it_is_asked_for(environ, open_registry: Registry):
    name = await push(open_registry, "moving", "latest", image("one"))
    first = await pull(environ, name)
    await push(open_registry, "moving", "latest", image("two"))
    assert await pull(environ, name) == first
    second = await pull(environ, name, fresh=True)
    assert second.digest != first.digest
    assert await pull(environ, name) == second


async def test_the_image_for_this_processor_is_taken(environ, open_registry: Registry):
    name = await push(open_registry, "both", "1", image("arm", architecture="arm64"), image("intel"))
    assert (await asked_for(environ, name)).layers == (await asked_for(environ, name)).layers
    other = await push(open_registry, "other", "1", image("arm", architecture="arm64"))
    with pytest.raises(Refused, match="is for linux/arm64"):
        await pull(environ, other)
    assert left(environ) == []
    assert await pull(environ, name)


async def test_a_digest_names_one_image_for_good(environ, open_registry: Registry):
    name = await push(open_registry, "fixed", "1", image("one"))
    digest = (await asked_for(environ, name)).digest
    await push(open_registry, "fixed", "1", image("two"))
    assert (await asked_for(environ, f"{name}@{digest}")).digest == digest
    with pytest.raises(NotFound):
        await asked_for(environ, f"{name}@sha256:{'0' * 64}")


async def test_a_registry_with_a_password(environ, closed_registry: Registry, tmp_path):
    name = await push(closed_registry, "mine", "1", image("x"))
    with pytest.raises(Denied) as caught:
        await asked_for(environ, name)
    assert "log in" in caught.value.hint
    write_login(tmp_path / ".docker", closed_registry.host, password="wrong")
    with pytest.raises(Denied):
        await asked_for(environ, name)
    write_login(tmp_path / ".docker", closed_registry.host)
    assert await asked_for(environ, name)
    assert await pull(environ, name)


@pytest.mark.parametrize("name", ["nothing/here:1", "there:2"])
async def test_what_is_not_there_is_not_found(environ, open_registry: Registry, name):
    await push(open_registry, "there", "1", image("x"))
    with pytest.raises(NotFound) as caught:
        await pull(environ, f"{open_registry.host}/{name}")
    assert caught.value.hint
    assert left(environ) == []


async def test_a_registry_that_is_not_there_is_busy(environ, monkeypatch):
    monkeypatch.setattr(registry, "PAUSE_S", 0.01)
    with pytest.raises(Busy, match=r"127\.0\.0\.1:1 does not answer"):
        await pull(environ, "127.0.0.1:1/a")
    assert left(environ) == []


async def test_a_transfer_that_breaks_off_is_resumed(environ, open_registry: Registry, monkeypatch):
    monkeypatch.setattr(registry, "PAUSE_S", 0.01)
    await push(open_registry, "big", "1", Image([tar(member("big", os.urandom(3 << 20)))]))
    cuts = [1 << 20, 1 << 20]

    def cut(asked: Asked, real) -> Answer:
        answer = real()
        if cuts and len(answer.content) > 1 << 20:
            answer.cut = cuts.pop()
        return answer

    with front(open_registry, cut) as before:
        assert await pull(environ, f"{before.host}/big:1")
    ranges = [asked.headers.get("range") for asked in before.asked if "/blobs/" in asked.path]
    assert ranges[-2:] == [f"bytes={1 << 20}-", f"bytes={2 << 20}-"]


async def test_a_registry_that_stumbles_is_asked_again_and_not_for_ever(environ, open_registry: Registry, monkeypatch):
    monkeypatch.setattr(registry, "PAUSE_S", 0.01)
    await push(open_registry, "slow", "1", image("x"))
    stumbles = [503, 429, 502]
    with front(open_registry, lambda _, real: Answer(stumbles.pop()) if stumbles else real()) as before:
        assert await pull(environ, f"{before.host}/slow:1")
    with front(open_registry, lambda *_: Answer(503)) as down, pytest.raises(Busy, match="status 503"):
        await pull(environ, f"{down.host}/slow:1")
    assert len(down.asked) == registry.TRIES


def spoiled(kind: str):
    """A rule that changes a byte of what the registry sends of that kind."""

    def rule(asked: Asked, real) -> Answer:
        answer = real()
        found = "manifest" if "/manifests/" in asked.path else "config" if answer.content.startswith(b"{") else "layer"
        if found == kind:
            answer.content = answer.content[:-2] + bytes((answer.content[-2] ^ 1,)) + answer.content[-1:]
        return answer

    return rule


@pytest.mark.parametrize("kind", ["manifest", "config", "layer"])
async def test_what_is_not_what_its_digest_says_is_refused_and_not_kept(environ, open_registry: Registry, kind):
    name = await push(open_registry, "spoiled", "1", image("x"))
    digest = (await asked_for(environ, name)).digest
    with front(open_registry, spoiled(kind)) as before, pytest.raises(Refused):
        await pull(environ, f"{before.host}/spoiled@{digest}")
    assert left(environ) == []
    with front(open_registry, lambda _, real: real()) as before:
        assert await pull(environ, f"{before.host}/spoiled@{digest}")


async def test_a_layer_longer_than_its_manifest_says_is_stopped(environ, open_registry: Registry):
    await push(open_registry, "long", "1", image("x"))

    def longer(asked: Asked, real) -> Answer:
        answer = real()
        answer.content += b"more" if "/blobs/" in asked.path and not answer.content.startswith(b"{") else b""
        return answer

    with front(open_registry, longer) as before, pytest.raises(Refused, match="larger than its manifest says"):
        await pull(environ, f"{before.host}/long:1")


async def test_a_manifest_without_end_is_stopped(environ):
    with (
        front(None, lambda *_: Answer(200, content=b" " * (5 << 20))) as before,
        pytest.raises(Refused, match="more than"),
    ):
        await pull(environ, f"{before.host}/endless:1")


async def test_a_token_is_fetched_and_sent(environ, open_registry: Registry, tmp_path):
    await push(open_registry, "tokens", "1", image("x"))

    def guarded(asked: Asked, real) -> Answer:
        if asked.path.startswith("/token?"):
            good = asked.headers.get("authorization", "").startswith("Basic ") and "scope=repository" in asked.path
            return Answer(200, content=json.dumps({"token": "abc"}).encode()) if good else Answer(401)
        if asked.headers.get("authorization") == "Bearer abc":
            return real()
        scope = 'scope="repository:tokens:pull"'
        return Answer(401, {"WWW-Authenticate": f'Bearer realm="http://{before.host}/token",service="me",{scope}'})

    with front(open_registry, guarded) as before:
        with pytest.raises(Denied):
            await asked_for(environ, f"{before.host}/tokens:1")
        write_login(tmp_path / ".docker", before.host)
        assert await pull(environ, f"{before.host}/tokens:1")


async def test_credentials_are_not_sent_to_where_a_registry_redirects(environ, open_registry: Registry, tmp_path):
    await push(open_registry, "away", "1", image("x"))
    with front(open_registry, lambda _, real: real()) as storage:

        def redirecting(asked: Asked, real) -> Answer:
            if "authorization" not in asked.headers:
                return Answer(401, {"WWW-Authenticate": 'Basic realm="here"'})
            if "/blobs/" in asked.path:
                return Answer(307, {"Location": f"http://{storage.host}{asked.path}"})
            return real()

        with front(open_registry, redirecting) as before:
            write_login(tmp_path / ".docker", before.host)
            assert await pull(environ, f"{before.host}/away:1")
        assert any("authorization" in asked.headers for asked in before.asked)
        assert storage.asked
        assert not any("authorization" in asked.headers for asked in storage.asked)


@pytest.mark.parametrize("to", ["http://registry.invalid/x", "ftp://127.0.0.1/x", "file:///etc/passwd"])
async def test_a_redirect_to_what_is_not_protected_is_refused(environ, to):
    with front(None, lambda *_: Answer(302, {"Location": to})) as before, pytest.raises(Refused, match="not protected"):
        await pull(environ, f"{before.host}/a")


async def test_a_token_is_not_asked_for_where_that_is_not_protected(environ):
    header = {"WWW-Authenticate": 'Bearer realm="http://registry.invalid/token"'}
    with front(None, lambda *_: Answer(401, header)) as before, pytest.raises(Refused, match="not protected"):
        await pull(environ, f"{before.host}/a")


async def test_redirects_in_circles_end(environ):
    with front(None, lambda *_: Answer(302, {"Location": "/again"})) as before, pytest.raises(Refused, match="circles"):
        await pull(environ, f"{before.host}/a")
    assert len(before.asked) == registry.REDIRECTS_MOST + 1


# --- images on this host ---


@pytest.mark.parametrize("write", [write_layout, write_oci_archive, write_docker_archive])
async def test_every_form_on_this_host_is_the_same_image(environ, tmp_path, write):
    name = write(image("a", "b"), tmp_path / "there")
    facts = await pull(environ, name)
    assert facts.env == {"A": "b"}
    store = Store(environ)
    assert await store.library.remove(name) > 0
    with pytest.raises(NotFound):
        await store.library.remove(name)
    assert not [each for each in left(environ) if each.startswith("images")]


async def test_an_archive_that_changes_is_another_image(environ, tmp_path):
    name = write_docker_archive(image("a"), tmp_path / "x.tar")
    first = await pull(environ, name)
    assert await pull(environ, name) == first
    write_docker_archive(image("b"), tmp_path / "x.tar")
    assert (await pull(environ, name)).digest != first.digest


async def test_a_damaged_layout_is_refused_and_leaves_nothing(environ, tmp_path):
    made = image("a")
    name = write_layout(made, tmp_path / "there")
    layer = tmp_path / "there/blobs" / sha256(made.blobs[0]).replace(":", "/")
    content = layer.read_bytes()
    layer.write_bytes(content[:-20] + b"x" * 20)
    with pytest.raises(Refused, match="not taken"):
        await pull(environ, name)
    assert left(environ) == []
    layer.write_bytes(content)
    assert await pull(environ, name)


async def test_what_is_no_archive_is_refused_in_words(environ, tmp_path):
    (tmp_path / "text").write_text("text" * 1000)
    (tmp_path / "gz").write_bytes(b"\x1f\x8b" + b"x" * 1000)
    os.mkfifo(tmp_path / "pipe")
    for name, error, words in (
        (f"docker-archive:{tmp_path}/missing", NotFound, "there is no"),
        (f"docker-archive:{tmp_path}/text", Refused, "no image archive"),
        (f"docker-archive:{tmp_path}/gz", Refused, "compressed as a whole"),
        (f"docker-archive:{tmp_path}/pipe", Refused, "no file"),
        (f"docker-archive:{tmp_path}", Refused, "a folder"),
        (f"oci:{tmp_path}/text", Refused, "no folder"),
        (f"oci:{tmp_path}", NotFound, "index.json"),
        ("docker-archive:relative", Refused, "absolute"),
        ("short", Refused, "which registry"),
    ):
        with pytest.raises(error, match=words) as caught:
            await pull(environ, name)
        assert caught.value.hint


async def test_a_tag_chooses_among_images_of_a_layout(environ, tmp_path):
    name = write_layout(image("a"), tmp_path / "there")
    assert await pull(environ, f"{name}:latest")
    with pytest.raises(Refused, match="no image with the tag v9"):
        await pull(environ, f"{name}:v9")


async def test_prune_keeps_what_a_name_leads_to_and_drops_layers(environ, open_registry: Registry, tmp_path):
    kept = await push(open_registry, "kept", "1", image("kept"))
    facts = await pull(environ, kept)
    gone = await pull(environ, write_docker_archive(image("gone"), tmp_path / "gone.tar"))
    (tmp_path / "gone.tar").unlink()
    store = Store(environ)
    current = store._in_use()
    assert facts.digest in current["images"]
    assert gone.digest not in current["images"]
    assert current["layers"] == set()


async def test_the_default_registry_is_what_the_configuration_says(environ, open_registry: Registry):
    await push(open_registry, "library/short", "1", image("x"))
    configuration = Path(environ["AGENTKERNEL_HOME"]) / "config.toml"
    configuration.parent.mkdir()
    configuration.write_text(f'[images]\nregistry = "{open_registry.host}/library"\n')
    assert await pull(environ, "short:1")
    assert await pull({**environ, "AGENTKERNEL_IMAGES_REGISTRY": open_registry.host}, "library/short:1")


async def test_layers_that_were_not_used_for_long_go_when_there_are_too_many(environ, open_registry, monkeypatch):
    one = await push(open_registry, "evicted", "1", image("one"))
    two = await push(open_registry, "evicted", "2", image("two"))
    monkeypatch.setattr(library, "LAYERS_CAP_BYTES", 0)
    await pull(environ, one)
    assert len([each for each in left(environ) if each.startswith("layers")]) == 1  # somebody may be about to unpack it
    monkeypatch.setattr(library, "LAYER_IN_USE_S", -60)
    await pull(environ, two)
    assert not [each for each in left(environ) if each.startswith("layers")]


async def test_a_pulled_image_is_a_tar_stream_for_an_engine(environ, tmp_path):
    layer = tar(
        member("bin/su", b"su", mode=0o4755), member("srv/x", b"x", uid=70_000, gid=5), member("bad\nname", mode=0o4777)
    )
    facts = await pull(environ, write_docker_archive(Image([layer]), tmp_path / "x.tar"))
    content = bytearray()
    async with Store(environ).archive(facts.digest) as chunks:
        async for chunk in chunks:
            content += chunk
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        assert stat.S_IMODE(archive.getmember("./bin/su").mode) == 0o4755
        assert (archive.getmember("./srv/x").uid, archive.getmember("./srv/x").gid) == (70_000, 5)
        assert stat.S_IMODE(archive.getmember("./bad\nname").mode) == 0o777  # no line of `modes` can hold its name
        assert archive.getmember("./tmp").mode == 0o1777


async def test_a_pull_that_is_given_up_leaves_nothing_and_the_next_one_works(environ, open_registry: Registry):
    await push(open_registry, "given-up", "1", Image([tar(member("big", os.urandom(1 << 20)))]))
    asked_for_layer, go_on = threading.Event(), threading.Event()

    def stalling(asked: Asked, real) -> Answer:
        answer = real()
        if len(answer.content) > 1 << 20 and not go_on.is_set():
            asked_for_layer.set()
            go_on.wait(30)
        return answer

    with front(open_registry, stalling) as before:
        async with anyio.create_task_group() as group:
            group.start_soon(pull, environ, f"{before.host}/given-up:1")
            await anyio.to_thread.run_sync(asked_for_layer.wait)
            group.cancel_scope.cancel()
        assert left(environ) == []
        go_on.set()
        assert await pull(environ, f"{before.host}/given-up:1")
