"""The published schemas as documents; that records fit them is tested with the records."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from guestctl.output.records import EVENT_KINDS
from guestctl.output.schema import DIALECT, SCHEMAS, document, documents


@pytest.mark.parametrize("kind", SCHEMAS)
def test_every_schema_is_a_document_of_its_own(kind: str) -> None:
    found = json.loads(json.dumps(document(kind)))
    assert found["$schema"] == DIALECT
    assert found["title"]
    assert set(found["required"]) <= set(found["properties"])


def test_every_kind_a_listener_may_see_is_described() -> None:
    described = {schema["properties"].get("kind", {}).get("const") for schema in SCHEMAS.values()}
    assert set(EVENT_KINDS) <= described


def test_all_of_them_at_once() -> None:
    assert documents()["$defs"] is SCHEMAS


def test_every_kind_that_any_command_writes_is_described() -> None:
    """`schema` itself lists the schemas for people only."""
    package = Path(__file__).parents[2] / "guestctl"
    sources = [package / "records.py", package / "jwt_claims.py", *package.glob("cli/*.py")]
    written = {kind for path in sources for kind in re.findall(r'"kind": "([\w-]+)"', path.read_text("utf-8"))}
    described = {schema["properties"]["kind"]["const"] for name, schema in SCHEMAS.items() if name != "error"}
    assert written - {"schema"} == described
