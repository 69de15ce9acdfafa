"""Bots: their answers, the script language, and the errors of wrong scripts."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestctl.sandbox.bot import bot_script as script_module
from guestctl.sandbox.bot.bot_script import ScriptError, load
from guestctl.sandbox.bot.bots import Bot, BotAction, EchoBot, QuietBot, ScriptedBot, payload_of, wrong_answers
from guestctl.sandbox.settings import OptionError, SandboxOptions


class Talk:
    """One conversation with a bot; its memory goes through JSON after every message, as in a store."""

    def __init__(self, bot: Bot, **attributes: str) -> None:
        self.bot, self.attributes, self.count = bot, attributes, 0
        self.memory: dict[str, Any] = {}

    def say(self, text: str, payload: str | None = None) -> list[BotAction]:
        self.count += 1
        found = self.bot.reply_to(
            text, payload=payload, attributes=self.attributes, count=self.count, memory=self.memory
        )
        self.memory = json.loads(json.dumps(self.memory))
        return found

    def texts(self, text: str, payload: str | None = None) -> list[str | None]:
        return [action.text for action in self.say(text, payload) if action.kind == "message"]


def script(text: str) -> ScriptedBot:
    return load(text, "bot.yaml")


def content(text: str) -> Any:
    (action,) = script(f"otherwise:\n{text}").reply_to("x", payload=None, attributes={}, count=1, memory={})
    return list(action.content)


def test_the_echo_bot_answers_after_its_delay() -> None:
    talk = Talk(EchoBot())
    assert talk.say("hi") == [BotAction("message", 0.03, "echo: hi")]
    assert talk.texts("", "billing") == ["echo: billing"]
    assert talk.texts("Billing", "billing") == ["echo: Billing"]
    assert talk.say("") == []
    assert EchoBot().greeting({}) == []


def test_the_quiet_bot_never_answers() -> None:
    assert Talk(QuietBot()).say("hi") == []
    assert QuietBot().greeting({}) == []


def test_the_first_matching_rule_answers() -> None:
    talk = Talk(
        script(
            """
            rules:
              - match: ^parcel (?P<number>\\d+)( please)?$
                reply: "${1} ${number} ${0}|${2}|"
              - contains: PARCEL
                reply: Which one, ${attr.name}${attr.unknown}?
              - equals: " bye "
                replies: [Good, Bye]
              - payload: cmd:Track
                reply: Tracking ${payload} (message ${count})
            otherwise: "? ${text} $${text}"
            """
        ),
        name="Ada",
    )
    assert talk.texts("Parcel 17") == ["17 17 Parcel 17||"]
    assert talk.texts("my parcel!") == ["Which one, Ada?"]
    assert talk.texts("BYE") == ["Good", "Bye"]
    assert talk.texts("Track it", "cmd:Track") == ["Tracking cmd:Track (message 4)"]
    assert talk.texts("Track it", "cmd:track") == ["? Track it ${text}"]


def test_references_in_guest_texts_are_not_expanded() -> None:
    talk = Talk(script("otherwise: you said ${text}"), secret="s")
    assert talk.texts("${attr.secret}") == ["you said ${attr.secret}"]


def test_times_limits_a_rule_per_conversation() -> None:
    bot = script("rules: [{contains: hi, times: 2, reply: Hello}]\notherwise: Enough")
    talk = Talk(bot)
    assert [talk.texts("hi") for _ in range(3)] == [["Hello"], ["Hello"], ["Enough"]]
    assert Talk(bot).texts("hi") == ["Hello"]


def test_a_rule_may_be_silent() -> None:
    talk = Talk(script("rules: [{contains: psst, replies: []}]\notherwise: What?"))
    assert (talk.texts("psst"), talk.texts("hey")) == ([], ["What?"])


def test_a_handover_changes_the_sender_and_the_rules() -> None:
    talk = Talk(
        script(
            """
            name: Helper
            rules:
              - {equals: who, after_handover: true, reply: the agent}
              - {equals: who, after_handover: false, reply: the bot}
              - {equals: human, reply: One moment, handover: {name: Mina}}
            otherwise: ok
            """
        )
    )
    assert talk.say("who") == [BotAction("message", 0.03, "the bot", role="bot", name="Helper")]
    assert talk.say("human") == [
        BotAction("message", 0.03, "One moment", role="bot", name="Helper"),
        BotAction("handover", role="agent", name="Mina"),
    ]
    assert talk.say("who") == [BotAction("message", 0.03, "the agent", role="agent", name="Mina")]
    assert talk.say("x")[0].role == "agent"


def test_typing_comes_first_then_the_text_then_the_disconnect() -> None:
    talk = Talk(script("delay: 50ms\nrules: [{equals: bye, typing: true, delay: 1.5s, reply: Bye, disconnect: true}]"))
    assert talk.say("bye") == [
        BotAction("typing"),
        BotAction("message", 1.5, "Bye"),
        BotAction("disconnect"),
    ]


def test_a_reply_with_typing_only_has_its_own_delay() -> None:
    talk = Talk(script("delay: 50ms\notherwise: [{typing: true, delay: 1s}, {typing: true}, {text: after, delay: 2s}]"))
    assert [(action.kind, action.delay) for action in talk.say("x")] == [
        ("typing", 1.0),
        ("typing", 0.0),
        ("message", 2.0),
    ]


def test_delays_are_the_replys_the_scripts_or_the_callers() -> None:
    replies = "otherwise: [one, {text: two, delay: 2}, {typing: true}]"
    assert [action.delay for action in Talk(load(replies, "b", delay=0.0)).say("x")] == [0.0, 2.0, 0.0]
    assert [action.delay for action in Talk(script("delay: 1m\n" + replies)).say("x")] == [60.0, 2.0, 0.0]


def test_a_greeting_may_be_a_text_a_list_or_a_mapping() -> None:
    assert [action.text for action in script("greeting: Hello").greeting({})] == ["Hello"]
    assert [action.text for action in script("greeting: [Hello, you]").greeting({})] == ["Hello", "you"]
    (action,) = script("greeting: {reply: Pick, quickReplies: [A]}").greeting({})
    assert (action.text, len(action.content)) == ("Pick", 1)


# The wire forms below are those of web-messaging.md §6.4, with its required and † fields.


def test_quick_replies_on_the_wire() -> None:
    assert content("  {reply: Pick one, quickReplies: [Billing, {text: Shipping, payload: ship, image: i.png}]}") == [
        {"contentType": "QuickReply", "quickReply": {"text": "Billing", "payload": "Billing", "action": "Message"}},
        {
            "contentType": "QuickReply",
            "quickReply": {"text": "Shipping", "payload": "ship", "action": "Message", "image": "i.png"},
        },
    ]


def test_cards_on_the_wire() -> None:
    assert content(
        """
  card:
    title: Standard
    image: https://cdn.example/std.png
    actions: [Keep, {text: Choose, payload: "ship:std"}, {text: Details, url: "https://shop.example/std"}]
    defaultAction: {text: Open, url: "https://shop.example/"}
