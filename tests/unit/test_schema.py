"""The published schemas as documents; that records fit them is tested with the records."""

from __future__ import annotations

import json

import pytest

from guestctl.records import EVENT_KINDS
from guestctl.schema import DIALECT, SCHEMAS, document, documents


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
