"""Rich content as lines on a terminal: no content can pose as another line."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from guestctl.core.model import Message, Sender
from guestctl.dialects.web_messaging.content import read_attachments, read_options
from guestctl.output.records import Record, message_record
from guestctl.output.rich_content_lines import address, lines, moment
from guestctl.output.terminal import Terminal, cells
from guestctl.output.views import View
from tests.unit.test_answers import ANY, CARD, FORM, ITEMS, JUNK, SLOTS

AT = "2026-03-04T09:15:27.412Z"


@pytest.fixture(autouse=True)
def _utc() -> Iterator[None]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = "UTC"
    time.tzset()
    yield
    os.environ.pop("TZ")
    if before is not None:
        os.environ["TZ"] = before
    time.tzset()


def record(*content: Any, text: str = "") -> Record:
    message = Message(
        "m1",
        "outbound",
        text,
        AT,
        sender=Sender("bot", "Ann"),
        content=content,
        options=read_options(content),
        attachments=read_attachments(content),
    )
    return message_record(message, "d")


def drawn(*content: Any, text: str = "") -> list[str]:
    return ["  " * level + line for level, line in lines(record(*content, text=text))]


def test_quick_replies() -> None:
    one = {"contentType": "QuickReply", "quickReply": {"text": "Red", "payload": "r"}}
    assert drawn(one, one) == ["[1] Red", "[2] Red"]
    group = {"title": "Colours", "actions": [{"text": "Red", "payload": "r"}, {"text": "Blue", "payload": "b"}]}
    assert drawn({"contentType": "QuickReplyV2", "quickReplyV2": group}, one) == [
        "Colours",
        "  [1] Red",
        "  [2] Blue",
        "[3] Red",
    ]


def test_options_of_cards_and_carousels_are_numbered_consecutively() -> None:
    second = {"title": "Other", "description": "1 day", "image": "https://cdn.example/a/std.png", "actions": []}
    assert drawn({"contentType": "Carousel", "carousel": {"cards": [CARD, second, CARD]}}) == [
        "Parcel",
        "  [1] Track it",
        "  [2] Details <https://shop.example/1>",
        "  [3] Open",
        "Other – 1 day",
        "  (image) std.png <https://cdn.example/a/std.png>",
        "Parcel",
        "  [4] Track it",
        "  [5] Details <https://shop.example/1>",
        "  [6] Open",
    ]


def test_dates_are_local_and_have_an_end() -> None:
    assert drawn(*SLOTS.content) == [
        "Slot",
        "  [1] Mon 2026-03-09 11:00–12:00",
        "  [2] Mon 2026-03-09 12:00–13:00",
        "  [3] Thu 2026-03-12 12:00–13:00",
    ]
    assert drawn(*ANY.content) == ["Day", "  (any date from 2026-03-01 to 2026-03-31)"]
    assert moment("2026-03-09T23:30:00Z", 7200) == "Mon 2026-03-09 23:30 to Tue 2026-03-10 01:30"
    assert moment("soon\x1b") == "soon\\x1b"


def test_lists() -> None:
    def picker(*sections: Any) -> dict[str, Any]:
        received = {"title": "Toppings", "subtitle": "Tap"}
        return {"contentType": "ListPicker", "listPicker": {"sections": list(sections), "receivedMessage": received}}

    items = [{"id": "f", "title": "Feta", "subtitle": "from sheep"}, {"id": "b", "title": "Brie"}]
    cheese = {"title": "Cheese", "multipleSelection": True, "items": items}
    plain = {"title": "Toppings", "multipleSelection": False, "items": items}
    assert drawn(picker(cheese, plain)) == [
        "Toppings – Tap",
        "  Cheese – pick one or more",
        "    [1] Feta – from sheep",
        "    [2] Brie",
        "  [3] Feta – from sheep",
        "  [4] Brie",
    ]


def test_forms_and_their_answers() -> None:
    assert drawn(*FORM.content) == [
        "(form)",
        "  Name",
        "    name: (text, required)",
        "    note: Note (text)",
        "  More",
        "    day: Day (any date)",
        "    top: Toppings (one or more of: Feta, Brie)",
        "    size: (one of: 1, 2)",
    ]
    button = {"type": "Form", "text": "Ada", "payload": "Ada"}
    answer = {"id": "name", "component": {"contentType": "ButtonResponse", "buttonResponse": button}}
    assert drawn({"contentType": "Form", "form": {"response": [answer]}}) == ["(form) name: Ada"]
    picked = {
        "contentType": "ButtonResponse",
        "buttonResponse": {"type": "DatePicker", "text": "9 Mar", "payload": "x"},
    }
    assert drawn(picked) == ["(picked) 9 Mar"]
    assert drawn(picked, text="9 Mar") == []


def test_unknown_content_is_named() -> None:
    assert drawn({"contentType": "Story", "story": {}}) == ["(cannot show Story)"]
    assert drawn({}) == ["(cannot show content of an unknown kind)"]
    place = {"text": "Shop", "address": "Main St 1", "url": "https://map.example", "latitude": 1.5, "longitude": 2}
    assert drawn({"contentType": "Location", "location": place}) == [
        "(place) Shop – Main St 1 – 1.5 2",
        "  <https://map.example>",
    ]


def test_files_by_name_and_size() -> None:
    file = {"id": "a1", "mediaType": "Image", "filename": "lab\x1bel.png", "fileSize": 48213, "mime": "image/png"}
    text = View(Terminal(), lambda: 0.0).line(record({"contentType": "Attachment", "attachment": file}))
    assert text[28:] == "(image) lab\\x1bel.png, 48.2 kB, a1"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://shop.example/a?b=c", "<https://shop.example/a?b=c>"),
        ("https://bank.example@evil.example/", "<https://bank.example@evil.example/> (leads to evil.example)"),
        ("https://exаmple.com/", "<https://exаmple.com/> (leads to xn--exmple-4nf.com)"),
        ("javascript:alert(1)", "<javascript:alert(1)> (not a web address)"),
        ("file:///etc/passwd", "<file:///etc/passwd> (not a web address)"),
        ("https://a\x1b]8;;x\x07.example/\u202e", "<https://a\\x1b]8;;x\\x07.example/\\u202e>"),
        ("http://[", "<http://[> (not an address)"),
        ("tel:+1", "<tel:+1>"),
    ],
)
def test_links_are_shown_and_never_clickable(url: str, shown: str) -> None:
    assert address(url).startswith(shown)
    assert address(url).isprintable()


@given(some.lists(ITEMS | JUNK, max_size=4), some.text(max_size=40))
def test_any_content_fits_and_is_indented(content: list[Any], text: str) -> None:
    shown = View(Terminal(stdout=True, width=60, colour=True), lambda: 1_772_615_727.0, lambda: True).line(
        record(*content, text=text)
    )
    first, *rest = shown.split("\n")
    indent = first.index("<") + 2 + 12 - len("\x1b[2m\x1b[0m")
    for line in rest:
        plain = re.sub(r"\x1b\[[0-9;]*m", "", line)
        assert "\x1b" not in plain
        assert sum(map(cells, plain)) <= 60
        assert plain.startswith(" " * indent) or not plain.strip()


@given(some.lists(ITEMS | JUNK, max_size=4))
def test_every_option_is_shown_once_with_its_number(content: list[Any]) -> None:
    made = record(*content)
    shown = [line for _, line in lines(made) if line.startswith("[")]
    numbered = [line for line in shown if line.split("]")[0][1:].isdigit()]
    assert len(numbered) >= len(made["options"])
    for number in range(1, len(made["options"]) + 1):
        assert any(line.startswith(f"[{number}]") for line in numbered)
