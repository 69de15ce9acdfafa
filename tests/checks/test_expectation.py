"""Conditions for one reply."""

from __future__ import annotations

import pytest

from guestctl.checks.expectation import ANY, Conditions, assigned, compiled, offers_choice
from guestctl.core.model import Attachment, Message, Option, Role, Sender


def reply(text: str = "", *, role: Role | None = "bot", **more: object) -> Message:
    return Message("id", "outbound", text, None, sender=Sender(role), **more)  # type: ignore[arg-type]


MENU = reply("Which?", options=(Option("Red", "colour:red", "QuickReply"), Option("Blue", "2b", "QuickReply")))
CARD = reply(content=({"contentType": "Card", "card": {"title": "Our Shop", "description": "All day"}},))
CAROUSEL = reply(content=({"contentType": "Carousel", "carousel": {"cards": [{"title": "One"}, {"title": "Two"}]}},))
FILE = reply(attachments=(Attachment("a", "Invoice.pdf", "application/pdf", 10),))


@pytest.mark.parametrize(
    ("conditions", "message", "met"),
    [
        (Conditions(contains="HELLO"), reply("oh, hello there"), True),
        (Conditions(contains="straße"), reply("STRASSE"), True),
        (Conditions(contains="x"), reply("hello"), False),
        (Conditions(matches="^two$"), reply("one\nTWO\nthree"), True),
        (Conditions(matches=r"n° \d+"), reply("order N° 12"), True),
        (Conditions(equals="Hello"), reply(" Hello\n"), True),
        (Conditions(equals="Hello"), reply("hello"), False),
        (Conditions(role="agent"), reply("x", role="agent"), True),
        (Conditions(role="agent"), reply("x", role=None), False),
        (Conditions(options=("red", "2B")), MENU, True),
        (Conditions(options=("red", "green")), MENU, False),
        (Conditions(card=ANY), CARD, True),
        (Conditions(card="shop"), CARD, True),
        (Conditions(card="all day"), CARD, True),
        (Conditions(card="two"), CAROUSEL, True),
        (Conditions(card=ANY), MENU, False),
        (Conditions(attachment=ANY), FILE, True),
        (Conditions(attachment="invoice"), FILE, True),
        (Conditions(attachment="image/"), FILE, False),
        (Conditions(contains="a", unless=(Conditions(contains="b"),)), reply("a"), True),
        (Conditions(contains="a", unless=(Conditions(contains="b"),)), reply("ab"), False),
        (Conditions(), reply(""), True),
    ],
)
def test_conditions(conditions: Conditions, message: Message, met: bool) -> None:
    assert conditions.met_by(message) is met


def test_malformed_content_is_not_a_card() -> None:
    for content in (None, 5, "card", {"card": 5}, {"carousel": {"cards": 5}}, {"card": {"title": 5}}):
        assert not Conditions(card="x").met_by(reply(content=(content,)))


def test_a_value_in_a_pattern_matches_itself() -> None:
    bound = Conditions(matches=r"^${price} \d+$").bound({"price": "(1+1)*"})
    assert bound.met_by(reply("(1+1)* 5"))
    assert not bound.met_by(reply("11 5"))


def test_javascript_pattern_syntax() -> None:
    found = compiled(r"(?<word>\w+) \k<word>").search("No no")
    assert found is not None
    assert found.named["word"] == "No"
    assert compiled(r"(?<!x)y").search("xy") is None


@pytest.mark.parametrize(
    ("conditions", "text", "saved"),
    [
        (Conditions(matches=r"no (\d+)"), "order no 17!", {"x": "17"}),
        (Conditions(matches=r"no \d+"), "order no 17!", {"x": "no 17"}),
        (Conditions(matches=r"(?<id>\d+)"), "order no 17!", {"x": "17", "id": "17"}),
        (Conditions(contains="order"), "order no 17!", {"x": "order no 17!"}),
    ],
)
def test_captures(conditions: Conditions, text: str, saved: dict[str, str]) -> None:
    assert conditions.captured(reply(text), "x") == saved


def test_patterns_see_the_first_10000_characters_of_a_reply() -> None:
    assert not Conditions(matches="needle").met_by(reply("x" * 10_000 + "needle"))


def test_a_list_is_met_in_order_or_in_any_order() -> None:
    wanted = [Conditions(contains="a"), Conditions(contains="ab")]
    said = [("1", reply("ab")), ("2", reply("a"))]
    assert assigned(wanted, said, in_order=True) is None
    # "ab" fits both; in any order it is kept for the one nothing else fits.
    assert assigned(wanted, said, in_order=False) == ["2", "1"]
    assert assigned(wanted, said[:1], in_order=False) is None
    assert assigned(wanted, said[::-1], in_order=True) == ["2", "1"]


@pytest.mark.parametrize(
    ("wanted", "offered"), [("1", True), ("3", False), ("red", True), ("2b", True), ("Pink", False)]
)
def test_a_choice_is_a_number_a_label_or_a_payload(wanted: str, offered: bool) -> None:
    assert offers_choice(MENU, wanted) is offered


def test_conditions_as_text() -> None:
    conditions = Conditions(contains="a", role="agent", options=("X",), card=ANY, unless=(Conditions(equals="b"),))
    assert (
        str(conditions)
        == 'a reply containing "a" from an agent with the option "X" with a card and not that equals "b"'
    )
