"""What `container` is told and what it says, without running it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentkernel.drivers.apple import answers, commands
from agentkernel.drivers.apple.answers import Container, complaint, containers, image, version
from agentkernel.drivers.apple.table import COMMANDS, faults
from agentkernel.model.errors import Broken, NotFound, Refused, Unsupported
from agentkernel.model.ids import Digest, SandboxId
from agentkernel.model.kinds import Backend
from agentkernel.model.spec import BootSpec

ID = SandboxId("cd" * 16)
SPEC = BootSpec(Backend.APPLE, "", Digest("d"), image_name="alpine:3")
NAME = commands.name_of(ID)
ALL = {
    "run": commands.run(ID, SPEC, Path("/somewhere/agent")),
    "exec": commands.link(ID),
    "stop": commands.stop(NAME),
    "delete": commands.delete(NAME),
    "list": commands.LIST,
    "inspect": commands.inspect(NAME),
    "image inspect": commands.inspect_image("alpine:3"),
    "image pull": commands.pull("alpine:3"),
    "system status": commands.STATUS,
    "version": commands.VERSION,
}


@pytest.mark.parametrize("what", ALL)
def test_every_command_is_one_of_the_table(what: str) -> None:
    assert faults(ALL[what]) == []


def test_every_command_of_the_table_is_used() -> None:
    used = {name for name in COMMANDS if any(words[: len(name)] == name for words in ALL.values())}
    assert used == set(COMMANDS)


BAD = {
    "unknown command": (("system", "destroy"), "no such command"),
    "unknown option": (("list", "--everything"), "unknown option --everything"),
    "no value": (("stop", "--time"), "lacks its value"),
    "twice": (("run", "--name", "a", "--name", "b", "image"), "--name is given twice"),
    "no image": (("run", "--detach"), "0 arguments"),
    "too many": (("image", "pull", "a", "b"), "2 arguments"),
}


@pytest.mark.parametrize("what", BAD)
def test_the_table_finds_what_is_wrong(what: str) -> None:
    words, complaint_ = BAD[what]
    assert complaint_ in "; ".join(faults(words))


def test_what_follows_the_image_is_the_programs_own() -> None:
    assert faults(("run", "--label", "a=b", "--label", "c=d", "image", "--unknown")) == []


def test_a_sandboxs_name_and_label_carry_its_id() -> None:
    words = ALL["run"]
    assert words[words.index("--name") + 1] == NAME == f"agentkernel-{ID}"
    assert words[words.index("--label") + 1] == f"{commands.LABEL}={ID}"


@pytest.mark.parametrize("generation", ["old", "new"])
def test_containers_are_read_in_both_generations(generation: str) -> None:
    row: dict[str, Any] = {"configuration": {"id": "a", "labels": {"x": "y"}}, "status": "stopped"}
    if generation == "new":
        row = {"id": "a", "configuration": {"labels": {"x": "y"}}, "status": {"state": "stopped"}}
    assert containers(json.dumps([row])) == [Container("a", "stopped", {"x": "y"})]
    assert containers("[]") == []


GARBAGE = ["", "{", "{}", "[1]", '[{"id": 1}]', '[{"configuration": []}]', '[{"id": "a", "status": null}]']


@pytest.mark.parametrize("said", GARBAGE)
def test_garbage_is_broken(said: str) -> None:
    with pytest.raises(Broken, match="not the JSON"):
        containers(said)


IMAGES = [
    "[]",
    '[{"variants": 1}]',
    json.dumps([{"variants": [{"platform": {"os": "linux", "architecture": "arm64"}, "config": 3}]}]),
]


@pytest.mark.parametrize("said", IMAGES)
def test_an_image_that_is_none_is_broken(said: str) -> None:
    with pytest.raises(Broken, match="not the JSON"):
        image(said)


def test_an_image_without_a_digest_has_one_of_what_is_said() -> None:
    row = {"name": "a", "variants": [{"platform": {"os": "linux", "architecture": "arm64"}}]}
    facts = image(json.dumps([row]))
    assert len(facts.digest) == 64
    assert facts.digest != image(json.dumps([{**row, "name": "b"}])).digest
    named = {**row, "configuration": {"descriptor": {"digest": "sha256:" + "1" * 64}}}
    assert image(json.dumps([named])).digest == "1" * 64
    assert (facts.env, facts.command) == ({}, ())


@pytest.mark.parametrize(
    ("said", "found"),
    [("container CLI version 1.2.3 (build: release, commit: a1.1)", "1.2.3"), ("container 0.9", "0.9"), ("hello", "")],
)
def test_the_version_is_found(said: str, found: str) -> None:
    assert version(said) == found


CAUSES = {
    "Error: XPC connection error: Connection invalid": Unsupported,
    "Error: notFound: image x not found": NotFound,
    "Error: unauthorized: authentication required": Refused,
    "Error: unsupported platform linux/arm64": Refused,
    "Error: something": Broken,
    "": Broken,
}


@pytest.mark.parametrize("said", CAUSES)
def test_a_complaint_becomes_an_error_with_something_to_do(said: str) -> None:
    error = complaint(("run", "--detach"), 1, said)
    assert type(error) is CAUSES[said]
    assert error.hint
    assert error.message.startswith("container run: ")
    assert len(complaint(("run",), 1, "x\n" * 5000).message) < answers.WORDS_KEPT + 50
