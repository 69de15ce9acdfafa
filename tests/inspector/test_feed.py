"""What pages receive: the history, then everything that passes between guests and the sandbox."""

from __future__ import annotations

from collections.abc import Callable

from guestctl.sandbox.server import Sandbox
from tests.inspector.page import Page
from tests.sandbox.stranger import Stranger


def test_a_page_gets_the_history_and_then_what_comes(sandbox: Sandbox, open_page: Callable[[], Page]) -> None:
    with Stranger(sandbox) as guest:
        guest.configure()
        guest.message("before")
        page = open_page()
        hello = page.next()
        assert (hello["type"], hello["source"], hello["can"]) == ("hello", "sandbox", ["agent", "faults", "guest"])
        assert hello["guest"] == {"socket_url": sandbox.socket_url, "deployment_id": sandbox.deployment_id}
        page.until_event(summary="bot: echo: before")
        guest.message("after")
        last = page.until_event(summary="bot: echo: after")
    session = last["session"]
    numbers = [event["n"] for event in page.events]
    assert numbers == list(range(1, len(numbers) + 1))
    assert [event["kind"] for event in page.events[:5]] == ["connect", "upgrade", "frame_out", "session", "frame_in"]
    assert {event["session"] for event in page.events[:3]} == {"socket 1"}
    assert {event["session"] for event in page.events[3:]} == {session}
    assert session in sandbox.call(lambda: set(sandbox.service.conversations))


def test_all_pages_get_the_same_and_a_closed_one_disturbs_nobody(
    sandbox: Sandbox, open_page: Callable[[], Page]
) -> None:
    pages = [open_page() for _ in range(3)]
    with Stranger(sandbox) as guest:
        guest.configure()
        for page in pages:
            page.until_event(summary="SessionResponse")
        pages.pop().socket.shutdown()
        guest.message("hi")
        for page in pages:
            page.until_event(summary="bot: echo: hi")
    assert pages[0].events == pages[1].events
