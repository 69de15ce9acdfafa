"""Rich content in commands: every kind of content is shown, normalised, and answered as the service expects
(web-messaging.md §5.4, §6.4)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from guestctl.sandbox.serve import running
from guestctl.sandbox.server import Sandbox
from guestctl.sandbox.settings import SandboxOptions
from tests.cli.conftest import Front, Result

BOT = """
name: Helper
rules:
  - equals: quick
    reply: Which colour?
    quickReplies: [Red, {text: Blue, payload: "colour:blue"}]
  - equals: titled
    quickReplies: {title: Colours, replies: [Red, {text: Blue, payload: "colour:blue"}]}
  - equals: card
    card:
      title: Parcel 7
      description: On its way
      image: https://cdn.example/parcel.png
      actions: [{text: Track it, payload: "cmd:track"}, {text: Details, url: "https://shop.example/7"}]
  - equals: carousel
    carousel:
      - {title: Standard, description: 3-5 days, actions: [{text: Choose, payload: "ship:std"}]}
      - {title: Express, actions: [{text: Choose, payload: "ship:exp"}]}
  - equals: slots
    datePicker: {title: Delivery, times: [2026-03-09T08:00:00Z, {at: 2026-03-10T10:00:00Z, duration: 2h}]}
  - equals: day
    datePicker: {title: Delivery day, min: 2026-03-01T00:00:00Z, max: 2026-03-31T00:00:00Z}
  - equals: list
    listPicker: {title: Toppings, reply: My toppings, multiple: true, items: [Feta, {id: moz, title: Mozzarella}, Brie]}
  - equals: one
    listPicker: {title: Size, items: [Small, Large]}
  - equals: form
    form:
      id: f-1
      title: Your details
      reply: Thank you
      fields:
        - {id: name, title: Your name, required: true}
        - {id: day, type: date, title: Day}
        - {id: top, type: list, title: Toppings, multiple: true, items: [Feta, Brie]}
        - {id: size, type: wheel, items: [S, L]}
  - equals: file
    attachment: {url: "https://cdn.example/label.png", size: 48213, id: a-1}
  - equals: markdown
    reply: "**Hello** [shop](https://shop.example)\\n- a list"
  - equals: nothing
    reply: nothing to pick here
otherwise: "${text}|${payload}"
"""


@dataclass(frozen=True)
class Talk:
    """A session with the bot, and the sandbox's check of the frames that guestctl sends."""

    front: Front

    def offered(self, kind: str) -> dict[str, Any]:
        """Return the bot's answer as a record."""
        reply = self.front("send", kind, "--wait").record["reply"]
        assert isinstance(reply, dict)
        return reply

    def shown(self, kind: str) -> list[str]:
        """Return the bot's answer as shown on a terminal, without the time."""
        told = self.front("send", kind, "--wait", "-o", "table", COLUMNS="100")
        assert told.code == 0, told.err
        _, first, *rest = told.out.rstrip("\n").split("\n")
        assert first[14:30] == "< Helper        "
        return [first[30:], *(line[30:] for line in rest)]

    def answered(self, *argv: str) -> tuple[str, list[dict[str, Any]]]:
        """Return the answer as the bot received it (text and payloads), and its content items."""
        told = self.front("send", *argv, "--wait")
        assert told.code == 0, told.err
        assert self.complaints == []
        return told.record["reply"]["text"], told.record["content"]

    def refused(self, *argv: str) -> str:
        told = self.front("send", *argv)
        assert told.code == 2, told.out
        assert told.out == ""
        message = told.error["message"]
        assert "\n" not in message
        assert told.error["hint"]
        return str(message)

    @property
    def session(self) -> dict[str, Any]:
        return self.front("sandbox", "sessions").records[-1]

    @property
    def complaints(self) -> list[str]:
        found = self.session["complaints"]
        assert isinstance(found, list)
        return found


@pytest.fixture(scope="module")
def bot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    script = tmp_path_factory.mktemp("bot") / "bot.yaml"
    script.write_text(BOT)
    with running(SandboxOptions(fast=True, script=script)) as found:
        yield found


@pytest.fixture
def talk(bot: Sandbox, sandboxed: Callable[[Sandbox], Front]) -> Talk:
    front = sandboxed(bot)
    front("session", "create")
    return Talk(front)


def option(text: str, payload: str, kind: str, group: str | None = None, url: str | None = None) -> dict[str, Any]:
    return {"text": text, "payload": payload, "kind": kind, "url": url, "group": group}


COLOURS = [option("Red", "Red", "QuickReply"), option("Blue", "colour:blue", "QuickReply")]


@pytest.mark.parametrize("wanted", ["2", "Blue", "blue", "colour:blue"])
def test_quick_replies(talk: Talk, wanted: str) -> None:
    assert talk.offered("quick")["options"] == COLOURS
    assert talk.answered("--pick", wanted)[0] == "Blue|colour:blue"


