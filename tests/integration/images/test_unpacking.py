"""Layers unpacked for real, in the private namespaces: as root, and as a user with subordinate ids."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tarfile
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.layers import hard_link, member, packed, sha256, symlink, tar
from tests.support.trees import Model, Step, layer_of, steps

from agentkernel.images import namespace
from agentkernel.images.oci.layers import Limits

CAPABILITY = "\x01\x00\x00\x02\x00\x04" + "\x00" * 14
"""cap_net_bind_service, effective, as the kernel stores it (linux/capability.h, VFS_CAP_REVISION_2)."""


@pytest.fixture(autouse=True)
def _as_root():
    if os.geteuid() != 0:
        pytest.skip("looks at foreign owners from outside of the namespace, which takes root")


def plainly(command) -> list[str]:
    """Run a command; its lines."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as done:
        assert done.stdout is not None
        lines = done.stdout.read().splitlines()
    assert done.returncode == 0
    return lines


def unpacked(
    folder: Path, layers, how: str = "tar", *, config=None, limits=None, run=plainly, **changes
) -> tuple[Path, dict]:
    """Run the program as `unpacking` does; the tree, and the last thing that it said."""
    tree = folder / "tree"
    tree.mkdir()
    lying = []
    for number, layer in enumerate(layers):
        blob = packed(layer, how)
        (folder / f"layer{number}").write_bytes(blob)
        facts = {"path": str(folder / f"layer{number}"), "diff_id": sha256(layer), "digest": sha256(blob)}
        lying.append({**facts, "size": len(blob), **changes})
    said = {"cwd": "", "user": "", **(config or {}), "limits": asdict(limits or Limits())}
    (folder / "job").write_text(json.dumps({"tree": str(tree), "layers": lying, **said}))
    program = [sys.executable, "-P", "-m", "agentkernel.images.oci.unpack", folder / "job"]
    command = [*namespace.entry(), "sh", namespace.script(), "run", *program]
    return tree, json.loads(run(command)[-1])


def refused(folder: Path, *layers: bytes, **changes) -> str:
    """Why it was."""
    _, said = unpacked(folder, layers, **changes)
    return said["refused"]


@pytest.mark.parametrize("how", ["tar", "gzip", "zstd"])
def test_owners_modes_links_and_attributes_are_kept(tmp_path, how):
    below = tar(
        member("etc/passwd", b"app:x:7:8::/:\n", mode=0o640, uid=7, gid=70_000),
        member("bin/su", b"su", mode=0o4755),
        member("bin/ping", b"ping", mode=0o755, pax_headers={"SCHILY.xattr.security.capability": CAPABILITY}),
        member("var/spool/", mode=0o3777, gid=8),
        member("pipe", type=tarfile.FIFOTYPE),
        member("dev/sda", type=tarfile.BLKTYPE, devmajor=8),
        symlink("link", "/nowhere"),
        hard_link("bin/su2", "bin/su"),
        member("holes", bytes(1 << 20)),
    )
    tree, said = unpacked(tmp_path, [below], how, config={"cwd": "/deep/work", "user": "app"})
    assert said["done"]["user"] == "app"
    assert said["done"]["devices"] == 1
    passwd, su = (tree / "etc/passwd").stat(), (tree / "bin/su").stat()
    assert (passwd.st_uid, passwd.st_gid, stat.S_IMODE(passwd.st_mode)) == (7, 70_000, 0o640)
    assert (stat.S_IMODE(su.st_mode), su.st_nlink, int(su.st_mtime)) == (0o4755, 2, 1_600_000_000)
    assert os.getxattr(tree / "bin/ping", "security.capability") == CAPABILITY.encode("latin-1")
    assert stat.S_IMODE((tree / "var/spool").stat().st_mode) == 0o3777
    assert (tree / "link").readlink() == Path("/nowhere")
    assert (tree / "pipe").is_fifo()
    assert not (tree / "dev/sda").exists()
    assert (tree / "holes").stat().st_blocks == 0
    assert sorted(said["done"]["modes"]) == ["1777 tmp", "3777 var/spool", "4755 bin/su", "4755 bin/su2"]
    for name, owner in (("deep/work", 0), ("workspace", 1000), ("scratch", 1000), ("proc", 0), ("tmp", 0)):
        assert (tree / name).stat().st_uid == owner


def test_a_whiteout_takes_from_below_alone_wherever_it_stands(tmp_path):
    below = tar(member("a/old"), member("a/both", b"old"), member("b/x"), member("c/d/e"), member("keep"))
    above = tar(
        *(
            member("a/both", b"new"),
            member("a/.wh.both"),
            member("a/.wh.old"),
            member("b/new"),
            member("b/.wh..wh..opq"),
        ),
        *(member(".wh.c"), member("c/new"), member(".wh.never-there"), member("no/where/.wh.x")),
    )
    tree, said = unpacked(tmp_path, [below, above])
    assert "done" in said
    found = sorted(str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file())
    assert found == ["a/both", "b/new", "c/new", "keep"]
    assert (tree / "a/both").read_text() == "new"