"""
    ) == [
        {
            "contentType": "Card",
            "card": {
                "title": "Standard",
                "description": "",
                "image": "https://cdn.example/std.png",
                "actions": [
                    {"type": "Postback", "text": "Keep", "payload": "Keep"},
                    {"type": "Postback", "text": "Choose", "payload": "ship:std"},
                    {"type": "Link", "text": "Details", "url": "https://shop.example/std"},
                ],
                "defaultAction": {"type": "Link", "text": "Open", "url": "https://shop.example/"},
            },
        }
    ]


def test_carousels_on_the_wire() -> None:
    assert content("  carousel: [{title: A, description: a, actions: [X]}, {title: B}]") == [
        {
            "contentType": "Carousel",
            "carousel": {
                "cards": [
                    {
                        "title": "A",
                        "description": "a",
                        "actions": [{"type": "Postback", "text": "X", "payload": "X"}],
                    },
                    {"title": "B", "description": "", "actions": []},
                ]
            },
        }
    ]


def test_date_pickers_on_the_wire() -> None:
    assert content(
        """
  datePicker:
    title: Delivery slot
    subtitle: Local time
    times: [2026-03-09T08:00:00Z, {at: "2026-03-09T12:00:00+02:00", duration: 30m}]
    min: 2026-03-01
    max: 2026-03-31T00:00:00Z
    format: dayMonthYear
    id: slot
