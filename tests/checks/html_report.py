"""Reads the data of a single-file page, without a browser."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any


def data_of(page: str) -> dict[str, Any]:
    """Return the data that a page contains."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def report(path: Path) -> dict[str, Any]:
    """Return the data of the page in a file."""
    return data_of(path.read_text(encoding="utf-8"))
