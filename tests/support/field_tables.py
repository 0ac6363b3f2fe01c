"""The fields of message structs in the words of docs/reference/protocol.md."""

from __future__ import annotations

import builtins
import types
import typing
from enum import Enum
from typing import Any

import msgspec

Row = tuple[str, str, str]
"""Name, type, default."""

_NAMES = {str: "string", int: "integer", bool: "boolean", bytes: "base64", float: "number"}


def type_words(kind: Any) -> str:
    """`list of string`, `map of string to integer`, `word` of a closed set, `object` for a struct."""
    arguments = typing.get_args(kind)
    match typing.get_origin(kind):
        case typing.Annotated:
            words = type_words(arguments[0])
        case types.UnionType | typing.Union:
            words = " or ".join(type_words(argument) for argument in arguments if argument is not msgspec.UnsetType)
        case builtins.list:
            words = f"list of {type_words(arguments[0])}"
        case builtins.dict:
            words = f"map of string to {type_words(arguments[1])}"
        case _:
            words = "word" if issubclass(kind, Enum) else "object" if issubclass(kind, msgspec.Struct) else _NAMES[kind]
    return words


def default_words(field: Any) -> str:
    """`required`, `left out`, or the default as JSON."""
    if field.default is msgspec.UNSET:
        return "left out"
    if field.default_factory is not msgspec.NODEFAULT:
        return f"`{msgspec.json.encode(field.default_factory()).decode()}`"
    if field.default is msgspec.NODEFAULT:
        return "required"
    return f"`{msgspec.json.encode(field.default).decode()}`"


def rows(struct: type[msgspec.Struct]) -> list[Row]:
    """One row per field, in the order on the wire."""
    hints = typing.get_type_hints(struct, include_extras=True)
    return [
        (field.encode_name, type_words(hints[field.name]), default_words(field))
        for field in msgspec.structs.fields(struct)
    ]
