"""JSON Schema (2020-12) of every record kind, for `guestctl schema [KIND]`.

Knows: how a Python type becomes a schema. Must not know: which members a record has (`record_types` defines
them), how `records` builds one.
"""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

from guestctl.output.record_types import RECORD_TYPES

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_SCALARS: dict[Any, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    NoneType: "null",
}


def _schema_of(hint: Any) -> Schema:
    """Return the schema of a type. Raises TypeError for a type that has none."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return {**_schema_of(arguments[0]), **_keywords(arguments[1])}
    if origin is Literal:
        return {"const": arguments[0]} if len(arguments) == 1 else {"enum": list(arguments)}
    if origin in {Union, UnionType}:
        return _schema_of_union([_schema_of(member) for member in arguments])
    if origin is list:
        items = _schema_of(arguments[0])
        return {"type": "array", "items": items} if items else {"type": "array"}
    if origin is dict:
        values = _schema_of(arguments[1])
        return {"type": "object", "additionalProperties": values} if values else {"type": "object"}
    if is_typeddict(hint):
        return _schema_of_record(hint)
    if hint is Any:
        return {}
    if hint in _SCALARS:
        return {"type": _SCALARS[hint]}
    raise TypeError(f"no JSON Schema for {hint!r}")


def _keywords(metadata: Any) -> Schema:
    """Return the keywords that `Annotated` adds: a text is a description."""
    return {"description": metadata} if isinstance(metadata, str) else dict(metadata)


def _schema_of_union(members: list[Schema]) -> Schema:
    """Return the shortest schema for a choice: a list of types, an enum, or `anyOf`."""
    if all(set(member) == {"type"} for member in members):
        return {"type": [member["type"] for member in members]}
    null: Schema = {"type": "null"}
    if len(members) == 2 and members[1] == null and set(members[0]) == {"enum"}:
        return {"enum": [*members[0]["enum"], None]}
    return {"anyOf": members}


def _schema_of_record(record: Any) -> Schema:
    hints = get_type_hints(record, include_extras=True)
    required = [name for name in hints if name in record.__required_keys__]
    properties = {name: _schema_of(hint) for name, hint in hints.items()}
    return {"type": "object", "properties": properties, "required": required}


#: Kind -> its schema.
SCHEMAS: dict[str, Schema] = {
    kind: {"title": title, **_schema_of(record)} for kind, (title, record) in RECORD_TYPES.items()
}


def document(kind: str) -> Schema:
    """Return the schema of one kind as a document of its own. Raises KeyError."""
    return {"$schema": DIALECT, **SCHEMAS[kind]}


def documents() -> Schema:
    """Return all schemas in one document, under `$defs`."""
    return {"$schema": DIALECT, "title": "guestctl records", "$defs": SCHEMAS}
