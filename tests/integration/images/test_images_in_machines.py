"""Images by name, run in a real microVM as they ask to be run: SPECIFICATION's promises about `--image`."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from tests.support.gvisor import gvisor_driver, gvisor_ready
from tests.support.layers import Image, hard_link, member, symlink, tar, write_docker_archive, write_layout
from tests.support.machines import Ran, booted, prepare, qemu_driver, run, shell, store_at
from tests.support.registries import Registry, busybox, push, running_registry

from agentkernel.drivers.contract import Driver
from agentkernel.images.store import Store
from agentkernel.model.kinds import Feature
from agentkernel.model.spec import BootSpec, ImageFacts

pytestmark = [pytest.mark.vm, pytest.mark.anyio]

TOP = Path(__file__).parents[3]
PASSWD = b"root:x:0:0:root:/root:/bin/sh\napp:x:1234:1235:an app:/srv/app:/bin/sh\n"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Everything that a microVM boots from."""
    made = store_at(tmp_path_factory.mktemp("state"))
    prepare(made)
    return made


@pytest.fixture(scope="module", params=["qemu", "gvisor"])
def driver(request: pytest.FixtureRequest, store: Store) -> Driver:
    """Each driver that boots from our root file systems, as the daemon makes it."""
    if request.param == "gvisor":
        with gvisor_ready(store):
            made: Driver = gvisor_driver(store)
    else:
        made = qemu_driver(store)
    verdict = anyio.run(made.probe)
    if not verdict.usable:
        end = pytest.fail if request.param in request.config.getoption("--require-driver") else pytest.skip
        end(f"{request.param}: {verdict.reason}; {verdict.remedy}")
    return made


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory):
    """A real registry on this host's loopback."""
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def look(tmp_path: Path) -> Path:
    """A static program."""
    compiler = subprocess.run([TOP / "tools/cc.sh"], capture_output=True, text=True, check=True).stdout
    source = Path(__file__).with_name("look.c")
    subprocess.run([*shlex.split(compiler), "-static", "-o", tmp_path / "look", source], check=True)
    return tmp_path / "look"


@pytest.fixture
def forget(store: Store):
    """Names of images that go with the test."""
    return []


@pytest.fixture(autouse=True)
async def _forgotten(store: Store, forget: list[str]) -> AsyncIterator[None]:
    yield
    for name in forget:
        await store.library.remove(name)


async def quiet(_line: str) -> None:
    """Told nobody."""


async def found(driver: Driver, name: str, forget: list[str]) -> ImageFacts:
    """The image, which is forgotten after the test."""
    facts = await driver.image(name, quiet)
    forget.append(name)
    return facts


def spec_of(driver: Driver, name: str, facts: ImageFacts) -> BootSpec:
    """A small sandbox of that image."""
    return BootSpec(
        driver.backend, "", facts.digest, driver.vmm, memory_mib=256, disk_mib=64, pids=256, image_name=name
    )


async def as_it_says(guest, facts: ImageFacts, *argv: str) -> Ran:
    """The image's own entry point, or a command in its place, with its environment, in its directory, as its user."""
    env = tuple(f"{name}={value}".encode() for name, value in facts.env.items())
    words = (*facts.entrypoint, *(argv or facts.command))
    return await run(guest, *words, env=env, cwd=facts.cwd or "/", user=facts.user)


def alpine_like() -> Image:
    """One static busybox with its names, a user, and what Alpine has at these places."""
    tools = ("sh", "ls", "cat", "id", "env", "pwd", "touch", "stat")
    below = tar(
        member("bin/"),
        member("bin/busybox", busybox().read_bytes(), mode=0o755),
        *(symlink(f"bin/{name}", "/bin/busybox") for name in tools),
        member("etc/"),
        member("etc/passwd", PASSWD),
        member("etc/group", b"root:x:0:\napp:x:1235:\nextra:x:77:app\n"),
        member("etc/secret", b"of the first layer"),
        member("tmp/", mode=0o1777),
    )
    above = tar(
        member("etc/.wh.secret"),
        member("srv/app/", uid=1234, gid=1235),
        member("srv/app/mine", b"mine", uid=1234, gid=1235, mode=0o600),
        hard_link("srv/app/again", "srv/app/mine"),
        member("bin/as-root", busybox().read_bytes()[:100], mode=0o4755),
    )
    start = {
        "User": "app",
        "Env": ["PATH=/bin", "COLOUR=blue sky"],
        "WorkingDir": "/srv/app/work",
        "Entrypoint": ["/bin/sh", "-c"],
        "Cmd": ["id; pwd; echo $COLOUR"],
    }
    return Image([below, above], start, how="zstd")


