"""The requests, the table that they are checked against, and the published API where it is present."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.support.contracts import FIRECRACKER, Published, contract

from agentkernel.drivers.firecracker import machine, table
from agentkernel.drivers.firecracker.table import TABLE, Field, faults, shape_of
from agentkernel.model.errors import Unsupported
from agentkernel.model.ids import Digest
from agentkernel.model.kinds import Backend, Vmm
from agentkernel.model.spec import BootSpec

SPEC = BootSpec(Backend.MICROVM, "base", Digest("d" * 64), vmm=Vmm.FIRECRACKER, vcpus=2, memory_mib=512, disk_mib=64)
ALL = [
    *machine.boot(SPEC, root=True),
    *machine.boot(replace(SPEC, disk_mib=0), root=False),
    *(machine.DESCRIBE, machine.PAUSE, machine.RESUME, machine.CREATE_SNAPSHOT, machine.LOAD_SNAPSHOT),
]


def test_every_request_is_in_the_table_and_every_row_of_it_is_used() -> None:
    for request in ALL:
        shape = shape_of(request.method, request.path)
        assert shape is not None, request.name
        assert faults(shape.fields, request.body or {}) == []
    assert {shape.path for shape in TABLE} == {shape_of(r.method, r.path).path for r in ALL}  # type: ignore[union-attr]


def test_the_order_of_a_boot_ends_with_its_start_and_names_both_disks() -> None:
    assert [request.path for request in machine.boot(SPEC, root=True)] == [
        *("/machine-config", "/boot-source", "/drives/root", "/drives/scratch", "/vsock", "/entropy", "/actions")
    ]
    bare = machine.boot(replace(SPEC, disk_mib=0), root=False)
    assert not [request for request in bare if request.path.startswith("/drives")]


def test_there_is_no_network_no_metadata_service_and_no_serial_console() -> None:
    paths = {request.path for request in ALL}
    assert not [path for path in paths if "network" in path or "mmds" in path or "serial" in path]
    arguments = next(r.body for r in ALL if r.path == "/boot-source")["boot_args"]  # type: ignore[index]
    assert "nr_uarts=0" in arguments
    assert "console=" not in arguments


def test_disks_and_entropy_are_limited_and_only_the_scratch_disk_is_written() -> None:
    bodies = {request.path: request.body or {} for request in machine.boot(SPEC, root=True)}
    assert (bodies["/drives/root"]["is_read_only"], bodies["/drives/scratch"]["is_read_only"]) == (True, False)
    assert all("rate_limiter" in bodies[path] for path in ("/drives/root", "/drives/scratch", "/entropy"))


def test_paths_are_those_inside_the_jail() -> None:
    texts = [value for request in ALL for name, value in (request.body or {}).items() if "path" in name]
    assert texts
    assert not [text for text in texts if str(text).startswith("/") or ".." in str(text)]


def test_more_processors_than_firecracker_gives_are_refused() -> None:
    assert machine.hardware(replace(SPEC, vcpus=32), root=True)
    with pytest.raises(Unsupported, match="at most 32"):
        machine.hardware(replace(SPEC, vcpus=33), root=True)


def test_the_serial_of_a_disk_is_cut_to_twenty_bytes() -> None:
    assert machine.disk_serial(2049, 0, 131_077) == "20490131077"
    assert machine.disk_serial(2**40, 0, 2**60) == f"{2**40}0{2**60}"[:20]


BAD = {
    "missing": ({"vcpu_count": 1}, "mem_size_mib is missing"),
    "unknown": ({"vcpu_count": 1, "mem_size_mib": 1, "x": 1}, "x is not known"),
    "kind": ({"vcpu_count": "1", "mem_size_mib": 1}, "not of type integer"),
    "a boolean is no number": ({"vcpu_count": True, "mem_size_mib": 1}, "not of type integer"),
    "high": ({"vcpu_count": 33, "mem_size_mib": 1}, "out of bounds"),
    "low": ({"vcpu_count": 0, "mem_size_mib": 1}, "out of bounds"),
}


@pytest.mark.parametrize("what", BAD)
def test_the_table_finds_what_is_wrong(what: str) -> None:
    body, complaint = BAD[what]
    shape = shape_of("PUT", "/machine-config")
    assert shape is not None
    assert complaint in "; ".join(faults(shape.fields, body))


def test_the_table_finds_what_is_wrong_further_in_and_which_words_are_none() -> None:
    load, drive = shape_of("PUT", "/snapshot/load"), shape_of("PUT", "/drives/any")
    assert load is not None
    assert drive is not None
    bad = {"snapshot_path": "s", "mem_backend": {"backend_type": "Tape", "backend_path": "m"}}
    assert faults(load.fields, bad) == ["mem_backend.backend_type is none of File, Uffd"]
    limiter = {"drive_id": "a", "is_root_device": False, "rate_limiter": {"ops": {"size": 1}}}
    assert faults(drive.fields, limiter) == ["rate_limiter.ops.refill_time is missing"]
    assert shape_of("PUT", "/drives/a/b") is None
    assert shape_of("DELETE", "/vsock") is None


# --- against what is published ---


def test_every_request_is_as_published() -> None:
    published = Published(contract(FIRECRACKER))
    for request in ALL:
        schema = published.schema(request.method, request.path)
        if request.body is None:
            assert schema is None
        else:
            assert schema is not None
            assert published.faults(schema, request.body, request.name) == []


def test_every_row_of_the_table_is_as_published() -> None:
    published = Published(contract(FIRECRACKER))
    for shape in TABLE:
        path = shape.path.replace("{drive_id}", "any")
        operation = published.operation(shape.method, path)
        assert operation is not None, shape
        assert shape.success in operation["responses"], shape
        schema = published.schema(shape.method, path)
        compare(published, shape.fields, schema or {"type": "object"}, shape.path)


def compare(published: Published, fields: object, schema: object, place: str) -> None:
    """A table's fields are published ones, with their types, limits and words, and none that is required is missing."""
    assert isinstance(fields, dict)
    schema = published.resolved(schema)  # type: ignore[arg-type]
    known = {name: published.resolved(one) for name, one in schema.get("properties", {}).items()}
    assert {name for name, one in fields.items() if one.required} == set(schema.get("required", ())), place
    for name, one in fields.items():
        assert isinstance(one, Field)
        assert name in known, f"{place}.{name}"
        assert one.kind == known[name]["type"], f"{place}.{name}"
        assert set(one.words) <= set(known[name].get("enum", one.words)), f"{place}.{name}"
        assert (one.low, one.high) == (known[name].get("minimum"), known[name].get("maximum")), f"{place}.{name}"
        compare(published, dict(one.fields), known[name], f"{place}.{name}")


def test_states_are_the_published_ones() -> None:
    published = Published(contract(FIRECRACKER))
    words = set(published.resolved({"$ref": "#/definitions/InstanceInfo"})["properties"]["state"]["enum"])
    assert {table.FRESH, table.RUNNING, table.PAUSED} == words
