from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkernel.images.oci.reference import Form, Local, Remote, absolute, parse
from agentkernel.model.errors import Refused

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("docker-archive:/a/b.tar", Local(Form.DOCKER_ARCHIVE, PurePosixPath("/a/b.tar"))),
        ("docker-archive:/a/b:c", Local(Form.DOCKER_ARCHIVE, PurePosixPath("/a/b:c"))),
        ("oci:/a/b", Local(Form.OCI, PurePosixPath("/a/b"))),
        ("oci:/a/b:v1", Local(Form.OCI, PurePosixPath("/a/b"), "v1")),
        ("oci:/a:b/c", Local(Form.OCI, PurePosixPath("/a:b/c"))),
        ("oci-archive:/a/with space.tar:v1", Local(Form.OCI_ARCHIVE, PurePosixPath("/a/with space.tar"), "v1")),
        ("reg.example/a/b", Remote("reg.example", "a/b", "latest")),
        ("reg.example:5000/a:v1", Remote("reg.example:5000", "a", "v1")),
        (f"reg.example/a@{DIGEST}", Remote("reg.example", "a", "", DIGEST)),
        (f"reg.example/a:v1@{DIGEST}", Remote("reg.example", "a", "v1", DIGEST)),
        ("localhost/a", Remote("localhost", "a", "latest")),
        ("[::1]:5000/a", Remote("[::1]:5000", "a", "latest")),
    ],
)
def test_a_name_is_read(text, meant):
    assert parse(text) == meant


def test_a_digest_says_more_than_a_tag():
    both = parse(f"reg.example/a:v1@{DIGEST}")
    assert isinstance(both, Remote)
    assert both.wanted == DIGEST


@pytest.mark.parametrize(
    ("text", "default", "meant"),
    [
        ("alpine", "reg.example", Remote("reg.example", "alpine")),
        ("alpine:3", "reg.example/library", Remote("reg.example", "library/alpine", "3")),
        ("me/mine", "reg.example/library", Remote("reg.example", "me/mine")),
    ],
)
def test_a_short_name_is_of_the_configured_registry(text, default, meant):
    assert parse(text, default) == meant


def test_a_short_name_without_a_configured_registry_is_refused_with_the_remedy():
    with pytest.raises(Refused) as caught:
        parse("alpine:3")
    assert "images.registry" in caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "reg.example/",
        "reg.example/Upper",
        "reg.example/a:",
        "reg.example/a@sha256:abc",
        "reg.example/a@md5:" + "a" * 32,
        "reg.example/../a",
        "reg.example/a//b",
        "reg.example/a?b",
        "reg.example@evil.example/a",
        "user:word@reg.example/a",
        "-reg.example/a",
        "reg.example/a\nb",
        "reg.example/a b",
        "oci:relative",
        "docker-archive:",
        "x" * 2000,
    ],
)
def test_what_is_no_name_is_refused(text):
    with pytest.raises(Refused) as caught:
        parse(text)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("registry", "is_loopback"),
    [
        ("localhost:5000", True),
        ("127.0.0.1", True),
        ("[::1]:5000", True),
        ("127.0.0.1.example", False),
        ("localhost.example:80", False),
    ],
)
def test_only_this_host_is_spoken_to_without_tls(registry, is_loopback):
    assert Remote(registry, "a").is_loopback is is_loopback


def test_a_path_becomes_absolute_and_other_names_stay():
    here = PurePosixPath("/here")
    assert absolute("oci:a/b:v1", here) == "oci:/here/a/b:v1"
    assert absolute("oci:/a", here) == "oci:/a"
    assert absolute("reg.example/a:1", here) == "reg.example/a:1"


@given(st.text(max_size=80))
def test_any_text_is_a_name_or_refused(text):
    try:
        parsed = parse(text, "reg.example")
    except Refused:
        return
    assert parse(str(parsed), "other.example") == parsed
