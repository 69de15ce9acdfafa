"""Answers: what a guest may call the thing picked, which items go together, and how a form is filled in."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from guestctl.core.clock import rfc3339
from guestctl.core.errors import UsageError
from guestctl.core.model import Message, Option, Outgoing
from guestctl.dialects.web_messaging.answers import answer, form_fields, picked
from guestctl.dialects.web_messaging.content import read_options, write_message

OPTIONS = (
    Option("Yes", "yes-payload", "QuickReply"),
    Option("No", "no-payload", "QuickReply"),
    Option("2", "the digit two", "QuickReply"),
    Option("yes", "lower", "QuickReply"),
)
OUT = Outgoing("k")


def offering(*content: dict[str, Any], options: tuple[Option, ...] | None = None) -> Message:
    found = read_options(content) if options is None else options
    return Message("m1", "outbound", "", None, content=content, options=found)


def picks(message: Message, *wanted: str) -> list[str]:
    found = answer(OUT, message, wanted, None)
    assert found is not None
    assert found.picks_from == "m1"
    return [option.payload for option in found.picks]


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        ("1", 0),
        ("2", 2),
        (2, 1),
        (3, 2),
        ("4", 3),
        ("Yes", 0),
        ("yes", 3),
        ("no-payload", 1),
        ("NO-PAYLOAD", 1),
        ("lower", 3),
    ],
)
def test_picked_by_label_payload_or_number(wanted: str | int, index: int) -> None:
    assert picked(offering(options=OPTIONS), wanted) is OPTIONS[index]


RATINGS = tuple(Option(str(n), f"rating:{n}", "QuickReply") for n in (5, 4, 3, 2, 1))


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_a_label_that_is_a_number_wins_over_the_place(number: int) -> None:
    assert picked(offering(options=RATINGS), str(number)).text == str(number)
    assert picked(offering(options=RATINGS), number) is RATINGS[number - 1]


@pytest.mark.parametrize("wanted", ["Same", "same", "YES"])
def test_a_name_of_several_options_is_refused_with_the_choices(wanted: str) -> None:
    same = tuple(Option(label, f"p{n}", "QuickReply") for n, label in enumerate(("Same", "Same", "Yes", "yes")))
    with pytest.raises(UsageError, match=r"names several options: . ") as refused:
        picked(offering(options=same), wanted)
    assert refused.value.delivery == "not_sent"


@pytest.mark.parametrize("wanted", ["0", "5", "99", "maybe", "", "-1", "1.0", "٢", "9" * 5000])
def test_not_offered_lists_what_is(wanted: str) -> None:
    with pytest.raises(UsageError, match='1 "Yes", 2 "No"') as caught:
        picked(offering(options=OPTIONS), wanted)
    assert "\n" not in caught.value.message


@given(some.lists(some.text(min_size=1), min_size=1, max_size=8), some.data())
def test_a_label_always_picks_something_with_that_label_or_number(labels: list[str], data: some.DataObject) -> None:
    options = tuple(Option(label, f"payload {n}", "QuickReply") for n, label in enumerate(labels))
    wanted = data.draw(some.sampled_from(labels))
    if labels.count(wanted) > 1:
        with pytest.raises(UsageError, match="several options"):
            picked(offering(options=options), wanted)
        return
    assert picked(offering(options=options), wanted).text == wanted


def test_nothing_to_pick_is_none() -> None:
    assert answer(OUT, offering(), ["1"], None) is None
    assert answer(OUT, offering({"contentType": "Text", "text": {"body": "hi"}}), ["1"], None) is None
    assert answer(OUT, offering(options=OPTIONS), [], {}) is None


def test_a_long_list_is_shortened_in_the_error() -> None:
    options = tuple(Option(f"item {n}", str(n), "QuickReply") for n in range(500))
    with pytest.raises(UsageError, match="and 470 more") as caught:
        picked(offering(options=options), "x")
    assert len(caught.value.message) < 1000


# --- cards ---

CARD: dict[str, Any] = {
    "title": "Parcel",
    "actions": [
        {"type": "Postback", "text": "Track it", "payload": "cmd:track"},
        {"type": "Link", "text": "Details", "url": "https://shop.example/1"},
    ],
    "defaultAction": {"type": "Postback", "text": "Open", "payload": "cmd:open"},
}


def test_a_cards_actions_and_its_default_one() -> None:
    message = offering({"contentType": "Card", "card": CARD})
    assert [option.text for option in message.options] == ["Track it", "Details", "Open"]
    assert picks(message, "Open") == ["cmd:open"]
    same = {**CARD, "defaultAction": CARD["actions"][0]}
    assert len(offering({"contentType": "Card", "card": same}).options) == 2


def test_a_link_sends_nothing() -> None:
    with pytest.raises(UsageError, match="it opens in a browser"):
        picks(offering({"contentType": "Card", "card": CARD}), "Details")


def test_only_items_of_one_list_go_together() -> None:
    with pytest.raises(UsageError, match="only items of one list"):
        picks(offering(options=OPTIONS), "1", "2")
    assert picks(offering(options=OPTIONS), "1", "Yes") == ["yes-payload"]


# --- dates ---

SLOTS = offering(
    {
        "contentType": "DatePicker",
        "datePicker": {
            "title": "Slot",
            "availableTimes": [
                {"dateTime": "2026-03-09T11:00:00.000Z", "duration": 3600},
                {"dateTime": "2026-03-09T12:00:00.000Z", "duration": 3600},
                {"dateTime": "2026-03-12T12:00:00.000Z", "duration": 3600},
            ],
        },
    }
)


@pytest.mark.parametrize(
    ("wanted", "index"),
    [("2", 1), ("2026-03-09T11:00:00Z", 0), ("2026-03-09T13:00:00+01:00", 1), ("2026-03-12", 2)],
)
def test_a_slot_is_picked_by_its_time_or_its_day(wanted: str, index: int) -> None:
    assert picked(SLOTS, wanted) is SLOTS.options[index]


def test_a_slot_is_picked_by_local_time() -> None:
    local = datetime.fromtimestamp(1773057600)  # 12:00 UTC
    assert picked(SLOTS, f"{local:%Y-%m-%d %H:%M}") is SLOTS.options[1]


@pytest.mark.parametrize("wanted", ["2026-03-09", "2026-03-10", "2026-03-09T11:30:00Z", "soon", "2026-99-99"])
def test_a_time_that_is_none_of_the_slots(wanted: str) -> None:
    with pytest.raises(UsageError, match='available: 1 "2026-03-09T11'):
        picked(SLOTS, wanted)


ANY = offering(
    {
        "contentType": "DatePicker",
        "datePicker": {
            "title": "Day",
            "dateMinimum": "2026-03-01T00:00:00.000Z",
            "dateMaximum": "2026-03-31T00:00:00.000Z",
        },
    }
)


@pytest.mark.parametrize(
    ("wanted", "payload"),
    [
        ("2026-03-09", "2026-03-09T00:00:00.000Z"),
        ("2026-03-09T08:30:00Z", "2026-03-09T08:30:00.000Z"),
        ("2026-03-09T08:30:00+02:00", "2026-03-09T06:30:00.000Z"),
        ("2026-03-01", "2026-03-01T00:00:00.000Z"),
        ("2026-03-31", "2026-03-31T00:00:00.000Z"),
    ],
)
def test_any_date_within_bounds(wanted: str, payload: str) -> None:
    assert picks(ANY, wanted) == [payload]


def test_a_time_without_zone_is_local() -> None:
    moment = datetime(2026, 3, 9, 8, 30).timestamp()
    assert picks(ANY, "2026-03-09 08:30") == [rfc3339(moment)]


@pytest.mark.parametrize("wanted", ["2026-02-28", "2026-04-01", "2026-03-31T00:00:01Z", "tomorrow", "1", ""])
def test_no_date_or_one_out_of_bounds(wanted: str) -> None:
    with pytest.raises(UsageError, match="available: any date from 2026-03-01 to 2026-03-31"):
        picked(ANY, wanted)


# --- lists ---


def listed(*sections: tuple[str, bool, list[str]]) -> Message:
    made = [
        {"title": title, "multipleSelection": many, "items": [{"id": i.lower(), "title": i} for i in items]}
        for title, many, items in sections
    ]
    reply = {"title": "Toppings", "subtitle": "Your choice"}
    picker = {"sections": made, "receivedMessage": {}, "replyMessage": reply}
    return offering({"contentType": "ListPicker", "listPicker": picker})


def test_several_items_of_a_list() -> None:
    message = listed(("Cheese", True, ["Feta", "Brie", "Gouda"]), ("Size", False, ["S", "L"]))
    assert picks(message, "Feta", "gouda", "1", "L") == ["feta", "gouda", "l"]
    with pytest.raises(UsageError, match='only one item of "Size"'):
        picks(message, "S", "L")


def test_a_list_is_answered_in_its_own_words() -> None:
    found = answer(OUT, listed(("Cheese", True, ["Feta", "Brie"])), ["1", "2"], None)
    assert found is not None
    body = write_message(found)
    assert body["text"] == "Your choice"
    assert [item["buttonResponse"]["payload"] for item in body["content"]] == ["feta", "brie"]
    assert body["metadata"]["parentMessageId"] == "m1"
    own = answer(replace(OUT, text="mine"), listed(("Cheese", True, ["Feta"])), ["1"], None)
    assert own is not None
    assert own.text == "mine"


def test_items_of_two_lists_do_not_go_together() -> None:
    one, two = listed(("A", True, ["x"])), listed(("B", True, ["y"]))
    with pytest.raises(UsageError, match="only items of one list"):
        picks(offering(*one.content, *two.content), "x", "y")


# --- forms ---

FORM = offering(
    {
        "contentType": "Form",
        "form": {
            "cannedResponseId": "c1",
            "replyMessage": {"title": "Thank you"},
            "formPages": [
                {
                    "title": "Name",
                    "subtitle": "",
                    "pageComponents": [
                        {"formComponentType": "Input", "input": {"id": "name", "isRequired": True}},
                        {
                            "formComponentType": "Input",
                            "input": {"id": "note", "title": "Note", "isMultipleLine": True},
                        },
                    ],
                },
                {
                    "title": "More",
                    "subtitle": "",
                    "pageComponents": [
                        {"formComponentType": "DatePicker", "datePicker": {"id": "day", "title": "Day"}},
                        {
                            "formComponentType": "ListPicker",
                            "listPicker": {
                                "id": "top",
                                "receivedMessage": {"title": "Toppings"},
                                "sections": [
                                    {
                                        "title": "Cheese",
                                        "multipleSelection": True,
                                        "items": [{"id": "f", "title": "Feta"}, {"id": "b", "title": "Brie"}],
                                    }
                                ],
                            },
                        },
                        {
                            "formComponentType": "WheelPicker",
                            "wheelPicker": {
                                "id": "size",
                                "items": [{"id": "s2", "title": "1"}, {"id": "s1", "title": "2"}],
                            },
                        },
                    ],
                },
            ],
        },
    }
)


def filled(**given: Any) -> dict[str, list[tuple[str, str]]]:
    found = answer(OUT, FORM, (), given)
    assert found is not None
    assert found.form is not None
    assert found.form["cannedResponseId"] == "c1"
    assert found.text == "Thank you"
    fields: dict[str, list[tuple[str, str]]] = {}
    for part in found.form["response"]:
        button = part["component"]["buttonResponse"]
        assert button["type"] == "Form"
        fields.setdefault(part["id"], []).append((button["text"], button["payload"]))
    return fields


def test_a_forms_fields() -> None:
    assert [(field.id, field.title, field.kind, field.required, field.several) for field in form_fields(FORM)] == [
        ("name", "Name", "line", True, False),
        ("note", "Note", "lines", False, False),
        ("day", "Day", "date", False, False),
        ("top", "Toppings", "list", False, True),
        ("size", "More", "wheel", False, False),
    ]
    assert form_fields(offering(options=OPTIONS)) == ()


def test_a_form_filled_in() -> None:
    assert filled(name="Ada") == {"name": [("Ada", "Ada")]}
    assert filled(Name="Ada", day="2026-03-09", top=["Brie", "f"], size="2", note="") == {
        "name": [("Ada", "Ada")],
        "day": [("2026-03-09", "2026-03-09T00:00:00.000Z")],
        "top": [("Brie", "b"), ("Feta", "f")],
        "size": [("2", "s1")],
    }
    assert filled(name="Ada", top="2") == {"name": [("Ada", "Ada")], "top": [("Brie", "b")]}


@pytest.mark.parametrize(
    ("given_", "why"),
    [
        ({}, 'requires the field "name" .Name.'),
        ({"name": "  ", "x": 1}, 'no field "x"; available: name, note, day, top, size'),
        ({"name": ""}, "requires the field"),
        ({"name": ["a", "b"]}, "takes one value, not 2"),
        ({"name": "a", "day": "soon"}, '"day": "soon" is not any date'),
        ({"name": "a", "top": "Cheddar"}, '"top": no option "Cheddar"; available: 1 "Feta", 2 "Brie"'),
        ({"name": "a", "size": ["1", "2"]}, "takes one value"),
    ],
)
def test_a_form_filled_in_wrongly(given_: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        filled(**given_)


JUNK = some.recursive(
    some.none() | some.booleans() | some.integers() | some.text(max_size=5),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
KEYS = ("quickReply", "quickReplyV2", "card", "carousel", "datePicker", "listPicker", "form", "generic", "attachment")
WORDS = some.sampled_from(
    ("actions", "cards", "availableTimes", "dateTime", "sections", "items", "id", "title", "formPages", "type",
     "pageComponents", "input", "listPicker", "defaultAction", "replyMessage", "dateMinimum", "url", "text")
)  # fmt: skip
ITEMS = some.dictionaries(some.sampled_from(KEYS), JUNK | some.dictionaries(WORDS, JUNK, max_size=4), max_size=2)


@given(some.lists(ITEMS | JUNK, max_size=4), some.text(max_size=12), some.booleans())
def test_whatever_a_message_holds_only_usage_errors_come_of_it(content: list[Any], wanted: str, form: bool) -> None:
    message = offering(*content)
    form_fields(message)
    try:
        answer(OUT, message, [] if form else [wanted], {wanted: wanted} if form else None)
    except UsageError:
        pass
