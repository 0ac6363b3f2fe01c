"""Other people's published interfaces, which lie beside the checkout and are no part of it, and checks against them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
FIRECRACKER = "firecracker-api.yaml"


def contract(name: str) -> dict[str, Any]:
    """The parsed file: from AGENTKERNEL_CONTRACTS, or `shared/contracts` beside the checkout or further up. Skips the
    test where it is not.
    """
    named = os.environ.get("AGENTKERNEL_CONTRACTS")
    folders = [Path(named)] if named else [above / "shared/contracts" for above in REPOSITORY.parents]
    for folder in folders:
        if (folder / name).is_file():
            parsed: dict[str, Any] = yaml.safe_load((folder / name).read_text())
            return parsed
    pytest.skip(f"{name} is not on this machine: nothing was checked against the published API")


class Published:
    """A Swagger 2.0 document, as far as Firecracker's goes."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document

    def operation(self, method: str, path: str) -> Mapping[str, Any] | None:
        """What is published of a request; segments in braces match any."""
        for pattern, operations in self._document["paths"].items():
            wanted, found = pattern.split("/"), path.split("/")
            pairs = zip(wanted, found, strict=False)
            if len(wanted) == len(found) and all(a == b or a.startswith("{") for a, b in pairs):
                operation: Mapping[str, Any] | None = operations.get(method.lower())
                return operation
        return None

    def schema(self, method: str, path: str) -> Mapping[str, Any] | None:
        """Of the body; None for a request without one."""
        operation = self.operation(method, path)
        assert operation is not None, f"{method} {path} is not published"
        bodies = [one["schema"] for one in operation.get("parameters", ()) if one["in"] == "body"]
        return self.resolved(bodies[0]) if bodies else None

    def resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """The schema behind a reference."""
        while "$ref" in schema:
            schema = self._document["definitions"][schema["$ref"].rpartition("/")[2]]
        return schema

    def faults(self, schema: Mapping[str, Any], value: Any, place: str) -> list[str]:
        """What is wrong with a value, one phrase each."""
        schema = self.resolved(schema)
        kinds = {"string": str, "integer": int, "boolean": bool, "object": dict, "array": list}
        if type(value) is not kinds[schema["type"]]:
            return [f"{place}: not of type {schema['type']}"]
        found = []
        if schema["type"] == "object":
            known = schema.get("properties", {})
            found += [f"{place}.{name}: missing" for name in schema.get("required", ()) if name not in value]
            for name, one in value.items():
                found += (
                    self.faults(known[name], one, f"{place}.{name}") if name in known else [f"{place}.{name}: unknown"]
                )
        if "enum" in schema and value not in schema["enum"]:
            found.append(f"{place}: none of {schema['enum']}")
        if value is not True and "minimum" in schema and value < schema["minimum"]:
            found.append(f"{place}: below {schema['minimum']}")
        if value is not True and "maximum" in schema and value > schema["maximum"]:
            found.append(f"{place}: above {schema['maximum']}")
        return found
