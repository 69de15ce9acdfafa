"""The inspector's page in a browser, over a feed that the tests write."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.browser.conftest import MODULES
from tests.browser.feed_server import HELLO, KINDS, TOKEN, FeedServer, feeding, frame

Opened = Callable[..., Any]

#: What a guest says, and what comes back.
CONVERSATION = [
    {"n": 1, "kind": "connect", "url": "ws://127.0.0.1/v1", "summary": "connect /v1", "socket": 1},
    {
        "n": 2,
        "kind": "upgrade",
        "url": "ws://127.0.0.1/v1",
        "status": 101,
        "headers": {"upgrade": "websocket"},
        "socket": 1,
    },
    {
        "n": 3,
        "kind": "frame_out",
        "text": '{"action":"onMessage","tracingId":"a"}',
        "summary": "guest: Hello?",
        "socket": 1,
    },
    {
        "n": 4,
        "kind": "frame_in",
        "socket": 1,
        "text": '{"tracingId":"a","body":{"id":"1","direction":"Inbound","text":"Hello?"}}',
    },
    {
        "n": 5,
        "kind": "frame_in",
        "socket": 1,
        "summary": "bot: Good morning",
        "text": '{"body":{"id":"2","direction":"Outbound","text":"Good morning","originatingEntity":"Bot"}}',
    },
    {
        "n": 6,
        "kind": "request",
        "exchange": 1,
        "method": "POST",
        "url": "http://127.0.0.1/a?b=it's",
        "headers": {"Content-Type": "application/json", "Authorization": "Bearer ***"},
        "body": '{"a":[1,true,null,"x"]}',
        "summary": "POST /a?b=it's",
    },
    {
        "n": 7,
        "kind": "response",
        "exchange": 1,
        "status": 503,
        "headers": {"retry-after": "1"},
        "body": "no",
        "summary": "POST /a 503",
    },
]


def events(*given: dict[str, Any]) -> dict[str, Any]:
    """Return a message of the feed with these events, completed."""
    base = {"session": "s-1", "socket": None, "exchange": None}
    completed = [{**base, "time": 1772615800 + one["n"] / 100, "summary": one["kind"], **one} for one in given]
    return {"type": "events", "events": completed}


def sessions(*ids: str) -> dict[str, Any]:
    counters = {
        "api": "web-messaging",
        "state": "open",
        "sockets": 1,
        "messages": 2,
        "received": 3,
        "sent": 2,
        "requests": 1,
    }
    return {"type": "sessions", "sessions": [{"id": one, "started": n, **counters} for n, one in enumerate(ids)]}


def talking(feed: FeedServer) -> None:
    feed.say(sessions("s-1"), events(*CONVERSATION))


def rows(page: Any) -> list[str]:
    """Return the summaries of the rows in sight, from the top."""
    texts: list[str] = page.evaluate(
        """() => [...document.querySelectorAll(".entry")]
        .sort((one, other) => one.ariaPosInSet - other.ariaPosInSet)
        .map((row) => row.querySelector(".summary").textContent)"""
    )
    return texts


def row(page: Any, text: str) -> Any:
    return page.locator(".entry", has_text=text)


def posted(feed: FeedServer) -> dict[str, Any]:
    path, body = feed.posts.get(timeout=60)
    return {"path": path, **body}


def tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def test_a_page_signs_in_with_the_token_and_shows_what_happens(feed: FeedServer, opened: Opened) -> None:
    talking(feed)
    page = opened(feed.address)
    row(page, "Good morning").wait_for()
    assert posted(feed) == {"path": "login", "token": TOKEN}
    assert page.url == feed.address.partition("#")[0]
    assert page.title() == "a test – guestctl"
    assert rows(page)[:3] == ["connect /v1", "upgrade", "guest: Hello?"]
    assert page.locator("gc-sessions").inner_text().split("\n") == [
        "Sessions",
        *("All sessions", "1"),
        *("s-1", "open", "web-messaging", "1 socket · 2 messages · 2 sent, 3 received"),
    ]
    feed.say(events({"n": 9, "kind": "closed", "error": "lost"}))
    row(page, "closed").wait_for()


def test_a_page_without_the_token_says_what_to_do(feed: FeedServer, opened: Opened) -> None:
    feed.refusal = "the token is not the one of this inspector"
    page = opened(feed.address, watched=False)
    page.get_by_text("the token is not the one of this inspector").wait_for()
    page.get_by_text("open the address that it printed").wait_for()


def test_a_request_and_its_answer_are_paired_with_the_time_between(feed: FeedServer, opened: Opened) -> None:
    talking(feed)
    page = opened(feed.address)
    assert row(page, "POST /a 503").locator(".took").inner_text().strip().endswith("10 ms")
    row(page, "POST /a 503").click()
    assert row(page, "POST /a?b=").get_attribute("class").endswith("partner")
    page.get_by_role("button", name="Go to the request").click()
    assert row(page, "POST /a?b=").get_attribute("aria-selected") == "true"
    page.get_by_role("button", name="Go to the answer").click()
    assert row(page, "POST /a 503").get_attribute("aria-selected") == "true"
    assert page.locator(".facts").inner_text().split("\n")[-2:] == ["status", "503"]


def test_the_filter_takes_text_direction_kind_and_session(feed: FeedServer, opened: Opened) -> None:
    talking(feed)
    feed.say(sessions("s-2"), events({"n": 20, "kind": "frame_out", "text": "x", "session": "s-2", "summary": "other"}))
    page = opened(feed.address)
    row(page, "other").wait_for()
    page.get_by_label("Filter by text").fill("RETRY")
    page.get_by_text("Nothing matches the filter.").wait_for()
    page.get_by_label("Filter by text").fill("originatingentity")
    assert rows(page) == ["bot: Good morning"]
    assert page.locator(".count").inner_text() == "1 of 8"
    page.get_by_label("Filter by text").fill("")
    page.get_by_label("Direction").select_option("out")
    page.get_by_label("Kind").select_option("frames")
    assert rows(page) == ["guest: Hello?", "other"]
    page.get_by_role("button", name="s-2").click()
    assert rows(page) == ["other"]
    page.get_by_role("button", name="All sessions").click()
    assert rows(page) == ["guest: Hello?", "other"]


def test_details_show_raw_and_decoded_and_copy(feed: FeedServer, opened: Opened) -> None:
    talking(feed)
    page = opened(feed.address, permissions=["clipboard-read", "clipboard-write"])
    row(page, "POST /a?b=").click()
    assert json.loads(page.get_by_label("Decoded").inner_text()) == {"a": [1, True, None, "x"]}
    assert page.get_by_label("Raw").inner_text() == '{"a":[1,true,null,"x"]}'
    page.get_by_text("Headers (2)").click()
    assert page.locator(".headers td").all_inner_texts() == ["application/json", "Bearer ***"]
    page.get_by_role("button", name="Copy as curl").click()
    page.get_by_role("button", name="Copied").wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("curl -X 'POST' 'http://127.0.0.1/a?b=it'\\''s' \\\n  -H 'Content-Type: application/json'")
    assert copied.endswith("""--data-raw '{"a":[1,true,null,"x"]}'""")
    row(page, "guest: Hello?").click()
    page.get_by_role("button", name="Copy frame").click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == CONVERSATION[2]["text"]


def test_a_shortened_text_is_marked(feed: FeedServer, opened: Opened) -> None:
    feed.say(
        events({"n": 1, "kind": "frame_in", "text": "x" * 100, "shortened": {"text": 1_000_000}, "summary": "long"})
    )
    page = opened(feed.address)
    row(page, "long").click()
    page.get_by_text("Shortened: the text has 1,000,000 characters.").wait_for()


def test_the_agent_answers(feed: FeedServer, opened: Opened) -> None:
    talking(feed)
    page = opened(feed.address)
    posted(feed)
    tab(page, "Agent desk")
    assert page.locator("gc-desk .bubble .text").all_inner_texts() == ["Hello?", "Good morning"]
    page.get_by_label("Answer as the agent").fill("How can I help?")
    page.get_by_label("Answer as the agent").press("Enter")
    assert posted(feed) == {"path": "api/send", "session": "s-1", "text": "How can I help?"}
    page.get_by_text("Quick replies").click()
    page.get_by_label("Labels, with commas between").fill("Yes, No")
    page.get_by_label("Answer as the agent").fill("Pizza?")
    page.get_by_role("button", name="Send").click()
    replies = [
        {"contentType": "QuickReply", "quickReply": {"text": text, "payload": text, "action": "Message"}}
        for text in ("Yes", "No")
    ]
    assert posted(feed) == {"path": "api/send", "session": "s-1", "text": "Pizza?", "content": replies}
    page.get_by_text("Card", exact=True).click()
    page.get_by_label("Title").fill("Margherita")
    page.get_by_label("Buttons, with commas between").fill("Order")
    page.get_by_role("button", name="Send").click()
    card = {
        "title": "Margherita",
        "description": "",
        "actions": [{"type": "Postback", "text": "Order", "payload": "Order"}],
    }
    assert posted(feed)["content"] == [{"contentType": "Card", "card": card}]
    page.get_by_text("File", exact=True).click()
    file = {"name": "plan.txt", "mimeType": "text/plain", "buffer": b"\x00\xff"}
    page.get_by_label("At most 10 MB").set_input_files(file)
    page.get_by_role("button", name="Send").click()
    assert posted(feed)["file"] == {"name": "plan.txt", "type": "text/plain", "base64": "AP8="}
    page.get_by_role("button", name="Typing").click()
    assert posted(feed) == {"path": "api/send", "session": "s-1", "typing": True}
    page.get_by_role("button", name="End conversation").click()
    assert posted(feed) == {"path": "api/send", "session": "s-1", "end": True}


def test_a_refused_answer_stays_in_its_field(feed: FeedServer, opened: Opened) -> None:
    talking(feed)
    page = opened(feed.address, watched=False)
    posted(feed)
    tab(page, "Agent desk")
    page.get_by_role("button", name="Send").click()
    page.get_by_text("there is nothing to send").wait_for()
    feed.refusal = "the conversation has ended"
    page.get_by_label("Answer as the agent").fill("Hello")
    page.get_by_role("button", name="Send").click()
    page.get_by_text("the conversation has ended").wait_for()
    assert page.get_by_label("Answer as the agent").input_value() == "Hello"


def test_faults_are_switched_on_for_the_next_n_and_off(feed: FeedServer, opened: Opened) -> None:
    feed.say({"type": "faults", "armed": [], "kinds": KINDS})
    page = opened(feed.address)
    posted(feed)
    tab(page, "Faults")
    switch = page.get_by_role("switch", name=re.compile("drop"))
    page.get_by_label("next of drop").fill("3")
    page.get_by_label("keys of drop").fill("code=1001")
    switch.click()
    assert posted(feed) == {"path": "api/faults", "add": ["drop:times=3,code=1001"]}
    armed = {"spec": "drop:times=3,code=1001", "kind": "drop", "times_left": 2, "fired": 1}
    feed.say({"type": "faults", "armed": [armed], "kinds": KINDS})
    page.get_by_text("drop:times=3,code=1001: fired 1 time, 2 left").wait_for()
    assert switch.get_attribute("aria-checked") == "true"
    switch.click()
    assert posted(feed) == {"path": "api/faults", "remove": "drop:times=3,code=1001"}
    page.get_by_role("button", name="Switch all off").click()
    assert posted(feed) == {"path": "api/faults", "clear": True}


def test_the_position_stays_unless_it_is_at_the_end(feed: FeedServer, opened: Opened) -> None:
    feed.say(events(*({"n": n, "kind": "frame_in", "summary": f"frame {n}"} for n in range(300))))
    page = opened(feed.address)
    row(page, "frame 299").wait_for()
    feed.say(events({"n": 300, "kind": "frame_in", "summary": "frame 300"}))
    row(page, "frame 300").wait_for()
    page.locator(".viewport").evaluate("(port) => { port.scrollTop = 1000; }")
    newest = page.locator(".newest")
    newest.wait_for()
    before = page.locator(".viewport").evaluate("(port) => port.scrollTop")
    feed.say(events(*({"n": n, "kind": "frame_in", "summary": f"frame {n}"} for n in range(301, 313))))
    page.get_by_role("button", name="12 new").wait_for()
    assert page.locator(".viewport").evaluate("(port) => port.scrollTop") == before
    newest.click()
    row(page, "frame 312").wait_for()
    page.get_by_role("button", name="Pause").click()
    feed.say(events({"n": 400, "kind": "frame_in", "summary": "while paused"}))
    page.get_by_role("button", name="1 new").wait_for()
    page.get_by_role("button", name="Pause").click()
    assert page.get_by_role("button", name="Pause").get_attribute("aria-pressed") == "false"
    row(page, "while paused").wait_for()
    newest.wait_for(state="hidden")


def test_everything_can_be_reached_with_the_keyboard(feed: FeedServer, opened: Opened) -> None:
    talking(feed)
    page = opened(feed.address)
    row(page, "Good morning").wait_for()
    found = []
    for _ in range(12):
        page.keyboard.press("Tab")
        found.append(page.evaluate("document.activeElement.ariaLabel || document.activeElement.textContent"))
    texts = ["Pause", "Filter by text", "Direction", "Kind", "Frames and requests", "Details"]
    assert [text for text in dict.fromkeys(found) if text in texts] == texts
    page.locator(".viewport").focus()
    page.keyboard.press("Home")
    assert page.locator("[aria-selected=true].entry .summary").inner_text() == "connect /v1"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert page.locator("[aria-selected=true].entry .summary").inner_text() == "guest: Hello?"
    page.keyboard.press("End")
    assert page.locator(".viewport").get_attribute("aria-activedescendant") == "event-7"
    page.get_by_role("tab", name="Details").focus()
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("tab", name="Agent desk").get_attribute("aria-selected") == "true"


def test_a_lost_connection_returns_and_repeats_nothing(feed: FeedServer, opened: Opened) -> None:
    talking(feed)
    page = opened(feed.address)
    row(page, "POST /a 503").wait_for()
    feed.break_connections()
    page.get_by_text("trying again").wait_for()
    page.locator(".status.good").wait_for()
    feed.say(events({"n": 30, "kind": "closed"}))
    row(page, "closed").wait_for()
    assert len(rows(page)) == len(CONVERSATION) + 1
    feed.say({"type": "gap", "count": 4})
    page.get_by_text("4 events are not shown").wait_for()
    feed.say({"type": "gone"})
    feed.break_connections()
    page.get_by_text("Ended").wait_for()


def test_fifty_thousand_frames_fit(feed: FeedServer, opened: Opened) -> None:
    """The document has only the rows in sight, and the heap stays below 64 MiB."""
    text = json.dumps({"class": "StructuredMessage", "body": {"id": "x" * 32, "text": "Where is my parcel? " * 8}})
    page = opened(feed.address)
    for start in range(0, 50_000, 500):
        feed.say({"type": "events", "events": [frame(n, f"{text}{n}") for n in range(start, start + 500)]})
    page.locator(".count", has_text="50,000").wait_for()
    assert page.locator(".entry").count() < 100
    page.locator(".viewport").focus()
    page.keyboard.press("Home")
    page.locator("#event-0").wait_for()
    page.get_by_label("Filter by text").fill("49999")
    page.locator(".count", has_text="1 of 50,000").wait_for()
    devtools = page.context.new_cdp_session(page)
    devtools.send("HeapProfiler.collectGarbage")
    assert devtools.send("Runtime.getHeapUsage")["usedSize"] <= 64 << 20


MARKUP = [
    "<img src=x onerror=alert(1)><script>alert(1)</script><svg onload=alert(1)>",
    "</script><script>alert(1)</script><!--",
    "javascript:alert(1) data:text/html,<script>alert(1)</script>",
    '"><iframe srcdoc="<script>parent.ran=1</script>"></iframe>',
    "{{constructor.constructor('alert(1)')()}} ${alert(1)} `",
    "\x1b]0;title\x07\x1b[31m\x9b31m\r\n\x00\u202etxet\u2066\u2028\ufeff",
    "\ud800 \udfff \U0001f469\u200d\U0001f680 Zalgo" + "\u0301" * 500,
    "constructor __proto__ toString hasOwnProperty",
]


def hostile_events() -> list[dict[str, Any]]:
    """Return events with every code point, markup, escapes and long texts, in every member of an event."""
    points = "".join(map(chr, range(0x110000)))
    texts = [points[start : start + 16384] for start in range(0, len(points), 16384)]
    texts += [*MARKUP, "x" * 1_000_000, "\u0939\u093f " * 2_000, '{"a":' * 3000 + "1" + "}" * 3000]
    found: list[dict[str, Any]] = []
    message: dict[str, Any]
    for text in texts:
        message = {"id": text[:50], "direction": "Outbound", "text": text, "from": {"name": text[:200]}}
        found.append(frame(len(found), json.dumps({"body": message}, ensure_ascii=False)))
        found.append(frame(len(found), text, kind="frame_out"))
    for event in found[: -2 * len(MARKUP) - 6]:
        event["summary"] = ascii(event["summary"][:1])
    for text in MARKUP:
        content: list[dict[str, Any]] = [{"contentType": "Attachment", "attachment": {"url": text, "filename": text}}]
        content += [{"contentType": text, text: {"title": text}}, {"contentType": "Card", "card": {"title": text}}]
        message = {"id": f"content {text}", "direction": "Outbound", "content": content}
        found.append(frame(len(found), json.dumps({"body": message})))
        request: dict[str, Any] = {
            "url": text,
            "method": text,
            "headers": {text: text},
            "exchange": 1,
            "body": {text: text},
        }
        found.append({**frame(len(found), text, kind="request"), **request, "text": None})
        found.append({**frame(len(found), text, kind=text), "direction": text, "code": text, text: text})
    return found


def test_hostile_texts_run_nothing(feed: FeedServer, opened: Opened) -> None:
    """Every view shows them: rows, details, bubbles, sessions, faults, the title."""
    given = hostile_events()
    feed.say({**HELLO, "title": MARKUP[0], "instance": MARKUP[1]})
    ids = ["s-1", *(text[:60] for text in MARKUP)]
    feed.say({"type": "sessions", "sessions": [{"id": one, "api": one, "state": one, "started": 1} for one in ids]})
    kinds = [{"kind": text[:40], "keys": [text[:40]], "about": text} for text in MARKUP]
    armed = [{"spec": text, "kind": text[:40], "times_left": 1, "fired": 1} for text in MARKUP]
    feed.say({"type": "faults", "armed": armed, "kinds": kinds})
    for start in range(0, len(given), 50):
        feed.say({"type": "events", "events": given[start : start + 50]})
    page = opened(feed.address)
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    page.locator(".count", has_text=f"{len(given):,}").wait_for()
    # Drawing every script of the world takes minutes. So only some of these texts are drawn; all are in bubbles.
    texts = len(given) - 3 * len(MARKUP)
    for number in (0, 1, *range(texts - 22, len(given))):
        page.evaluate("(number) => document.querySelector('gc-timeline').choose(number)", number)
    page.locator(f"#event-{given[-1]['n']}[aria-selected=true]").wait_for()
    bubbles = page.locator("gc-desk .bubble.service")
    assert bubbles.count() == texts // 2 + len(MARKUP)
    assert re.search("[\u202a-\u202e\u2066-\u2069\u0000-\u0008]", "".join(bubbles.all_text_contents())) is None
    tab(page, "Faults")
    assert page.locator(".faults > li").count() == len(MARKUP)
    links = page.evaluate("[...document.querySelectorAll('a')].map((a) => [a.protocol, a.rel])")
    assert all(link == ["http:", "noopener noreferrer"] or link == ["https:", "noopener noreferrer"] for link in links)
    allowed = "link, meta, script[src], title"
    assert page.evaluate("document.querySelectorAll('script, iframe, object, embed, img, form[action]').length") == 1
    assert page.evaluate(f"document.head.querySelectorAll(':not({allowed})').length") == 0
    assert page.evaluate("window.ran") is None


def accessible(page: Any, rules: list[str]) -> None:
    """Fail with what axe-core finds. Without `rules`, it applies all of them."""
    only = {"runOnly": {"type": "rule", "values": rules}} if rules else {}
    found = page.evaluate("(options) => axe.run(options)", only)
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found["violations"]] == []


@pytest.mark.parametrize(
    ("options", "rules"),
    [
        ({"color_scheme": "light"}, []),
        ({"color_scheme": "dark"}, ["color-contrast"]),
        ({"viewport": {"width": 320, "height": 640}}, []),
        ({"viewport": {"width": 320, "height": 256}, "device_scale_factor": 4}, ["target-size"]),
    ],
    ids=["light", "dark", "narrow", "zoom"],
)
def test_the_page_is_accessible(opened: Opened, options: dict[str, Any], rules: list[str]) -> None:
    """Also on a window of 320 pixels, and at 400 % of a window of 1,280.

    The policy is left out only so that the test's own script can run.
    """
    script = MODULES / "axe-core" / "axe.min.js"
    if not script.is_file():
        pytest.skip("axe-core is not installed (npm ci --prefix tests/node)")
    guest = {"socket_url": "ws://127.0.0.1:1/", "deployment_id": "d"}
    armed = [{"spec": "drop", "kind": "drop", "times_left": None, "fired": 1}]
    with feeding({**HELLO, "can": ["agent", "faults", "guest"], "guest": guest}) as feed:
        talking(feed)
        feed.say({"type": "faults", "armed": armed, "kinds": KINDS})
        page = opened(feed.address, bypass_csp=True, **options)
        page.evaluate(script.read_text(encoding="utf-8"))
        row(page, "POST /a 503").click()
        for name in ("Details", "Agent desk", "Faults", "Try it"):
            tab(page, name)
            accessible(page, rules)
            width, window = page.evaluate("[document.scrollingElement.scrollWidth, innerWidth]")
            assert width <= window, name


def test_motion_is_reduced_on_request(feed: FeedServer, opened: Opened) -> None:
    page = opened(feed.address, reduced_motion="reduce")
    page.locator(".status.good").wait_for()
    assert page.evaluate("getComputedStyle(document.querySelector('button')).transitionDuration") == "0s"
