"""Images: their configuration, what a failed pull means, and the stream of an import."""

from __future__ import annotations

import io
import tarfile
from collections.abc import AsyncIterator

import anyio
import pytest

from agentkernel.drivers.docker.images import MACHINE_ID, agent_archive, facts_of, pull_failed, with_machine_id
from agentkernel.model.errors import AgentkernelError, Broken, Busy, NotFound, Refused

IMAGE = {
    "Id": "sha256:" + "a" * 64,
    "Architecture": "amd64",
    "Config": {"Env": ["A=b=c", "ODD"], "WorkingDir": "/x", "User": "1:2", "Entrypoint": ["/e"], "Cmd": ["c", "d"]},
}


def test_what_an_image_says_of_its_commands_is_told() -> None:
    facts = facts_of("n", IMAGE, "amd64")
    assert facts.digest == "a" * 64
    assert (facts.env, facts.cwd, facts.user) == ({"A": "b=c"}, "/x", "1:2")
    assert (facts.entrypoint, facts.command) == (("/e",), ("c", "d"))


def test_an_image_that_says_nothing_says_nothing() -> None:
    facts = facts_of("n", {"Id": "sha256:b", "Config": {"Env": None, "Cmd": None}}, "amd64")
    assert (facts.env, facts.cwd, facts.user, facts.entrypoint, facts.command) == ({}, "", "", (), ())


def test_an_image_of_another_architecture_is_refused_naming_both() -> None:
    with pytest.raises(Refused, match=r"amd64.*arm64"):
        facts_of("n", IMAGE, "arm64")


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("pull access denied for x, repository does not exist or may require 'docker login'", NotFound),
        ("manifest for x:1 not found: manifest unknown: manifest unknown", NotFound),
        ("Get https://registry.invalid/v2/: dial tcp: lookup registry.invalid: no such host", Busy),
        ("net/http: TLS handshake timeout", Busy),
        ("no matching manifest for linux/amd64 in the manifest list entries", Refused),
        ("write /var/lib/x: no space left on device", Broken),
    ],
)
def test_a_failed_pull_becomes_what_its_caller_can_decide_about(said: str, kind: type[AgentkernelError]) -> None:
    failed = pull_failed("x", said)
    assert type(failed) is kind
    assert said in str(failed)


def tree() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in (("./a", b"x" * 700), ("./etc/machine-id", b""), ("./" + "n" * 300, b"y"), ("./z", b"z")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


@pytest.mark.parametrize("size", [1, 511, 512, 513, 100_000])
def test_an_import_has_a_link_for_the_machine_id_and_is_else_the_same(size: int) -> None:
    raw = tree()

    async def chunks() -> AsyncIterator[bytes]:
        for at in range(0, len(raw), size):
            yield raw[at : at + size]

    async def read() -> bytes:
        return b"".join([chunk async for chunk in with_machine_id(chunks())])

    changed = anyio.run(read)
    assert len(changed) == len(raw)
    with tarfile.open(fileobj=io.BytesIO(changed)) as archive:
        link = archive.getmember("./etc/machine-id")
        assert (link.issym(), link.linkname) == (True, MACHINE_ID)
        content = archive.extractfile("./a")
        assert content is not None
        assert content.read() == b"x" * 700
        assert len(archive.getnames()) == 4


def test_the_agent_s_archive_holds_the_agent_alone_and_executable() -> None:
    with tarfile.open(fileobj=io.BytesIO(agent_archive(b"elf"))) as archive:
        assert archive.getnames() == [".agentkernel", ".agentkernel/agent"]
        assert archive.getmember(".agentkernel/agent").mode == 0o755