def test_links_lead_around_within_the_tree_and_never_out_of_it(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("untouched")
    up = "../" * 30
    hostile = tar(
        symlink("absolute", str(outside)),
        symlink("relative", f"{up}{str(outside)[1:]}"),
        member(f"{str(outside)[1:]}/"),
        member("absolute/file", b"through the link"),
        member("relative/file2", b"through the link"),
    )
    emptying = tar(member("absolute/.wh..wh..opq"), member("relative/.wh.file"))
    tree, said = unpacked(tmp_path, [hostile])
    assert "done" in said
    inside = tree / str(outside)[1:]
    assert (inside / "file").read_bytes() == (inside / "file2").read_bytes() == b"through the link"
    (tmp_path / "again").mkdir()
    tree, said = unpacked(tmp_path / "again", [hostile, emptying])
    assert list((tree / str(outside)[1:]).iterdir()) == []
    assert (outside / "file").read_text() == "untouched"
    assert [path.name for path in outside.iterdir()] == ["file"]


def test_a_hard_link_cannot_make_a_file_of_the_host_writable(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    name = str(victim)[1:]
    assert "cannot be made" in refused(tmp_path, tar(symlink("out", str(tmp_path)), hard_link("a", "out/victim")))
    (tmp_path / "b").mkdir()
    assert "cannot be made" in refused(tmp_path / "b", tar(hard_link("a", name)))
    (tmp_path / "c").mkdir()
    tree, _ = unpacked(tmp_path / "c", [tar(member(name, b"own"), hard_link("a", name), member("x/y"))])
    assert (tree / "a").read_bytes() == b"own"
    assert victim.read_text() == "untouched"


def test_the_unpacker_has_given_up_what_it_does_not_need(tmp_path):
    tree = tmp_path / "tree"
    (tree / "proc").mkdir(parents=True)
    probe = f"""
import ctypes, os, sys
from agentkernel.images.oci.unpack import confine
libc = ctypes.CDLL(None, use_errno=True)
status = os.open("/proc/self/status", os.O_RDONLY)
before = os.listdir("/")
confine({str(tree)!r})
for line in os.read(status, 1 << 16).decode().splitlines():
    if line.split(":")[0] in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs"):
        print(*line.split())
print("before", "etc" in before, "after", os.listdir("/"))
for call in (lambda: os.chroot("/proc"), lambda: os.mknod("/x", 0o20600, os.makedev(1, 3))):
    try:
        call()
        print("could")
    except PermissionError:
        print("could not")
print("mount", libc.mount(b"none", b"/proc", b"tmpfs", 0, None), "up", os.path.exists("/../../etc"))
"""
    (tmp_path / "probe.py").write_text(probe)
    program = [sys.executable, "-P", tmp_path / "probe.py"]
    lines = plainly([*namespace.entry(), "sh", namespace.script(), "run", *program])
    kept = f"{sum(1 << number for number in (0, 1, 3, 4, 31)):016x}"
    said = dict(line.split(": ", 1) for line in lines[:6])
    assert said["CapPrm"] == said["CapEff"] == said["CapBnd"] == kept
    assert said["CapInh"] == said["CapAmb"] == "0" * 16
    assert said["NoNewPrivs"] == "1"
    assert lines[6:] == ["before True after ['proc']", "could not", "could not", "mount -1 up False"]


@pytest.mark.parametrize(
    ("layers", "why"),
    [
        ([tar(member("../x"))], "leads up"),
        ([tar(member("/x"))], "absolute"),
        ([tar(member("a"), member("a"))], "twice"),
        ([tar(member("a"), member("a/b"))], "cannot be made"),
        ([tar(symlink("a", "b"), symlink("b", "a"), member("a/c"))], "cannot be made"),
        ([tar(symlink("a", "nowhere"), member("a/c"))], "cannot be made"),
        ([tar(member("a/"), hard_link("b", "a"))], "no file"),
        ([tar(member("proc", b"x"))], "no directory"),
        ([tar(symlink("sys", "/etc"), member("etc/"))], "no directory"),
        ([tar(symlink("tmp", "nowhere"))], "no directory"),
        ([tar(member("a")), tar(member("b"))[:300]], "layer 2 of 2"),
        ([b"not a layer" * 100], "layer 1 of 1"),
    ],
)
def test_a_hostile_layer_is_refused_in_words(tmp_path, layers, why):
    assert why in refused(tmp_path, *layers)


def test_a_layer_that_is_not_what_its_digest_says_is_refused(tmp_path):
    layer = tar(member("a"))
    assert "has the digest" in refused(tmp_path, layer, diff_id=sha256(b"other"))
    (tmp_path / "b").mkdir()
    assert "has the digest" in refused(tmp_path / "b", layer, digest=sha256(b"other"))
    (tmp_path / "c").mkdir()
    assert "done" in unpacked(tmp_path / "c", [layer], digest="")[1]


@pytest.mark.parametrize("how", ["gzip", "zstd"])
def test_a_bomb_is_refused_before_anything_of_it_is_written(tmp_path, how):
    why = refused(tmp_path, tar(member("zeros", bytes(64 << 20))), how=how, limits=Limits(1 << 20, 10))
    assert "more than" in why
    assert list((tmp_path / "tree").iterdir()) == []


def test_a_full_disk_is_told_from_a_fault_of_the_image(tmp_path):
    def on_a_small_disk(command) -> list[str]:
        at = command.index(sys.executable)
        mount = ["sh", "-c", 'mount -t tmpfs -o size=1m tmpfs "$0" && exec "$@"', str(tmp_path / "tree")]
        return plainly([*command[:at], *mount, *command[at:]])

    _, said = unpacked(tmp_path, [tar(member("a", b"x")), tar(member("b", b"x" * (3 << 20)))], run=on_a_small_disk)
    assert said == {"full": "layer 2 of 2"}


def test_a_bomb_behind_the_archives_end_is_refused(tmp_path):
    why = refused(tmp_path, tar(member("a")) + bytes(64 << 20), how="gzip", limits=Limits(1 << 20, 10))
    assert "behind its end" in why


@pytest.mark.parametrize("how", ["gzip", "zstd"])
def test_damaged_compression_is_refused(tmp_path, how):
    blob = packed(tar(member("a", os.urandom(5000))), how)
    (tmp_path / "x").mkdir()
    for number, broken in enumerate((blob[:-20], blob[:300] + b"\0\0\0\0" + blob[304:])):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert refused(folder, broken, how="tar", digest="")


def test_a_tower_of_directories_is_refused_or_taken_but_ends(tmp_path):
    deep = "d/" * 250
    links = [symlink("s0", deep), *(symlink(f"s{n}", f"s{n - 1}/{deep}") for n in range(1, 4))]
    tower = [tar(member(deep), links[0], member(f"s0/{deep}"), links[1], member(f"s1/{deep}"))]
    _, said = unpacked(tmp_path, [*tower, tar(member(".wh.d"))])
    assert "done" in said or "refused" in said


def in_a_user_namespace(command) -> list[str]:
    """Run a command where there are 65,536 ids and no rights outside, as a user with subordinate ids has it."""
    enter = ["unshare", "--user", "sh", "-c", 'echo ready; read -r go; exec "$@"', "sh"]
    with subprocess.Popen([*enter, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as done:
        assert done.stdin is not None
        assert done.stdout is not None
        assert done.stdout.readline() == "ready\n"
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{done.pid}/{name}").write_text("0 0 65536\n")
        done.stdin.write("go\n")
        done.stdin.flush()
        return done.stdout.read().splitlines()


def test_a_user_with_subordinate_ids_unpacks_what_they_reach_and_is_told_what_not(tmp_path):
    facts = {
        "uid": 1234,
        "gid": 65_000,
        "mode": 0o4755,
        "pax_headers": {"SCHILY.xattr.security.capability": CAPABILITY},
    }
    layer = tar(member("etc/x", b"x", **facts))
    tree, said = unpacked(tmp_path, [layer], run=in_a_user_namespace)
    assert "4755 etc/x" in said["done"]["modes"]
    assert ((tree / "etc/x").stat().st_uid, (tree / "etc/x").stat().st_gid) == (1234, 65_000)
    (tmp_path / "b").mkdir()
    why = refused(tmp_path / "b", tar(member("far", uid=3_000_000)), run=in_a_user_namespace)
    assert "'far' belongs to 3000000:0, beyond this user's subordinate ids" in why


@settings(max_examples=150, deadline=None)
@given(st.lists(steps(), min_size=1, max_size=4))
def test_any_layers_become_the_tree_that_a_simple_model_has(tmp_path_factory, layers: list[list[Step]]):
    folder = tmp_path_factory.mktemp("model")
    model = Model()
    good = all(model.apply(layer) for layer in layers)
    tree, said = unpacked(folder, [layer_of(layer) for layer in layers])
    assert ("done" in said) is good, said
    if good:
        assert Model.of(tree) == model.listing()
