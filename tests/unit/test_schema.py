"""The schemas that `guestctl schema` prints, generated from the record types."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest

from guestctl.core.model import ParticipantEventKind
from guestctl.output import schema
from guestctl.output.record_types import RECORD_TYPES
from guestctl.output.records import EVENT_KINDS
from guestctl.output.schema import DIALECT, SCHEMAS, document, documents

MOMENT = {
    "type": "string",
    "pattern": r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z$",
    "description": "RFC 3339 UTC with milliseconds",
}


@pytest.mark.parametrize("kind", SCHEMAS)
def test_every_schema_is_a_document_of_its_own(kind: str) -> None:
    found = json.loads(json.dumps(document(kind)))
    assert found["$schema"] == DIALECT
    assert found["title"]
    assert set(found["required"]) <= set(found["properties"])


def test_every_kind_that_listen_prints_has_a_schema() -> None:
    described = {schema["properties"].get("kind", {}).get("const") for schema in SCHEMAS.values()}
    assert set(EVENT_KINDS) <= described


def test_one_document_has_all_schemas() -> None:
    assert documents()["$defs"] is SCHEMAS
    assert set(SCHEMAS) == set(RECORD_TYPES)


def test_every_kind_that_a_command_writes_has_a_schema() -> None:
    """Kinds for people only have none."""
    package = Path(__file__).parents[2] / "guestctl"
    sources = [
        package / "output" / "records.py",
        package / "core" / "jwt_claims.py",
        package / "checks" / "outcomes.py",
        package / "load" / "load_results.py",
        *package.glob("cli/commands/*.py"),
    ]
    written = {kind for path in sources for kind in re.findall(r'"kind": "([\w-]+)"', path.read_text("utf-8"))}
    written |= set(get_args(ParticipantEventKind))
    described = {schema["properties"]["kind"]["const"] for name, schema in SCHEMAS.items() if name != "error"}
    assert written - {"schema"} == described


def test_the_schema_of_a_record() -> None:
    """One whole schema, pinned by hand: descriptions, null, literals, optional members and numbers."""
    assert SCHEMAS["connection"] == {
        "title": "The state of guestctl's own connection; in the stream only with --only connection",
        "type": "object",
        "properties": {
            "kind": {"const": "connection"},
            "session": {"type": "string"},
            "state": {"enum": ["connecting", "live", "lost", "retrying", "gave_up"]},
            "detail": {"type": ["string", "null"]},
            "attempt": {"type": "integer", "minimum": 0},
            "delay": {"type": ["number", "null"], "description": "seconds before the next attempt"},
            "close_code": {"type": ["integer", "null"]},
            "recovered": {
                "type": ["integer", "null"],
                "description": "messages fetched from history after a reconnect",
            },
            "time": MOMENT,
            "raw": {"description": "the service's own object, secrets masked; only with --raw"},
            "relay_id": {
                "type": ["string", "null"],
                "description": "only from a relay: its own id of the event, epoch-number; null if the record has none",
            },
        },
        "required": [
            "kind",
            "session",
            "state",
            "detail",
            "attempt",
            "delay",
            "close_code",
            "recovered",
            "time",
        ],
    }


def test_nested_records_lists_and_choices() -> None:
    sent = SCHEMAS["sent"]["properties"]
    assert sent["from"]["properties"]["role"] == {"enum": ["guest", "bot", "agent", "system", None]}
    assert sent["options"]["items"]["required"] == ["text", "payload", "kind", "url", "group"]
    assert sent["content"] == {"type": "array", "description": "the service's structured parts, as sent"}
    assert [choice.get("type") for choice in sent["reply"]["anyOf"]] == ["object", "null"]
    assert SCHEMAS["session"]["properties"]["ids"]["additionalProperties"] == {"type": ["string", "null"]}
    assert SCHEMAS["api"]["properties"]["operations"] == {
        "type": "object",
        "additionalProperties": {"enum": ["documented", "assumed", None]},
    }
    assert SCHEMAS["token"]["properties"]["verified"] == {"const": False}
    assert SCHEMAS["error"]["properties"]["error"]["properties"]["service_code"]["type"] == [
        "string",
        "integer",
        "null",
    ]


@pytest.mark.parametrize("hint", [bytes, set[str], tuple[int, ...]])
def test_a_type_without_a_schema_is_an_error(hint: Any) -> None:
    with pytest.raises(TypeError):
        schema._schema_of(hint)
