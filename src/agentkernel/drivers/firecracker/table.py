"""The requests that this driver makes of Firecracker, as facts: path, method, fields, types, limits.

The driver builds its requests in `machine`; this table is what they are checked against, by the stand-in that the tests
drive and by a test that compares table and requests with Firecracker's published API. Nothing here runs in a daemon.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["string", "integer", "boolean", "object"]
_TYPES: Mapping[Kind, type[Any]] = {"string": str, "integer": int, "boolean": bool, "object": dict}


@dataclass(frozen=True, slots=True)
class Field:
    """One member of a body.

    Attributes:
        words: the only strings that are taken; empty for any.
        low, high: bounds of an integer, inclusive; None for none that is published.
        fields: the members of an object.
    """

    kind: Kind
    required: bool = False
    words: tuple[str, ...] = ()
    low: int | None = None
    high: int | None = None
    fields: Mapping[str, Field] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Shape:
    """One kind of request.

    Attributes:
        path: `{name}` stands for one segment.
        when: in which states of a machine it is taken: `Not started`, `Running`, `Paused`.
        success: the status of a request that was carried out.
    """

    method: str
    path: str
    when: tuple[str, ...]
    fields: Mapping[str, Field] = field(default_factory=dict)
    success: int = 204


FRESH, RUNNING, PAUSED = "Not started", "Running", "Paused"
_BUCKET = Field(
    "object",
    fields={
        "size": Field("integer", required=True, low=0),
        "refill_time": Field("integer", required=True, low=0),
        "one_time_burst": Field("integer", low=0),
    },
)
_LIMITER = Field("object", fields={"bandwidth": _BUCKET, "ops": _BUCKET})
_TEXT = Field("string", required=True)

TABLE: tuple[Shape, ...] = (
    Shape("GET", "/", (FRESH, RUNNING, PAUSED), success=200),
    Shape(
        "PUT",
        "/machine-config",
        (FRESH,),
        {
            "vcpu_count": Field("integer", required=True, low=1, high=32),
            "mem_size_mib": Field("integer", required=True),
            "smt": Field("boolean"),
            "track_dirty_pages": Field("boolean"),
        },
    ),
    Shape(
        "PUT",
        "/boot-source",
        (FRESH,),
        {"kernel_image_path": _TEXT, "initrd_path": Field("string"), "boot_args": Field("string")},
    ),
    Shape(
        "PUT",
        "/drives/{drive_id}",
        (FRESH,),
        {
            "drive_id": _TEXT,
            "path_on_host": Field("string"),
            "is_root_device": Field("boolean", required=True),
            "is_read_only": Field("boolean"),
            "cache_type": Field("string", words=("Unsafe", "Writeback")),
            "io_engine": Field("string", words=("Sync", "Async")),
            "rate_limiter": _LIMITER,
        },
    ),
    Shape("PUT", "/vsock", (FRESH,), {"guest_cid": Field("integer", required=True, low=3), "uds_path": _TEXT}),
    Shape("PUT", "/entropy", (FRESH,), {"rate_limiter": _LIMITER}),
    Shape("PUT", "/actions", (FRESH,), {"action_type": Field("string", required=True, words=("InstanceStart",))}),
    Shape("PATCH", "/vm", (RUNNING, PAUSED), {"state": Field("string", required=True, words=("Paused", "Resumed"))}),
    Shape(
        "PUT",
        "/snapshot/create",
        (PAUSED,),
        {
            "snapshot_type": Field("string", words=("Full", "Diff")),
            "snapshot_path": _TEXT,
            "mem_file_path": _TEXT,
        },
    ),
    Shape(
        "PUT",
        "/snapshot/load",
        (FRESH,),
        {
            "snapshot_path": _TEXT,
            "mem_backend": Field(
                "object",
                fields={
                    "backend_type": Field("string", required=True, words=("File", "Uffd")),
                    "backend_path": _TEXT,
                },
            ),
            "resume_vm": Field("boolean"),
        },
    ),
)


def shape_of(method: str, path: str) -> Shape | None:
    """The row for a request; None for one that this driver never makes."""
    return next((shape for shape in TABLE if shape.method == method and _matches(shape.path, path)), None)


def _matches(pattern: str, path: str) -> bool:
    wanted, found = pattern.split("/"), path.split("/")
    same = (a == b or (a.startswith("{") and b != "") for a, b in zip(wanted, found, strict=False))
    return len(wanted) == len(found) and all(same)


def faults(fields: Mapping[str, Field], body: Mapping[str, Any], place: str = "") -> list[str]:
    """What is wrong with a body, one phrase each; empty when nothing is."""
    found = [f"{place}{name} is missing" for name, wanted in fields.items() if wanted.required and name not in body]
    for name, value in body.items():
        wanted = fields.get(name)
        if wanted is None:
            found.append(f"{place}{name} is not known")
        else:
            found += _faults_of(wanted, value, f"{place}{name}")
    return found


def _faults_of(wanted: Field, value: Any, place: str) -> list[str]:
    # Not isinstance: a boolean is an integer to Python, and not to JSON.
    if type(value) is not _TYPES[wanted.kind]:
        return [f"{place} is not of type {wanted.kind}"]
    if wanted.kind == "object":
        return faults(wanted.fields, value, f"{place}.")
    if wanted.words and value not in wanted.words:
        return [f"{place} is none of {', '.join(wanted.words)}"]
    below = wanted.low is not None and value < wanted.low
    above = wanted.high is not None and value > wanted.high
    return [f"{place} is out of bounds"] if below or above else []