"""
    ) == [
        {
            "contentType": "DatePicker",
            "datePicker": {
                "title": "Delivery slot",
                "subtitle": "Local time",
                "availableTimes": [
                    {"dateTime": "2026-03-09T08:00:00.000Z", "duration": 3600},
                    {"dateTime": "2026-03-09T10:00:00.000Z", "duration": 1800},
                ],
                "dateMinimum": "2026-03-01T00:00:00.000Z",
                "dateMaximum": "2026-03-31T00:00:00.000Z",
                "dateDisplayFormat": "dayMonthYear",
                "id": "slot",
            },
        }
    ]


def test_list_pickers_on_the_wire() -> None:
    assert content(
        """
  listPicker:
    title: Toppings
    subtitle: Tap to choose
    id: lp1
    multiple: true
    reply: Your choice
    items: [Fresh Mozzarella, {id: fet, title: Feta, subtitle: Greek, image: f.png}]
"""
    ) == [
        {
            "contentType": "ListPicker",
            "listPicker": {
                "id": "lp1",
                "receivedMessage": {"title": "Toppings", "subtitle": "Tap to choose"},
                "replyMessage": {"title": "Toppings", "subtitle": "Your choice"},
                "sections": [
                    {
                        "title": "Toppings",
                        "multipleSelection": True,
                        "items": [
                            {"id": "fresh-mozzarella", "title": "Fresh Mozzarella"},
                            {"id": "fet", "title": "Feta", "subtitle": "Greek", "imageUrl": "f.png"},
                        ],
                    }
                ],
            },
        }
    ]
    (item,) = content("  listPicker: {title: T, sections: [{title: A, items: [x]}, {title: B, items: [y]}]}")
    sections = item["listPicker"]["sections"]
    assert [(section["title"], section["multipleSelection"]) for section in sections] == [("A", False), ("B", False)]


FORM = """
  form:
    id: 2d2b4c0e
    title: Your details
    button: Go
    summary: true
    received: Please fill in
    reply: Thank you
    pages:
      - title: Name
        subtitle: As on your order
        fields:
          - {id: fld-name, required: true, title: Name, placeholder: Ada}
          - {id: fld-note, type: multiline, keyboard: Email, autocomplete: Email}
      - title: More
        fields:
          - {id: fld-day, type: date, title: Day}
          - {id: fld-top, type: list, title: Toppings, items: [Feta]}
          - {id: fld-size, type: wheel, items: [S, {title: M, value: medium}]}
