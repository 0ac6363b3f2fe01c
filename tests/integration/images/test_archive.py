"""Packages are what the archive signed, or they are not used."""

import subprocess
from pathlib import Path

import pytest

from agentkernel.images.packages import PrivateApt, debian_architecture
from agentkernel.images.progress import silent
from agentkernel.images.sources import FALLBACK, choose, distribution_of, read_host
from agentkernel.images.store import Store
from agentkernel.model.errors import Refused

pytestmark = pytest.mark.anyio


@pytest.fixture
def apt(tmp_path, environment) -> PrivateApt:
    distribution = distribution_of(read("/etc/os-release"))
    return PrivateApt(tmp_path / "apt", choose(read_host(), distribution, environment), distribution or FALLBACK)


def read(path: str) -> str:
    return Path(path).read_text()


def unsigned_archive(folder: Path, architecture: str) -> str:
    """An archive whose lists are well-formed and that nobody signed; returns its address."""
    binary = folder / "debian/dists/bookworm/main" / f"binary-{architecture}"
    binary.mkdir(parents=True)
    (binary / "Packages").write_text("")
    (folder / "debian/dists/bookworm/Release").write_text("Origin: Debian\nSuite: stable\nCodename: bookworm\n")
    return f"file://{folder}/debian"


async def test_an_archive_that_nobody_signed_is_refused(own, environment, tmp_path):
    own["AGENTKERNEL_MIRROR"] = unsigned_archive(tmp_path, await debian_architecture())
    with pytest.raises(Refused, match="signature did not verify") as caught:
        await Store(own).tool("qemu")
    assert "never used" in caught.value.hint


async def test_a_package_of_the_hosts_archive_is_fetched_and_checked(apt):
    await apt.update(silent, "test")
    closure = await apt.closure(["busybox-static"])
    paths = await apt.fetch(closure, silent, "test")
    assert [path.name for path in paths] == [package.file for package in closure.packages]
    assert all(len(package.sha256) == 64 for package in closure.packages)
    assert not list(paths[0].parent.glob("*.lock"))


async def test_a_package_that_was_changed_in_the_cache_is_fetched_again(apt):
    await apt.update(silent, "test")
    closure = await apt.closure(["busybox-static"])
    (path,) = await apt.fetch(closure, silent, "test")
    good = path.read_bytes()
    path.write_bytes(good[:-1] + b"X")
    (path,) = await apt.fetch(closure, silent, "test")
    assert path.read_bytes() == good


async def test_the_hosts_own_package_state_is_not_touched(apt):
    def state() -> str:
        command = "stat -c '%n %Y' /var/lib/apt/lists /var/cache/apt /var/lib/dpkg /var/lib/dpkg/status"
        return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False).stdout

    before = state()
    await apt.update(silent, "test")
    await apt.fetch(await apt.closure(["less"]), silent, "test")
    assert state() == before


async def test_one_package_that_does_not_exist_is_named(apt):
    await apt.update(silent, "test")
    with pytest.raises(Exception, match="no-such-package-anywhere"):
        await apt.closure(["no-such-package-anywhere"])
