"""The tests of the extra `guestctl[otel]`. CONTRIBUTING.md has the command that installs what they need."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.conftest import api, enter, guest, room, sandbox, serve, time  # noqa: F401
from tests.otel.collector import Collector, collecting


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector. The SDK reads its address from the environment of this process."""
    with collecting() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        yield found