async def test_an_alpine_like_image_of_a_registry_runs_as_it_says(driver, store, registry: Registry, forget, tmp_path):
    assert Feature.IMAGES in driver.capabilities
    name = await push(registry, "alpine-like", "3", alpine_like())
    facts = await found(driver, name, forget)
    async with booted(driver, spec_of(driver, name, facts), tmp_path) as machine:
        said = await as_it_says(machine.guest, facts)
        assert said.code == 0, said.stderr
        who, *rest = said.text.splitlines()
        assert who.startswith("uid=1234(app) gid=1235(app) groups=")
        assert set(who.partition("groups=")[2].split(",")) == {"77(extra)", "1235(app)"}  # gVisor does not sort them
        assert rest == ["/srv/app/work", "blue sky"]
        files = await as_it_says(machine.guest, facts, "ls -ln /srv/app /bin/as-root; cat ../again; ls /etc/secret")
        assert "of the first layer" not in files.text
        assert b"/etc/secret: No such file" in files.stderr
        assert "-rw-------    2 1234     1235" in files.text
        assert "-rwsr-xr-x    1 0        0" in files.text
        other = await shell(machine.guest, "id -u; touch /workspace/x /scratch/y /tmp/z && echo written")
        assert other.text.splitlines() == ["1000", "written"]
        root = await run(machine.guest, "/bin/id", "-u", user="root", cwd="/")
        assert root.text == "0"


async def test_a_debian_like_image_of_docker_save_runs_as_it_says(driver, store, forget, tmp_path):
    buffer = bytearray()
    async with store.archive(store.resolve("base")) as chunks:
        async for chunk in chunks:
            buffer += chunk
    above = tar(
        member("etc/passwd", PASSWD + b"deb:x:500:500::/srv:/bin/bash\n"), member("srv/hello", b"echo hello $1\n")
    )
    start = {"User": "500:500", "Env": ["PATH=/usr/bin:/bin"], "WorkingDir": "/srv", "Entrypoint": ["bash", "hello"]}
    name = write_docker_archive(Image([bytes(buffer), above], {**start, "Cmd": ["world"]}), tmp_path / "debian.tar")
    facts = await found(driver, name, forget)
    async with booted(driver, spec_of(driver, name, facts), tmp_path) as machine:
        assert (await as_it_says(machine.guest, facts)).text == "hello world"
        assert (await as_it_says(machine.guest, facts, "you")).text == "hello you"
        who = await shell(machine.guest, "id -u; stat -c %a:%u /usr/bin/passwd; dpkg -s bash | head -1", user="deb")
        assert who.text.splitlines() == ["500", "4755:0", "Package: bash"]


async def test_a_distroless_like_image_of_a_layout_runs_as_it_says(driver, look, forget, tmp_path):
    layer = tar(member("look", look.read_bytes(), mode=0o555))
    start = {
        "User": "65532",
        "Env": ["COLOUR=none at all"],
        "WorkingDir": "/data",
        "Entrypoint": ["/look"],
        "Cmd": ["at"],
    }
    name = write_layout(Image([layer], start), tmp_path / "layout")
    facts = await found(driver, name, forget)
    async with booted(driver, spec_of(driver, name, facts), tmp_path) as machine:
        said = await as_it_says(machine.guest, facts)
        assert said.text == "uid=65532 gid=65532 cwd=/data colour=none at all at"
        assert (await as_it_says(machine.guest, facts, *"12345678 9")).code == 9
        assert (await run(machine.guest, "/bin/sh", "-c", "true", cwd="/")).refusal
        await machine.guest.write_file("/workspace/given", b"content")
        assert await machine.guest.read_file("/workspace/given") == b"content"