"""


def test_forms_on_the_wire() -> None:
    assert content(FORM) == [
        {
            "contentType": "Form",
            "form": {
                "cannedResponseId": "2d2b4c0e",
                "introduction": {"title": "Your details", "buttonText": "Go"},
                "showSummary": True,
                "receivedMessage": {"title": "Please fill in"},
                "replyMessage": {"title": "Thank you"},
                "formPages": [
                    {
                        "title": "Name",
                        "subtitle": "As on your order",
                        "pageComponents": [
                            {
                                "formComponentType": "Input",
                                "input": {
                                    "id": "fld-name",
                                    "isRequired": True,
                                    "isMultipleLine": False,
                                    "keyboardType": "Default",
                                    "title": "Name",
                                    "placeholderText": "Ada",
                                },
                            },
                            {
                                "formComponentType": "Input",
                                "input": {
                                    "id": "fld-note",
                                    "isRequired": False,
                                    "isMultipleLine": True,
                                    "keyboardType": "Email",
                                    "autoCompleteType": "Email",
                                },
                            },
                        ],
                    },
                    {
                        "title": "More",
                        "subtitle": "",
                        "pageComponents": [
                            {"formComponentType": "DatePicker", "datePicker": {"title": "Day", "id": "fld-day"}},
                            {
                                "formComponentType": "ListPicker",
                                "listPicker": {
                                    "id": "fld-top",
                                    "receivedMessage": {"title": "Toppings"},
                                    "replyMessage": {"title": "Toppings", "subtitle": "Toppings"},
                                    "sections": [
                                        {
                                            "title": "Toppings",
                                            "multipleSelection": False,
                                            "items": [{"id": "feta", "title": "Feta"}],
                                        }
                                    ],
                                },
                            },
                            {
                                "formComponentType": "WheelPicker",
                                "wheelPicker": {
                                    "id": "fld-size",
                                    "items": [{"id": "s", "title": "S"}, {"id": "m", "title": "M", "value": "medium"}],
                                },
                            },
                        ],
                    },
                ],
            },
        }
    ]


def test_attachments_on_the_wire() -> None:
    (item,) = content("  attachment: https://cdn.example/a/label%201.png?x=1")
    assert item["contentType"] == "Attachment"
    attachment = item["attachment"]
    assert (
        attachment.pop("id") == content("  attachment: https://cdn.example/a/label%201.png?x=1")[0]["attachment"]["id"]
    )
    assert attachment == {
        "mediaType": "Image",
        "url": "https://cdn.example/a/label%201.png?x=1",
        "filename": "label 1.png",
        "mime": "image/png",
    }
    (item,) = content("  attachment: {url: https://x/, name: data, type: text/csv, size: 12, id: i1, text: t}")
    assert item["attachment"] == {
        "id": "i1",
        "mediaType": "File",
        "url": "https://x/",
        "filename": "data",
        "mime": "text/csv",
        "fileSize": 12,
        "text": "t",
    }


def test_captures_are_filled_in_content_without_changing_the_script() -> None:
    bot = script("rules: [{match: order (.+), reply: Sure, quickReplies: [{text: 'Track ${1}', payload: 'cmd:${1}'}]}]")
    for number in ("7", "8"):
        (action,) = bot.reply_to(f"order {number}", payload=None, attributes={}, count=1, memory={})
        assert action.content[0]["quickReply"] == {
            "text": f"Track {number}",
            "payload": f"cmd:{number}",
            "action": "Message",
        }


# Answers are held against what was offered.


def button(kind: str, payload: str, origin: str | None = None) -> dict[str, Any]:
    response = {"type": kind, "text": "T", "payload": payload}
    return {
        "contentType": "ButtonResponse",
        "buttonResponse": response | ({"originatingMessageId": origin} if origin else {}),
    }


FILLED = [{"id": "fld-name", "component": button("Form", "Ada")}, {"id": "fld-day"}]
OFFERED = [
    ("m1", content("  quickReplies: [Red, Blue]")),
    ("m2", content("  card: {title: C, actions: [{text: Track, payload: 'cmd:track'}, {text: L, url: 'https://x/'}]}")),
    ("m3", content("  carousel: [{title: C, defaultAction: Pick}]")),
    ("m4", content("  datePicker: {title: D, times: [2026-03-09T08:00:00Z]}")),
    ("m5", content("  listPicker: {title: L, multiple: true, items: [Feta, Brie]}")),
    ("m6", content(FORM)),
    (
        "m7",
        [{"contentType": "QuickReplyV2", "quickReplyV2": {"title": "T", "actions": [{"text": "G", "payload": "g"}]}}],
    ),
]


@pytest.mark.parametrize(
    "answer",
    [
        [button("QuickReply", "Red")],
        [button("QuickReply", "Red", "m1")],
        [button("Button", "cmd:track", "m2")],
        [button("Button", "Pick", "m3")],
        [button("DatePicker", "2026-03-09T08:00:00.000Z")],
        [button("ListPicker", "feta", "m5"), button("ListPicker", "brie", "m5")],
        [button("QuickReply", "g")],
        [{"contentType": "Form", "form": {"cannedResponseId": "2d2b4c0e", "response": FILLED}}],
        [{"contentType": "Attachment", "attachment": {"id": "x"}}],
        [],
    ],
)
def test_an_offered_answer_has_no_problems(answer: list[dict[str, Any]]) -> None:
    assert wrong_answers(answer, OFFERED) == []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ([button("QuickReply", "Green")], 'QuickReply "Green" was not offered'),
        ([button("QuickReply", "Red", "m2")], 'QuickReply "Red" was not offered in message m2'),
        ([button("Button", "Red")], 'Button "Red" was not offered'),
        ([button("DatePicker", "2026-03-10T08:00:00.000Z")], "was not offered"),
        ([{"contentType": "ButtonResponse"}], "ButtonResponse without its object"),
        ([{"contentType": "Form", "form": {"cannedResponseId": "2d2b4c0e", "response": [{"id": "x"}]}}], 'Field "x"'),
        ([{"contentType": "Form", "form": {"cannedResponseId": "other"}}], 'Form "other" was not offered'),
    ],
)
def test_an_answer_that_was_not_offered_is_a_problem(answer: list[dict[str, Any]], words: str) -> None:
    (problem,) = wrong_answers(answer, OFFERED)
    assert words in problem


def test_quick_replies_with_a_title_are_quick_reply_v2() -> None:
    (item,) = content("  quickReplies: {title: Colours, replies: [Red, {text: Blue, payload: b}]}")
    assert item["contentType"] == "QuickReplyV2"
    assert item["quickReplyV2"]["title"] == "Colours"
    assert [action["payload"] for action in item["quickReplyV2"]["actions"]] == ["Red", "b"]
    assert wrong_answers([button("QuickReply", "b")], [("m", [item])]) == []


def test_a_list_without_multiple_accepts_one_item() -> None:
    one = content("  listPicker: {title: Size, items: [S, L]}")
    several = content("  listPicker: {title: Size, multiple: true, items: [S, L]}")
    both = [button("ListPicker", "s"), button("ListPicker", "l")]
    assert wrong_answers(both, [("m", one)]) == ['only one item of "Size" can be picked']
    assert wrong_answers(both, [("m", several)]) == []
    assert wrong_answers(both[:1], [("m", one)]) == []


def test_a_form_answer_has_required_fields_and_offered_values() -> None:
    offered = content(
        "  form:\n    id: f\n    title: T\n    fields:\n"
        "      - {id: name, required: true}\n      - {id: size, type: wheel, items: [S, L]}\n"
        "      - {id: top, type: list, title: Toppings, items: [Feta]}"
    )

    def submitted(**given: str) -> list[str]:
        parts = [{"id": name, "component": button("Form", value)} for name, value in given.items()]
        answer = {"contentType": "Form", "form": {"cannedResponseId": "f", "response": parts}}
        return wrong_answers([answer], [("m", offered)])

    assert submitted(name="Ada", size="s", top="feta") == []
    assert submitted(size="s") == ['Field "name" is required']
    assert submitted(name="Ada", size="xl", top="brie") == [
        'Field "size": "xl" was not offered',
        'Field "top": "brie" was not offered',
    ]


def test_a_date_picker_without_times_accepts_any_date() -> None:
    assert wrong_answers([button("DatePicker", "2026-12-24")], [("m", content("  datePicker: {title: D}"))]) == []


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["contentType", "buttonResponse", "form", "response", "payload", "type", "component", "id", "x"]
                ),
                inner | st.sampled_from(["ButtonResponse", "Form"]),
                max_size=4,
            )
        ),
        max_leaves=12,
    ).filter(lambda value: isinstance(value, dict))
)
def test_malformed_answers_are_problems_not_exceptions(item: Any) -> None:
    assert all(isinstance(problem, str) for problem in wrong_answers([item], OFFERED))
    assert isinstance(payload_of([item]), str | None)


def test_payloads_of_an_answer() -> None:
    assert payload_of([]) is None
    assert payload_of([button("ListPicker", "a"), button("ListPicker", "b")]) == "a,b"
    form = {"response": [{"id": "f", "component": button("Form", "Ada")}, {"id": "g"}]}
    assert payload_of([{"contentType": "Form", "form": form}]) == "Ada"


# Wrong scripts.


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "bot.yaml:1: the script is empty"),
        ("[]", "bot.yaml:1: must be a mapping with keys out of name, delay, greeting, rules, otherwise"),
        ("name: x", "bot.yaml:1: the bot never answers"),
        ("rules:\n\t- contains: x", "bot.yaml:2: a tab; YAML is indented with spaces"),
        ("otherwise: x ${text", "bot.yaml:1: otherwise: ${text is not closed; a literal is $${"),
        ("otherwise: x ${text or}", "otherwise: ${text is not closed"),
        (
            "otherwise: x\nruls: []",
            'bot.yaml:2: unknown key "ruls"; did you mean "rules"? (keys: name, delay, greeting, rules, otherwise)',
        ),
        ("rules:\n- contains: x\n  reply: y\n  quickreplies: [a]", 'bot.yaml:4: rules[1]: unknown key "quickreplies"'),
        ("rules:\n- contains: x\n  quickreplies: [a]", 'did you mean "quickReplies"?'),
        ("rules:\n- contains: x\n  quick_replies: [a]", 'did you mean "quickReplies"?'),
        ("rules: []", "rules: the list is empty"),
        ("rules: [{reply: x}]", "exactly one of match, contains, equals, payload; it has none"),
        ("rules: [{match: a, equals: b}]", "it has match and equals"),
        ("rules:\n- match: a(\n", "bot.yaml:2: rules[1].match: not a regular expression"),
        ("rules: [{contains: ''}]", "the text is empty; use `otherwise`"),
        (
            "rules: [{match: '(?P<number>.)', reply: 'x ${numbr}'}]",
            '${numbr} has no value; did you mean "number"? (known names: 0, text',
        ),
        ("rules: [{match: a, reply: 'x ${1}'}]", "${1} has no value"),
        ("otherwise: {quickReplies: ['${attr.}']}", "${attr.} has no value"),
        ("otherwise:", "otherwise: the value is missing"),
        ("otherwise: {card: {title: [a]}}", "otherwise.card.title: must be a text"),
        ("otherwise: {}", "otherwise: no answer; give `reply`"),
        ("rules: [{equals: a}]", "rules[1]: no answer; give `reply`"),
        ("otherwise: [{delay: 1s}]", "the reply is empty"),
        ("otherwise: {reply: a, replies: [b]}", "not both"),
        ("otherwise: {replies: [{text: a, delay: 1s}], delay: 2s}", "the last reply has its own `delay`"),
        ("otherwise: {card: {title: a}, quickReplies: [b]}", "one of"),
        ("otherwise: {reply: a, delay: soon}", "must be a duration such as 2s, 500ms or 1m, at most 3600 s"),
        ("otherwise: {reply: a, typing: 1}", "must be true or false"),
        ("rules: [{equals: a, times: 0, reply: b}]", "a whole number from 1"),
        ("greeting: {reply: hi, handover: Mina}", "a greeting cannot hand over"),
        ("otherwise: {handover: {nmae: Mina}}", 'did you mean "name"?'),
        ("otherwise: {card: {}}", "otherwise.card: `title` is missing"),
        ("otherwise: {card: {title: a, actions: [{text: a, url: b, payload: c}]}}", "not both"),
        ("otherwise: {listPicker: {title: a}}", "give `items`, or `sections`"),
        ("otherwise: {listPicker: {title: a, items: [x, X]}}", 'a second item with the id "x"'),
        ("otherwise: {listPicker: {title: a, multiple: true, sections: []}}", "into each of the `sections`"),
        ("otherwise: {datePicker: {title: a, times: [tomorrow]}}", "must be a time such as 2026-03-09T08:00:00Z"),
        ("otherwise: {datePicker: {title: a, format: dmy}}", "is not one of dayMonthYear"),
        ("otherwise: {form: {title: a}}", "give `fields`, or `pages`"),
        ("otherwise: {form: {title: a, fields: [{type: text}]}}", "`id` is missing"),
        ("otherwise: {form: {title: a, fields: [{id: a}, {id: a}]}}", 'a second field with the id "a"'),
        ("otherwise: {form: {title: a, fields: [{id: a, keyboard: phone}]}}", 'did you mean "Phone"?'),
        ("otherwise: {form: {title: a, fields: [x]}}", "must be a mapping"),
        ("otherwise: {attachment: https://x.example/}", "no file name; add `name`"),
        ("otherwise: a\notherwise: b", 'bot.yaml:2: key "otherwise" is already set in line 1'),
        ("otherwise: &a [*a]\n", "alias *a: it stands inside its own anchor"),
        ("otherwise: *a\n", "alias *a: there is no anchor &a above it"),
        ("rules: [{<<: {a: b}}]", 'rules[1]: unknown key "a"'),
        ("rules: [{<<: a}]", "merge key <<: it takes a mapping"),
        ("otherwise: !!python/name:os.system x", "tags are not allowed"),
        ("otherwise: !!binary aGk=", "tags are not allowed"),
        ("3: x", 'unknown key "3"'),
        ("? [a]\n: x", "a key must be plain text"),
        ("otherwise: a\n---\notherwise: b", "bot.yaml:2: a second document"),
        ("otherwise: [a", "bot.yaml:2: did not find"),
        ("otherwise: a\n\tx: b", "bot.yaml:2: "),
        ("otherwise: " + "[" * 30 + "]" * 30, "nested deeper than 20 levels"),
        ("otherwise: " + "x" * 300_000, "larger than 256 KiB"),
        ("otherwise: \x07", "bot.yaml:1: "),
    ],
)
def test_an_error_in_a_script_names_its_place_and_the_fix(text: str, words: str) -> None:
    with pytest.raises(ScriptError) as caught:
        script(text)
    assert words in str(caught.value)
    assert str(caught.value).startswith("bot.yaml:")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["yes", "No", "42", "007", "10:30", "0x1f", "1_000", "true", "2026-03-04"])
def test_a_reply_is_sent_as_written(text: str) -> None:
    assert Talk(script(f"otherwise: {text}")).texts("a") == [text]


def test_bytes_that_are_not_utf8_are_reported_with_their_line() -> None:
    with pytest.raises(ScriptError, match=r"bot\.yaml:2: not UTF-8"):
        load(b"otherwise: x\nname: \xff", "bot.yaml")
    assert Talk(load(b"\xef\xbb\xbfotherwise: x", "bot.yaml")).texts("a") == ["x"]


def test_aliases_that_multiply_and_deep_nesting_are_refused() -> None:
    with pytest.raises(ScriptError, match="aliases repeat more than 256 KiB"):
        script("a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 5)}]\n" for n in range(1, 15)))
    with pytest.raises(ScriptError, match=r"maximum nesting depth|nested deeper"):
        script("[" * 100_000)


WORDS = st.sampled_from([*script_module.ANSWER, *script_module.TRIGGERS, "name", "greeting", "rules", "otherwise"])
PARTS = ("text", "title", "items", "sections", "fields", "pages", "id", "type", "url", "actions", "multiple", "times")
VALUES = st.recursive(
    st.text(max_size=8)
    | st.integers()
    | st.booleans()
    | st.none()
    | st.floats()
    | st.sampled_from(["${1}", "1s", "(a)", "2026-03-09", "date", "list", "https://x/y.png"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.sampled_from(PARTS), inner, max_size=4),
    max_leaves=15,
)


@given(st.text() | st.binary() | st.dictionaries(WORDS, VALUES, max_size=5).map(json.dumps))
def test_any_wrong_script_raises_only_script_error(text: str | bytes) -> None:
    with suppress(ScriptError):
        talk = Talk(load(text, "bot.yaml"))
        talk.bot.greeting({})
        assert isinstance(talk.say("hello", "p"), list)


# Which bot the options ask for.


def test_the_options_choose_the_bot(tmp_path: Path) -> None:
    path = tmp_path / "bot.yaml"
    path.write_text("otherwise: scripted")
    assert Talk(SandboxOptions().make_bot()).say("x") == [BotAction("message", 0.6, "echo: x")]
    assert Talk(SandboxOptions(fast=True).make_bot()).say("x") == [BotAction("message", 0.0, "echo: x")]
    assert Talk(SandboxOptions(agent=True).make_bot()).say("x") == []
    assert Talk(SandboxOptions(agent=True, script=path).make_bot()).texts("x") == ["scripted"]
    assert Talk(SandboxOptions(fast=True, script=path).make_bot()).say("x")[0].delay == 0.0
    with pytest.raises(ScriptError, match="cannot be read: No such file"):
        SandboxOptions(script=tmp_path / "none.yaml").make_bot()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"port": 70000}, "port 70000"),
        ({"api": "guest"}, 'did you mean "guests"?'),
        ({"refresh_style": "guest"}, "choose one of guest-refresh, guest-token"),
        ({"token_life": 0.0}, "above 0"),
        ({"session_life": float("inf")}, "above 0"),
        ({"idle_timeout": -1.0}, "idle timeout"),
        ({"disconnect": "readonly"}, "ReadOnly"),
    ],
)
def test_invalid_settings_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        SandboxOptions(**wrong)