def test_quick_replies_on_a_terminal(talk: Talk) -> None:
    assert talk.shown("quick") == ["Which colour?", "[1] Red", "[2] Blue"]


def test_quick_reply_groups(talk: Talk) -> None:
    assert talk.shown("titled") == ["Colours", "  [1] Red", "  [2] Blue"]
    offer = talk.offered("titled")
    assert offer["options"] == COLOURS
    assert offer["content"][0]["contentType"] == "QuickReplyV2"
    text, content = talk.answered("--pick", "2")
    assert text == "Blue|colour:blue"
    assert content[0]["buttonResponse"]["originatingMessageId"] == offer["id"]


def test_a_card(talk: Talk) -> None:
    assert talk.shown("card") == [
        "Parcel 7 – On its way",
        "  (image) parcel.png <https://cdn.example/parcel.png>",
        "  [1] Track it",
        "  [2] Details <https://shop.example/7>",
    ]
    assert talk.offered("card")["options"] == [
        option("Track it", "cmd:track", "Button", "Parcel 7"),
        option("Details", "https://shop.example/7", "Link", "Parcel 7", "https://shop.example/7"),
    ]
    assert talk.answered("--pick", "Track it")[0] == "Track it|cmd:track"


@pytest.mark.parametrize(
    ("form", "lines"),
    [
        (
            "txt",
            [
                "    Parcel 7 – On its way",
                "      (image) parcel.png <https://cdn.example/parcel.png>",
                "      [1] Track it",
                "      [2] Details <https://shop.example/7>",
            ],
        ),
        ("md", [r"- Parcel 7 – On its way", r"  - \[1\] Track it", r"  - \[2\] Details \<https\://shop\.example/7\>"]),
        ("html", ["Parcel 7 – On its way</li>", ">[1] Track it</li>", "&lt;https://shop.example/7&gt;</li>"]),
    ],
)
def test_a_card_in_a_document(talk: Talk, form: str, lines: list[str]) -> None:
    talk.offered("card")
    page = talk.front("history", "--format", form).out
    assert [line for line in lines if line not in page] == []


def test_time_slots_are_utc_in_a_document(talk: Talk) -> None:
    talk.offered("slots")
    page = talk.front("history", "--format", "txt").out
    assert "      [1] Mon 2026-03-09 08:00–09:00 UTC\n" in page
    assert "      [2] Tue 2026-03-10 10:00–12:00 UTC\n" in page


def test_a_link_cannot_be_picked(talk: Talk) -> None:
    talk.offered("card")
    assert "opens in a browser" in talk.refused("--pick", "2")


def test_a_carousel_is_numbered_consecutively(talk: Talk) -> None:
    assert talk.shown("carousel") == [
        "Standard – 3-5 days",
        "  [1] Choose",
        "Express",
        "  [2] Choose",
    ]
    assert talk.answered("--pick", "2")[0] == "Choose|ship:exp"


@pytest.mark.parametrize(
    "wanted", ["2", "2026-03-10T10:00:00Z", "2026-03-10T11:00:00+01:00", "2026-03-10T10:00:00.000Z"]
)
def test_a_date_picker_with_times(talk: Talk, wanted: str) -> None:
    first, _ = talk.offered("slots")["options"]
    assert first == option("2026-03-09T08:00:00.000Z", "2026-03-09T08:00:00.000Z", "DatePicker", "Delivery")
    text, content = talk.answered("--pick", wanted)
    assert text.endswith("|2026-03-10T10:00:00.000Z")
    assert content[0]["buttonResponse"]["type"] == "DatePicker"


def test_a_date_picker_on_a_terminal(talk: Talk) -> None:
    shown = talk.shown("slots")
    assert shown[0] == "Delivery"
    assert shown[1].startswith("  [1] ")
    assert "2026-03-" in shown[1]
    assert talk.shown("day") == ["Delivery day", "  (any date from 2026-03-01 to 2026-03-31)"]


def test_any_date(talk: Talk) -> None:
    assert talk.offered("day")["options"] == []
    assert talk.answered("--pick", "2026-03-09")[0] == "2026-03-09|2026-03-09T00:00:00.000Z"
    refused = talk.refused("--pick", "2026-04-09")
    assert refused.startswith('no option "2026-04-09"; available: any date from 2026-03-01 to 2026-03-31')


def test_several_items_of_a_list(talk: Talk) -> None:
    assert talk.shown("list") == [
        "Toppings",
        "  pick one or more",
        "    [1] Feta",
        "    [2] Mozzarella",
        "    [3] Brie",
    ]
    text, content = talk.answered("--pick", "1", "--pick", "moz", "--pick", "Brie")
    assert text == "My toppings|feta,moz,brie"
    assert [item["buttonResponse"]["text"] for item in content] == ["Feta", "Mozzarella", "Brie"]


def test_a_list_with_a_single_choice(talk: Talk) -> None:
    talk.offered("one")
    assert talk.refused("--pick", "1", "--pick", "2") == 'only one item of "Size" can be picked'
    assert talk.answered("--pick", "large")[0] == "Size|large"


