"""The whole way, from the package archive."""

import stat
import subprocess
import time

import pytest

from agentkernel.images import cpio
from agentkernel.images.store import Store
from agentkernel.model.errors import NotFound, Refused

pytestmark = pytest.mark.anyio

OF_PACKAGES = ["go", "rust", "ruby", "java", "c"]
"""Made as python is, of more packages; node is made of a wheel."""


def run(*argv: str) -> str:
    """Output of a program that must succeed."""
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


async def test_qemu_is_new_enough_and_runs_from_its_tree(store):
    tool = await store.tool("qemu")
    assert tuple(map(int, tool.version.split(".")[:2])) >= (7, 2)
    said = run(*tool.command, "--version")
    assert tool.version in said
    assert (tool.root / tool.path.lstrip("/")).is_file()


async def test_the_kernel_is_an_elf_file_and_the_initramfs_carries_agent_and_modules(store, agent):
    kernel = await store.kernel()
    assert kernel.image.read_bytes()[:4] == b"\x7fELF"
    archive = kernel.initramfs.read_bytes()
    assert cpio.regular("init", agent.read_bytes(), 0o755).content in archive
    assert b"modules/erofs.ko\0" in archive
    assert b"modules/order\0" in archive


async def test_a_second_store_finds_everything_at_once(store, environment):
    first = await store.tool("qemu")
    began = time.monotonic()
    assert await Store(environment).tool("qemu") == first
    assert time.monotonic() - began < 0.3


async def test_a_runtime_resolves_in_two_milliseconds(store):
    store.resolve("python")
    began = time.monotonic()
    for _ in range(50):
        store.resolve("python")
    assert (time.monotonic() - began) / 50 < 0.002


async def test_two_stores_resolve_alike(store, environment):
    assert store.resolve("python") == Store(environment).resolve("python")
    assert store.resolve("python") != store.resolve("base")


async def test_an_unknown_runtime_lists_the_known_ones(store):
    with pytest.raises(NotFound) as caught:
        store.resolve("cobol")
    assert "python" in caught.value.hint


async def test_an_unknown_digest_is_not_found(store):
    with pytest.raises(NotFound):
        await store.root("0" * 64)


async def test_a_malformed_recipe_spoils_only_itself(own):
    store = Store(own)
    recipes = store.state / "recipes"
    recipes.mkdir(parents=True)
    (recipes / "bad.toml").write_text("packages = 3")
    with pytest.raises(Refused, match="bad"):
        store.resolve("bad")
    with pytest.raises(NotFound):
        await store.root("0" * 64)
    assert store.resolve("base")


async def test_an_image_that_is_removed_comes_back_under_another_name(own):
    store = Store(own)
    before = store.resolve("base")
    store.refresh("base")
    assert store.resolve("base") != before


async def test_a_blank_disk_is_sparse_and_a_good_file_system(store):
    path = await store.blank_disk(512)
    facts = path.stat()
    assert facts.st_size == 512 << 20
    assert facts.st_blocks * 512 < 4 << 20
    assert not stat.S_IMODE(facts.st_mode) & 0o022
    assert await store.blank_disk(512) == path
    superblock = path.read_bytes()[1024:2048]
    assert superblock[0x38:0x3A] == b"\x53\xef"
    assert superblock[0x78:0x88].rstrip(b"\0") == b"agentkernel"


@pytest.mark.parametrize("directory", ["workspace", "scratch"])
async def test_a_blank_disk_has_the_directories_that_a_sandbox_owns(store, directory):
    path, debugfs = await store.blank_disk(512), await store.tool("debugfs")
    told = run(*debugfs.command, "-R", f"stat {directory}", str(path)).split()
    assert told[told.index("Type:") + 1] == "directory"
    assert (told[told.index("User:") + 1], told[told.index("Group:") + 1]) == ("1000", "1000")


async def test_a_blank_disk_leaves_no_tables_for_a_guest_to_clear(store):
    with (await store.blank_disk(512)).open("rb") as disk:
        disk.seek(4096)
        groups = disk.read(512 // 128 * 64)
    zeroed = 0x4  # EXT4_BG_INODE_ZEROED, in the flags of each group's descriptor of 64 bytes
    assert all(int.from_bytes(groups[at + 0x12 : at + 0x14], "little") & zeroed for at in range(0, len(groups), 64))


@pytest.mark.parametrize("mib", [0, -1, 1 << 21])
async def test_a_disk_of_an_impossible_size_is_refused(store, mib):
    with pytest.raises(Refused):
        await store.blank_disk(mib)


async def test_python_is_built_and_verified(store):
    digest = await store.ensure("python")
    path = await store.root(digest)
    assert path.read_bytes()[1024:1028] == b"\xe2\xe1\xf5\xe0"
    assert [runtime.built for runtime in store.runtimes() if runtime.name in ("base", "python")] == [True, True]
    assert await store.verify() == []


async def test_owners_modes_and_files_in_an_image_are_as_they_should_be(store, tmp_path):
    path = await store.root(await store.ensure("python"))
    extract = (await store.tool("fsck.erofs")).command
    tree = tmp_path / "tree"
    run(*extract, "-d0", f"--extract={tree}", str(path))
    passwd = (tree / "etc/passwd").read_text()
    assert "sandbox:x:1000:1000::/home/sandbox:/bin/bash" in passwd
    for name in ("machine-id", "hostname", "resolv.conf"):
        assert (tree / "etc" / name).read_bytes() == b""
    for name in ("workspace", "scratch", "home/sandbox"):
        assert (tree / name).is_dir()
    for program in ("git", "curl", "less", "unzip", "busybox", "ps", "python", "python3", "pip"):
        assert (tree / "usr/bin" / program).exists() or (tree / "usr/bin" / program).is_symlink()
    modes = path.with_name("modes").read_text()
    assert "4755 usr/bin/su" in modes
    assert not list((tree / "var/lib/apt/lists").glob("*_*"))


@pytest.mark.parametrize(
    "runtime", ["base", "python", "node", *(pytest.param(name, marks=pytest.mark.deep) for name in OF_PACKAGES)]
)
async def test_every_recipe_builds_and_passes_its_checks(store, runtime):
    assert (await store.root(await store.ensure(runtime))).stat().st_size > 50 << 20


@pytest.mark.deep
async def test_a_check_that_fails_fails_the_build_with_its_words(environment, tmp_path):
    recipes = tmp_path / "home" / "recipes"
    recipes.mkdir(parents=True)
    (recipes / "bad.toml").write_text('from = "base"\nchecks = [["sh", "-c", "echo it is not there >&2; exit 3"]]')
    store = Store(environment | {"AGENTKERNEL_HOME": str(tmp_path / "home")})
    with pytest.raises(Exception, match="this check of the recipe failed") as caught:
        await store.ensure("bad")
    assert "it is not there" in str(caught.value.__cause__.output)
