import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.layers import CONFIG, LAYER, MANIFEST, Image, descriptor, index, tar

from agentkernel.images.oci import documents
from agentkernel.images.oci.documents import Index, Manifest, choose, image_config, manifest_or_index, token_of
from agentkernel.model.errors import Refused, Unsupported

IMAGE = Image([tar()], {"User": "app", "Env": ["A=b=c"], "WorkingDir": "/w//x/", "Cmd": ["run"], "Entrypoint": None})


def test_a_manifest_is_read():
    found = manifest_or_index(IMAGE.manifest)
    assert isinstance(found, Manifest)
    assert [layer.size for layer in found.layers] == [len(blob) for blob in IMAGE.blobs]


def test_a_configuration_is_read():
    config = image_config(IMAGE.config, "x86_64")
    assert (config.user, config.env, config.cwd) == ("app", {"A": "b=c"}, "/w/x")
    assert (config.entrypoint, config.command) == ((), ("run",))


def test_the_image_for_this_machine_is_chosen():
    both = [Image([tar()], {"User": name}, architecture=name) for name in ("amd64", "arm64")]
    found = manifest_or_index(index(*both))
    assert isinstance(found, Index)
    assert choose(found, "aarch64").digest == documents.digest_of_bytes(both[1].manifest)
    assert choose(found, "x86_64").digest == documents.digest_of_bytes(both[0].manifest)


def test_an_image_for_other_machines_is_refused_and_they_are_named():
    found = manifest_or_index(index(Image([tar()], architecture="s390x"), Image([tar()], architecture="arm64")))
    assert isinstance(found, Index)
    with pytest.raises(Refused) as caught:
        choose(found, "x86_64")
    assert "linux/arm64, linux/s390x" in caught.value.message
    assert "linux/amd64" in caught.value.message
    with pytest.raises(Refused):
        image_config(Image([tar()], architecture="arm64").config, "x86_64")


def changed(**changes):
    document = json.loads(IMAGE.manifest) | changes
    return json.dumps({key: value for key, value in document.items() if value is not None}).encode()


LAYERS = [descriptor(b"x", LAYER)]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        b"[]",
        b'{"a":' * 10_000,
        changed(schemaVersion=1),
        changed(layers=None),
        changed(manifests=[]),
        changed(layers=[{**LAYERS[0], "digest": "sha256:../../etc"}]),
        changed(layers=[{**LAYERS[0], "digest": "md5:" + "a" * 32}]),
        changed(layers=[{**LAYERS[0], "size": -1}]),
        changed(layers=[{**LAYERS[0], "size": 1 << 50}]),
        changed(layers=LAYERS * 300),
        changed(layers=[{**LAYERS[0], "mediaType": "application/x-shellscript"}]),
        changed(config=descriptor(b"{}", "application/vnd.cncf.helm.config.v1+json")),
        b" " * (documents.MANIFEST_BYTES_MOST + 1),
    ],
)
def test_a_malformed_or_foreign_manifest_is_refused(content):
    with pytest.raises(Refused):
        manifest_or_index(content)
    assert isinstance(manifest_or_index(changed(layers=LAYERS)), Manifest)


@pytest.mark.parametrize(
    "start",
    [{"Env": ["NOVALUE"]}, {"Env": ["A=\0"]}, {"WorkingDir": "/a/../../b"}, {"User": 7}, {"Cmd": "text"}],
)
def test_a_malformed_configuration_is_refused(start):
    with pytest.raises(Refused):
        image_config(Image([tar()], start).config, "x86_64")


def test_as_many_layers_as_the_configuration_lists():
    found = manifest_or_index(IMAGE.manifest)
    assert isinstance(found, Manifest)
    documents.check_layers(found, image_config(IMAGE.config, "x86_64"))
    with pytest.raises(Refused):
        documents.check_layers(found, image_config(Image([]).config, "x86_64"))


def test_an_artefact_that_is_no_image_is_unsupported():
    with pytest.raises(Unsupported) as caught:
        manifest_or_index(changed(config=descriptor(b"{}", "application/vnd.example.chart+json")))
    assert "chart" in caught.value.message
    assert manifest_or_index(changed(config=descriptor(b"{}", CONFIG), mediaType=MANIFEST))


def test_a_token_is_read():
    assert token_of(b'{"access_token": "abc"}') == "abc"
    for bad in (b"{}", b'{"token": "a\\r\\nb"}', b"no"):
        with pytest.raises(Refused):
            token_of(bad)


def test_nothing_that_a_terminal_obeys_gets_into_a_message():
    hostile = Image([tar()], architecture="x\x1b[2J\n" + "y" * 500)
    for read in (
        lambda: image_config(hostile.config, "x86_64"),
        lambda: choose(manifest_or_index(index(hostile)), "x86_64"),
        lambda: manifest_or_index(changed(layers=[{**LAYERS[0], "mediaType": "a\x1b[2J"}])),
        lambda: manifest_or_index(changed(layers=[{**LAYERS[0], "digest": "a\x1b[2J"}])),
        lambda: manifest_or_index(changed(config=descriptor(b"", "a\x1b[2J"))),
    ):
        with pytest.raises(Refused) as caught:
            read()
        assert caught.value.message.isprintable()
        assert len(caught.value.message) < 400


def spoiled(good):
    """A document with three bytes of it replaced by others."""
    place = st.tuples(st.integers(0, len(good)), st.binary(max_size=8))
    return place.map(lambda at: good[: at[0]] + at[1] + good[at[0] + 3 :])


@given(st.binary(max_size=200) | spoiled(IMAGE.manifest) | spoiled(index(IMAGE)) | spoiled(IMAGE.config))
def test_any_bytes_are_a_document_or_refused(content):
    for read in (manifest_or_index, lambda raw: image_config(raw, "x86_64")):
        try:
            read(content)
        except Refused:
            continue
