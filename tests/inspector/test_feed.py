"""What pages receive: the history, then everything that passes between guests and the sandbox."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
import websocket

from guestctl.inspector import feed, retained
from guestctl.sandbox.server import Sandbox
from tests.cli.conftest import Front
from tests.inspector.page import STUCK, Page, serving
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


def test_the_end_of_the_sandbox_reaches_every_page(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, ready), Page(ready["ui_url"]) as first, Page(ready["ui_url"]) as second:
        process.send_signal(signal.SIGTERM)
        for page in (first, second):
            page.until(lambda message: message["type"] == "gone")
            with pytest.raises(EOFError):
                page.next()
        assert process.wait(STUCK) == 0


def test_with_tls_page_and_feed_use_https_and_a_secure_cookie(tmp_path: Path) -> None:
    with serving(tmp_path, "--tls") as (_, ready):
        assert ready["ui_url"].startswith("https://")
        with Page(ready["ui_url"], ca=ready["ca"]) as page:
            assert page.until(lambda message: message["type"] == "hello")["guest"]["socket_url"].startswith("wss://")
            answer = page.post("login", {"token": page.token})
            assert answer.headers["Set-Cookie"].endswith("; HttpOnly; SameSite=Strict; Secure")
            policy = requests.get(page.address, verify=ready["ca"], timeout=STUCK).headers["Content-Security-Policy"]
            assert f"connect-src 'self' wss{page.origin[5:]};" in policy
            page.do("faults", add=["delay"])
            page.until(lambda message: [one["spec"] for one in message.get("armed", [])] == ["delay"])
            assert page.post("api/faults", {"clear": True}, {"Origin": "http" + page.origin[5:]}).status_code == 403


def test_exec_prints_the_address_for_people_and_hides_it_from_the_command(alone: Front) -> None:
    told = alone("sandbox", "exec", "--ui", "--", sys.executable, "-c", "import os; print(dict(os.environ))")
    assert told.code == 0
    (line,) = [line for line in told.err.splitlines() if line.startswith("inspector at http://127.0.0.1:")]
    assert line.partition("#")[2] not in told.out


def test_secrets_are_masked_and_equal_ones_look_equal(sandbox: Sandbox, page: Page) -> None:
    token = "5e884898-da28-4715-9a0d-aabbccddeeff"
    with Stranger(sandbox, token) as guest:
        guest.configure()
        guest.message(f"my token is {token} and {sandbox.admin_key}")
        guest.expect("StructuredMessage")
        guest.expect("StructuredMessage")
        jwt = guest.jwt()
        guest.history(jwt)
        page.until_event(kind="response", status=200)
    everything = json.dumps(page.messages)
    for secret in (token, jwt, sandbox.admin_key, sandbox.client_secret):
        assert secret not in everything
    masks = {json.loads(event["text"])["token"] for event in page.events if event["kind"] == "frame_out"}
    assert len(masks) == 1


def test_a_long_text_is_shortened_for_the_page_only(sandbox: Sandbox, page: Page) -> None:
    with Stranger(sandbox) as guest:
        guest.configure()
        guest.message("x" * 20_000)
        page.until_event(summary="configureSession")
        event = page.until_event(kind="frame_out")
        assert len(event["text"]) == 16_384
        assert event["shortened"]["text"] > 20_000
        assert event["summary"] == f"guest: {'x' * 192}…"


def test_of_a_large_body_a_part_is_masked_and_a_part_of_that_is_shown(sandbox: Sandbox, page: Page) -> None:
    """A guest can upload 26 MB. Masking all of it would stop the sandbox."""
    secret = "5e884898-da28-4715-9a0d-aabbccddeeff"
    body = f'{{"token":"{secret}","text":"'.encode() + b"x" * (65_536 - 60) + f'","token":"{secret}","y":"'.encode()
    body += b"z" * 5_000_000 + b'"}'
    request = {"exchange": 9, "method": "PUT", "url": f"{sandbox.url}/upload", "headers": {}, "body": body}
    sandbox.call(lambda: sandbox.observer and sandbox.observer("request", request))
    event = page.until_event(kind="request", exchange=9)
    assert secret[:8] not in json.dumps(page.messages)
    assert (len(event["body"]), event["shortened"]) == (16_384, {"body": len(body)})


def test_a_page_that_does_not_read_misses_events_and_holds_nobody_up(
    sandbox: Sandbox, open_page: Callable[[], Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "WAITING_EVENTS", 2_000)
    stalled = Page(str(sandbox.ui_url), buffer=4096)
    reading = open_page()
    with Stranger(sandbox) as guest:
        guest.configure()

        def flood() -> None:
            assert sandbox.observer is not None
            for number in range(6_000):
                sandbox.observer("frame_in", {"socket": 1, "session": "flood", "text": "x" * 200, "number": number})

        sandbox.call(flood)
        guest.message("still served")
        guest.expect("StructuredMessage")
        assert reading.until(lambda message: message["type"] == "gap")["count"] > 0
        reading.until_event(summary="bot: echo: still served")
        missed = sum(message["count"] for message in reading.messages if message["type"] == "gap")
        numbers = [event["n"] for event in reading.events]
        assert numbers == sorted(set(numbers))
        assert len(numbers) + missed == numbers[-1]
        stalled.until(lambda message: message["type"] == "gap")
        stalled.until_event(summary="bot: echo: still served")
        stalled.socket.shutdown()


def test_history_is_bounded_and_a_new_page_gets_a_gap_for_the_rest(
    sandbox: Sandbox, open_page: Callable[[], Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retained, "SESSION_EVENTS", 2_000)

    def observe() -> None:
        assert sandbox.observer is not None
        sandbox.observer("frame_in", {"socket": 7, "session": "quiet", "text": "the first"})
        for number in range(5_000):
            sandbox.observer("frame_in", {"socket": 8, "session": "busy", "text": str(number)})
        for _ in range(3):
            sandbox.observer("frame_in", {"socket": 9, "session": "large", "text": "y" * 1_000_000})

    sandbox.call(observe)
    page = open_page()
    gap = page.until(lambda message: message["type"] == "gap")["count"]
    page.until_event(session="large", n=5_004)
    assert gap + len(page.events) == 5_004
    assert page.events[0]["summary"] == "the first"
    busy = [event for event in page.events if event["session"] == "busy"]
    assert 1_000 < len(busy) <= 3_024
    large = [event for event in page.events if event["session"] == "large"]
    assert all(len(event["text"]) == 16_384 and event["shortened"] == {"text": 1_000_000} for event in large)


def test_only_so_many_pages_may_be_open(open_page: Callable[[], Page]) -> None:
    for _ in range(16):
        open_page()
    with pytest.raises(websocket.WebSocketBadStatusException, match="503"):
        open_page()
