"""The lines of cards, pickers and forms in golden transcripts. They must not change between versions."""

from __future__ import annotations

from typing import Any

import pytest

from guestctl.checks.content_lines import content_lines
from tests.unit.test_answers import ANY, FORM, SLOTS

CARD = {
    "title": "Parcel",
    "description": "3 days",
    "image": "https://cdn.example/a.png",
    "actions": [
        {"type": "Postback", "text": "Track it", "payload": "cmd:track"},
        {"type": "Link", "text": "Details", "url": "https://shop.example/1?signed=yes#here"},
    ],
    "defaultAction": {"type": "Link", "text": "Open", "url": "http://["},
}
PICKER = {
    "receivedMessage": {"title": "Toppings", "subtitle": "Tap"},
    "sections": [
        {"title": "Cheese", "multipleSelection": True, "items": [{"id": "f", "title": "Feta", "subtitle": "sheep"}]},
        {"title": "", "items": [{"id": "b", "title": "Brie"}, 5, {"id": "n"}]},
    ],
}
INTRODUCED = {
    "introduction": {"title": "You", "subtitle": "please", "buttonText": "Start"},
    "formPages": [
        {
            "title": "Day",
            "pageComponents": [
                {"input": {"id": 5, "title": "Name", "subtitle": "all of it", "placeholderText": "Ada"}},
                {"datePicker": {"id": "d", "title": "When", "availableTimes": [{"dateTime": "2026-03-09"}, {}]}},
                {"listPicker": {"id": "l", **PICKER}},
                {"wheelPicker": {"id": "w", "isRequired": True, "items": [{"title": "1", "value": "one"}]}},
                {"dial": {"title": "of another day"}},
            ],
        }
    ],
}


CARD_LINES = ["(card) Parcel – 3 days", "(link) Details https://shop.example/1", "(link) Open http://["]
PICKER_LINES = [
    "(list) Toppings – Tap",
    "(section) Cheese, several",
    "(item) Feta – sheep",
    "(section) ",
    "(item) Brie",
]
FORM_LINES = [
    "(page) Name",
    "(field) name – input – required",
    "(field) note – input – Note",
    "(page) More",
    "(field) day – datePicker",
    "(date) Day",
    "(field) top – listPicker",
    "(list) Toppings",
    "(section) Cheese, several",
    "(item) Feta",
    "(item) Brie",
    "(field) size – wheelPicker",
    "(item) 1",
    "(item) 2",
]
INTRODUCED_LINES = [
    "(form) You – please – Start",
    "(page) Day",
    "(field) 5 – input – Name – all of it – Ada",
    "(field) d – datePicker",
    "(date) When",
    "(item) 2026-03-09",
    "(item) ",
    "(field) l – listPicker",
    *PICKER_LINES,
    "(field) w – wheelPicker – required",
    "(item) 1 – one",
    "(field) dial",
]


@pytest.mark.parametrize(
    ("items", "lines"),
    [
        ([{"quickReply": {"text": "Red", "payload": "r"}}, {"attachment": {"id": "a"}}], []),
        ([{"quickReplyV2": {"title": "Colours", "actions": [{"text": "Red"}]}}], ["(choice) Colours"]),
        ([{"quickReplyV2": {}}, {"buttonResponse": {"text": "Red", "payload": "r"}}], []),
        ([{"card": CARD}], CARD_LINES),
        ([{"generic": {"description": "alone"}}], ["(card) alone"]),
        ([{"carousel": {"cards": [CARD, 5, CARD]}}], [*CARD_LINES, *CARD_LINES]),
        ([*SLOTS.content], ["(date) Slot"]),
        ([*ANY.content], ["(date) Day – 2026-03-01T00:00:00.000Z – 2026-03-31T00:00:00.000Z"]),
        ([{"listPicker": PICKER}], PICKER_LINES),
        ([*FORM.content], FORM_LINES),
        ([{"form": INTRODUCED}], INTRODUCED_LINES),
        ([{"form": {**INTRODUCED, "response": []}}], []),
        ([{"text": {"body": "small print"}}], ["(text) small print"]),
        ([{"location": {"text": "Shop", "address": "Main St 1", "url": "https://x"}}], ["(place) Shop – Main St 1"]),
        ([{"contentType": "Story", "story": {}}, {"card": 5, "contentType": "Card"}], ["(Story)", "(Card)"]),
        ([{"contentType": 5}, {}, 7], []),
    ],
)
def test_the_lines_of_an_item(items: list[Any], lines: list[str]) -> None:
    assert list(content_lines(items)) == lines