def test_content_that_history_omits_is_stored(talk: Talk) -> None:
    """Forms and quick reply groups are not in history (§7.1): the command that receives one stores it."""
    for kind in ("titled", "form"):
        talk.offered(kind)
        assert talk.front("history", "--last", "1").record["content"] == []
    assert talk.answered("--form", "name=Ada")[0] == "Thank you|Ada"
    talk.offered("quick")
    assert talk.answered("--pick", "1")[0] == "Red|Red"
    talk.front("session", "create", "--new")
    talk.offered("nothing")
    assert "has a form" in talk.refused("--form", "name=Ada")


def test_a_form_from_arguments(talk: Talk) -> None:
    assert talk.shown("form") == [
        "(form) Your details",
        "  name: Your name (text, required)",
        "  day: Day (any date)",
        "  top: Toppings (one or more of: Feta, Brie)",
        "  size: (one of: S, L)",
    ]
    text, content = talk.answered("--form", "name=Ada", "--form", "top=Feta", "--form", "top=brie", "--form", "size=L")
    assert text == "Thank you|Ada,feta,brie,l"
    assert content[0]["form"]["cannedResponseId"] == "f-1"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("form.yaml", "name: 007\nday: 2026-03-09\ntop: [Feta, Brie]\nsize:\n"),
        ("form.json", json.dumps({"name": "007", "day": "2026-03-09", "top": ["Feta", "Brie"], "size": None})),
    ],
)
def test_a_form_from_a_file(talk: Talk, name: str, text: str) -> None:
    talk.offered("form")
    (talk.front.cwd / name).write_text(text)
    assert talk.answered("--form", name)[0] == "Thank you|007,2026-03-09T00:00:00.000Z,feta,brie"
    # Words go with a file.
    assert talk.answered("--form", f"./{name}", "--form", "size=S")[0].endswith(",s")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- name", "expected FIELD: VALUE lines"),
        ("name: {a: b}", "form.yaml:1: name: expected a value"),
        ("name: [[a]]", "expected a value"),
        ("name: *a", "form.yaml:1: alias *a: there is no anchor"),
        ("day: 2026-03-09", 'requires the field "name" (Your name)'),
        ("naem: Ada", 'no field "naem"; available: name, day, top, size'),
    ],
)
def test_a_malformed_form_file(talk: Talk, text: str, said: str) -> None:
    talk.offered("form")
    (talk.front.cwd / "form.yaml").write_text(text)
    assert said in talk.refused("--form", "form.yaml")


def test_a_missing_form_file(talk: Talk) -> None:
    assert "No such file" in talk.refused("--form", "none.yaml")


def test_a_wrong_pick_lists_the_options(talk: Talk) -> None:
    talk.offered("quick")
    assert talk.refused("--pick", "Green") == 'no option "Green"; available: 1 "Red", 2 "Blue"'
    assert talk.refused("--pick", "3") == 'no option "3"; available: 1 "Red", 2 "Blue"'
    assert "only items of one list" in talk.refused("--pick", "1", "--pick", "2")
    assert "a pick, a form or files" in talk.refused("--pick", "1", "--form", "a=b")


def test_no_options_and_no_form(talk: Talk) -> None:
    talk.offered("nothing")
    assert "has choices" in talk.refused("--pick", "1")
    assert "has a form" in talk.refused("--form", "a=b")


def test_a_pick_with_a_text(talk: Talk) -> None:
    talk.offered("quick")
    assert talk.answered("that one", "--pick", "2")[0] == "that one|colour:blue"


def test_the_newest_options_are_picked_from(talk: Talk) -> None:
    talk.offered("card")
    talk.offered("quick")
    talk.offered("nothing")
    assert talk.answered("--pick", "1")[0] == "Red|Red"


def test_an_image_is_shown_by_name_and_size(talk: Talk) -> None:
    assert talk.shown("file") == ["(image) label.png, 48.2 kB, a-1"]
    assert talk.offered("file")["attachments"] == [
        {"id": "a-1", "name": "label.png", "mime": "image/png", "size": 48213, "media_type": "Image"}
    ]


def test_markdown_is_styled_only_with_colour(talk: Talk) -> None:
    plain = talk.shown("markdown")
    assert plain == ["**Hello** [shop](https://shop.example)", "- a list"]
    styled = talk.front("history", "--last", "1", "-o", "table", FORCE_COLOR="1").out
    assert "\x1b[1mHello\x1b[0m \x1b[4mshop\x1b[0m <https://shop.example>" in styled
    assert talk.front("history", "--last", "1").record["text"] == "**Hello** [shop](https://shop.example)\n- a list"


def test_rich_content_of_another_api(talk: Talk) -> None:
    told: Result = talk.front("send", "--pick", "1", "--api", "guests")
    assert told.code in {10, 12}
