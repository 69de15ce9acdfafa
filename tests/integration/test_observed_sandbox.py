"""What a sandbox reports to its observer is what the client's own trace of the same conversation has."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from guestctl.core.redact import Redactor
from tests.integration.conftest import Enter, Serve
from tests.sandbox.observed import Events

#: What both sides state about an event of each kind.
SHARED = {
    "request": ("method", "url", "body"),
    "response": ("method", "url", "status", "headers", "body"),
    "connect": ("url",),
    "upgrade": ("url", "status", "headers"),
    "frame_out": ("text",),
    "frame_in": ("text",),
    "close": ("direction", "code"),
    "closed": ("code",),
}


def shared(events: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, list[list[Any]]]:
    """Return by kind what both sides state, as JSON has it, in order."""
    found: dict[str, list[list[Any]]] = {kind: [] for kind in SHARED}
    for kind, data in events:
        if kind in SHARED:
            found[kind].append(json.loads(json.dumps([data.get(name) for name in SHARED[kind]])))
    return found


def test_the_sandbox_reports_the_same_as_the_clients_trace(serve: Serve, enter: Enter, api: str) -> None:
    events = Events()
    sandbox = serve(observer=events)
    guest = enter(sandbox, api)
    path = guest.cwd / "client.trace"
    for command in (["session", "create"], ["ask", "hi"], ["history"]):
        guest.ok(*command, "--trace-append", str(path))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    ended = sum(line["kind"] == "closed" for line in lines)
    if ended:
        events.wait("closed", ended)
    redactor = Redactor()
    for _ in range(2):  # the second time, all secrets are known
        masked = [(kind, redactor.value(data)) for kind, data in events.all]
    assert shared(masked) == shared((line["kind"], line) for line in lines)
