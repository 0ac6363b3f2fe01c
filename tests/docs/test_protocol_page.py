"""docs/reference/protocol.md against the structs, both ways."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from tests.support import original_shapes
from tests.support.field_tables import rows

from agentkernel.model.errors import DOORS
from agentkernel.protocol import guest_json
from agentkernel.protocol.codec import REQUESTS, Rejected, decode_reply, decode_request
from agentkernel.protocol.replies import DriverStatus, Reply, SnapshotFacts
from agentkernel.protocol.requests import FilePut
from agentkernel.protocol.words import LATER, WireBackend

PAGE = (Path(__file__).parents[2] / "docs/reference/protocol.md").read_text()
SECTIONS = dict(re.findall(r"^### (\w+ `\w+`)\n(.*?)(?=^##|\Z)", PAGE, flags=re.MULTILINE | re.DOTALL))
STRUCTS: dict[str, type[msgspec.Struct]] = {
    **{f"Request `{name}`": struct for name, struct in REQUESTS.items()},
    **{f"Reply `{struct.__struct_config__.tag}`": struct for struct in get_args(Reply)},
    "Part `file`": FilePut,
    "Part `driver`": DriverStatus,
    "Part `snapshot`": SnapshotFacts,
}
ORIGINAL_REQUESTS = {
    "Request `acquire`": ["runtime", "backend", "compatibility_mode"],
    "Request `release`": ["id"],
    "Request `exec`": ["runtime", "command", "backend", "compatibility_mode"],
    "Request `prewarm`": ["compatibility_mode"],
}
ORIGINALS = ORIGINAL_REQUESTS | {
    f"Reply `{struct.__struct_config__.tag}`": [field.encode_name for field in msgspec.structs.fields(struct)]
    for struct in get_args(original_shapes.OriginalReply)
}


def table(title: str) -> list[list[str]]:
    lines = [line for line in SECTIONS[title].splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_every_message_has_its_section_and_every_section_its_message() -> None:
    assert set(SECTIONS) == set(STRUCTS)


@pytest.mark.parametrize("title", STRUCTS)
def test_a_table_says_what_the_code_does(title: str) -> None:
    found = [(name.strip("`"), kind, default) for name, kind, default, *_ in table(title)]
    assert found == rows(STRUCTS[title])


@pytest.mark.parametrize("title", STRUCTS)
def test_original_fields_come_first_in_their_order_and_are_marked(title: str) -> None:
    marked = [row[0].strip("`") for row in table(title) if row[3] == "original"]
    assert marked == ORIGINALS.get(title, [])
    assert [row[0].strip("`") for row in table(title)][: len(marked)] == marked
    assert all(row[4] for row in table(title)), "every field has a meaning"


def test_the_commands_of_later_are_listed() -> None:
    later = PAGE.partition("### Later")[2].partition("\n## ")[0].partition("version:")[2]
    assert set(re.findall(r"`(\w+)`", later)) == LATER


def test_every_error_code_is_listed_with_its_retryability() -> None:
    codes = dict(re.findall(r"^\| `(\w+)` \| (yes|no) \|", PAGE, flags=re.MULTILINE))
    assert codes == {code: "yes" if door.retryable else "no" for code, door in DOORS.items()}


def test_every_backend_is_named() -> None:
    assert all(f"`{wire}`" in PAGE for wire in WireBackend)


def test_the_guests_requests_are_listed() -> None:
    section = PAGE.partition("## Talking to the guest")[2]
    found = {
        name: re.findall(r"`(\w+)`", fields) if "none" not in fields else []
        for name, fields in re.findall(r"^\| `(\w+)` \| (.*) \|$", section, flags=re.MULTILINE)
    }
    assert found == {
        struct.__struct_config__.tag: [name for name, *_ in rows_of_guest(struct) if name != "id"]
        for struct in get_args(guest_json.GuestRequest)
    }


def rows_of_guest(struct: type[msgspec.Struct]) -> list[tuple[str]]:
    return [(field.encode_name,) for field in msgspec.structs.fields(struct)]


def test_the_examples_are_understood() -> None:
    examples = re.findall(r"^(\{.*\})$", PAGE, flags=re.MULTILINE)
    assert examples
    for example in examples:
        if '"cmd"' in example:
            assert not isinstance(decode_request(example.encode()), Rejected)
        else:
            assert decode_reply(example.encode())
