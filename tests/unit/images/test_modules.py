from agentkernel.images import modules


def module(depends: str = "", soft: str = "") -> bytes:
    text = b"\x7fELFcode license=GPL\0depends=" + depends.encode() + b"\0"
    return text + (b"softdep=" + soft.encode() + b"\0" if soft else b"") + b"name=x\0"


def order(wanted, files):
    return modules.load_order(wanted, files.get)


def test_a_module_comes_after_what_it_needs():
    files = {"virtio_blk": module("virtio"), "virtio": module("virtio_ring"), "virtio_ring": module()}
    assert order(["virtio_blk"], files) == ["virtio_ring", "virtio", "virtio_blk"]


def test_each_module_is_there_once():
    files = {"a": module("c"), "b": module("c"), "c": module()}
    assert order(["a", "b", "a"], files) == ["c", "a", "b"]


def test_soft_dependencies_come_first_and_only_those_before():
    files = {"ext4": module("mbcache", "pre: crc32c post: late"), "mbcache": module(), "crc32c_generic": module()}
    assert order(["ext4"], files) == ["crc32c_generic", "mbcache", "ext4"]


def test_what_is_built_in_or_unknown_is_left_out():
    assert order(["virtio_console", "erofs"], {"erofs": module("libcrc32c")}) == ["erofs"]


def test_dashes_and_underscores_name_the_same_module():
    assert order(["virtio-rng"], {"virtio_rng": module("rng-core"), "rng_core": module()}) == ["rng_core", "virtio_rng"]


def test_a_circle_ends():
    assert sorted(order(["a"], {"a": module("b"), "b": module("a")})) == ["a", "b"]


def test_a_word_that_only_ends_in_depends_is_not_a_dependency():
    assert modules.needs(b"x\0mydepends=evil\0depends=good\0") == ["good"]
