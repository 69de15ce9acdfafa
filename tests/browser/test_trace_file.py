"""The file of `trace view --html` in a browser, opened from disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.browser.hostile import EVERY_CODE_POINT, LONG, MARKUP
from tests.cli.conftest import Front

Opened = Callable[..., Any]

#: A row of the timeline.
ROW = ".viewport [aria-posinset]"


def line(number: int, kind: str, **members: Any) -> str:
    return json.dumps({"time": "2026-03-01T10:00:00.000Z", "seconds": number / 10, "kind": kind, **members}) + "\n"


def text(value: str, number: int) -> str:
    return json.dumps({"body": {"id": f"m-{number}", "direction": "Outbound", "text": value}}, ensure_ascii=False)


CONVERSATION = (
    line(0, "request", method="GET", url="https://api.example/conf", headers={})
    + line(1, "response", method="GET", url="https://api.example/conf", status=503, headers={}, body="no")
    + line(2, "connect", url="wss://socket.example/v1")
    + line(3, "frame_out", text=json.dumps({"action": "onMessage", "message": {"text": "Where is it?"}}))
    + line(4, "frame_in", text=text("On its way", 1))
)


@pytest.fixture
def show(tmp_path: Path, opened: Opened) -> Callable[..., Any]:
    """Write traces as one file, and open it from disk."""

    def write(*traces: str, **options: Any) -> Any:
        front = Front({"GUESTCTL_STATE": str(tmp_path / "state"), "XDG_CONFIG_HOME": str(tmp_path)}, tmp_path)
        names = [f"{number}.trace" for number in range(len(traces))]
        for name, content in zip(names, traces, strict=True):
            (tmp_path / name).write_text(content)
        assert front("trace", "view", *names, "--html", "trace.html").code == 0
        return opened((tmp_path / "trace.html").as_uri(), **options)

    return write


def entry(page: Any, summary: str) -> Any:
    return page.locator(ROW, has_text=summary)


def test_it_shows_the_events_and_their_details(show: Callable[..., Any]) -> None:
    page = show(CONVERSATION)
    entry(page, "On its way").wait_for()
    assert page.title().startswith("0.trace")
    assert entry(page, "GET /conf 503").locator(".took").inner_text().strip().endswith("100 ms")
    entry(page, "guest: Where is it?").click()
    decoded = json.loads(page.get_by_label("Decoded").inner_text())
    assert decoded == {"action": "onMessage", "message": {"text": "Where is it?"}}
    page.get_by_role("tab", name="Conversation").click()
    page.locator(".bubble", has_text="On its way").wait_for()
    assert page.get_by_role("tab", name="Faults").count() == 0


def test_several_traces_are_sessions_of_their_own(show: Callable[..., Any]) -> None:
    page = show(CONVERSATION, CONVERSATION)
    entry(page, "On its way").first.wait_for()
    page.get_by_role("button", name="1.trace: command 1").click()
    page.locator(".count", has_text="5 of 10").wait_for()


def test_hostile_texts_run_nothing(show: Callable[..., Any]) -> None:
    content = line(0, "connect", url="wss://socket.example/v1", socket=1)
    given = [*MARKUP, *EVERY_CODE_POINT, *LONG]
    for number, value in enumerate(given, 1):
        content += line(number, "frame_in", text=text(value, number), socket=1)
        content += line(number, "frame_out", text=value, socket=1)
    for number, value in enumerate(MARKUP, len(given) + 1):
        members = {"method": value, "url": value, "headers": {value: value}, "body": {value: value}}
        content += line(number, "request", **members, guest=value[:60])
        content += line(number, value, direction=value, code=value)
    page = show(content)
    page.locator(ROW).first.wait_for()
    page.get_by_role("button", name="All sessions").wait_for()
    page.locator(".viewport").focus()
    page.keyboard.press("Home")
    for _ in range(2 * len(given) + 2 * len(MARKUP) + 1):
        page.keyboard.press("ArrowDown")
    page.get_by_role("tab", name="Conversation").click()
    assert page.evaluate("window.ran === undefined && document.scripts.length === 2")
    assert page.locator("img, iframe").count() == 0
