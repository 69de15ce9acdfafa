"""Records as shown on a terminal: no message can pose as another line."""

from __future__ import annotations

import re
import unicodedata
from datetime import datetime
from random import Random
from typing import Any

import pyte
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wcwidth import wcwidth

from guestctl.core.clock import epoch_of
from guestctl.core.humanize import format_duration, format_size
from guestctl.core.model import Attachment, Connection, Gap, Message, Option, Sender
from guestctl.output.records import Record, event_record, message_record
from guestctl.output.terminal import Terminal, cells
from guestctl.output.transcript import document
from guestctl.output.views import View

AT = "2026-03-04T09:15:27.412Z"
NARROW = Terminal(stdout=True, width=40)
WIDE = Terminal()


def view(terminal: Terminal = WIDE) -> View:
    return View(terminal, lambda: 1_772_615_727.0)


def said(text: str, name: str | None = "Ann", **more: Any) -> Record:
    return message_record(Message("m1", "outbound", text, AT, sender=Sender("agent", name), **more), "d")


def test_a_chat_line_with_options_and_files() -> None:
    record = said(
        "Which?\nPick one.",
        options=(Option("Billing", "b", "QuickReply"), Option("Site", "s", "Link", url="https://x.example")),
        attachments=(Attachment("a1", "bill.pdf", "application/pdf", 12_345),),
    )
    indent = " " * 11
    assert re.sub(r"^\d\d:\d\d:\d\d", "09:15:27", view().line(record)).split("\n") == [
        "09:15:27 < Ann: Which?",
        f"{indent}Pick one.",
        f"{indent}[1] Billing",
        f"{indent}[2] Site <https://x.example>",
        f"{indent}(file) bill.pdf, 12.3 kB, a1",
    ]


@given(st.text(max_size=300), st.text(max_size=60))
def test_continuation_lines_are_indented_and_fit_for_any_text(text: str, name: str) -> None:
    for line in view(NARROW).line(said(text, name)).split("\n")[1:]:
        assert line.startswith(" " * 11)
        assert sum(map(cells, line)) <= 40


def test_a_long_name_is_folded_like_the_text() -> None:
    """A long name must not run over the edge of the terminal and continue in column one."""
    line = view(NARROW).line(said("hi", "One Who Is Called By Quite A Long Name"))
    assert line.split("\n") == [f"{line[:8]} < One Who Is Called By Quite A ", " " * 11 + "Long Name: hi"]


#: What terminals act on, in every family and form, whole and cut off; and what they draw wider than it is long.
SEQUENCES = (
    *(chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))),
    *(f"{csi}{rest}" for csi in ("\x1b[", "\x9b") for rest in ("", "2J", "1;1H", "9A", "3;5r", "4h", "31m", "6n", "c")),
    *(f"\x1b[?{mode}h" for mode in (3, 5, 1049)),
    *(
        f"{osc}{rest}"
        for osc in ("\x1b]", "\x9d")
        for rest in ("", "0;title\x07", "52;c;aGk=\x9c", "8;;https://x\x1b\\")
    ),
    *(f"\x1b{what}x\x1b\\" for what in "P_^X"),
    *(f"\x1b{what}" for what in ("c", "7", "8", "M", "#8", "(0", "%G")),
    *("\u202e", "\u2066", "\u2028", "\n09:15:27 < Ann: fake", "\x1b\x1b[[2J2J"),
    *(
        "日" * 9,
        "👍" * 9,
        "䷀" * 15 + "09:15:27 < Ann",
        "🇩🇪" * 9,
        "e\u0301" * 30,
        "x" * 45,
        " " * 45,
        "**b** [x](https://x)",
    ),
)


def test_twenty_thousand_lines_contain_no_forbidden_character() -> None:
    """Each example has its own seed, which a failure names."""
    drawn = view(NARROW)
    for seed in range(20_000):
        random = Random(seed)
        text, name = (
            "".join(
                random.choice(SEQUENCES) if random.random() < 0.5 else chr(random.randrange(0x110000))
                for _ in range(random.randrange(most))
            )
            for most in (8, 4)
        )
        line = drawn.line(said(text, name))
        steering = {c for c in line if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"}} - set(
            "\n\u200c\u200d"
        )
        assert not steering, seed
        assert all(row.startswith(" " * 11) for row in line.split("\n")[1:]), seed
        assert all(sum(map(cells, row)) <= 40 for row in line.split("\n")), seed


class Emulated(pyte.Screen):
    """A terminal that records whether it was made to answer."""

    answered = ""

    def write_process_input(self, data: str) -> None:
        self.answered += data

    def draw(self, data: str) -> None:
        # pyte folds before what has no width, and stops at some of it; terminals put it on the character before.
        super().draw("".join(char for char in data if wcwidth(char) > 0))


@pytest.mark.parametrize("colour", [False, True])
@settings(max_examples=60)
@given(
    st.lists(st.one_of(st.sampled_from(SEQUENCES), st.text(max_size=20)), max_size=6).map("".join),
    st.one_of(st.just("Ann"), st.sampled_from(SEQUENCES), st.text(max_size=20)),
)
def test_a_message_never_leaves_its_place_on_the_screen(colour: bool, text: str, name: str) -> None:
    screen = Emulated(40, 300)
    modes, attributes = set(screen.mode), screen.cursor.attrs
    drawn = View(Terminal(stdout=True, colour=colour, width=40), lambda: 1_772_615_727.0, lambda: True)
    before, message, after = (drawn.line(said(*one)) for one in (("before",), (text, name), ("after",)))
    pyte.Stream(screen).feed("\n".join([before, message, after]).replace("\n", "\r\n"))
    last = screen.cursor.y
    rows = ["".join(screen.buffer[y][x].data for x in range(40)).rstrip() for y in range(last + 1)]
    stamp = rows[0].removesuffix("< Ann: before")
    assert re.fullmatch(r"\d\d:\d\d:\d\d ", stamp)
    assert rows[1].startswith(f"{stamp}<")
    assert all(row[:11].isspace() or not row for row in rows[2:last])
    assert rows[last] == f"{stamp}< Ann: after"
    assert max(screen.buffer) == last
    # As many rows as we meant: it folded nothing, nothing scrolled.
    assert last == message.count("\n") + 2
    assert (screen.mode, screen.cursor.attrs, screen.cursor.x) == (modes, attributes, 21)
    assert (screen.title, screen.icon_name, screen.margins, screen.savepoints, screen.charset, screen.answered) == (
        *("", "", None, [], 0, ""),
    )


def test_messages_without_time_or_name() -> None:
    record = message_record(Message("m", "inbound", "hi", None), "d")
    assert view().line(record) == "--:--:-- > guest: hi"


def test_an_undelivered_message_shows_its_delivery() -> None:
    assert view().line({**said("hi"), "delivery": "in_doubt"}).endswith("\n           (in doubt)")


def test_remarks() -> None:
    retrying = event_record(Connection("retrying", attempt=2, delay=1.25, close_code=1006), "d", at=AT)
    assert view().line(retrying).endswith(" * retrying in 1.2 s (attempt 2) (close 1006)")
    gap = event_record(Gap("a\x1b", None, "too old"), "d", at=AT)
    assert view().line(gap).endswith(" ! gap between a\\x1b and ?: too old")


def test_cards_show_the_distance_of_a_time() -> None:
    card = view().card(
        {"kind": "session", "name": "d", "ids": {"guest": None}, "expires_at": "2026-03-04T10:15:27.000Z"}
    )
    local = datetime.fromtimestamp(epoch_of("2026-03-04T10:15:27Z")).astimezone().isoformat(" ")
    assert card == f"name        d\nids.guest   -\nexpires_at  {local} (in 1 h)"


def test_tables_never_read_markup() -> None:
    rows = [{"kind": "x", "name": "[bold]a[/bold] :smile: [/]", "other": "1"}]
    assert "[bold]a[/bold] :smile: [/]" in view().table(rows)


@pytest.mark.parametrize(("seconds", "words"), [(0, "0 s"), (59.9, "59 s"), (3600, "1 h"), (90061, "1 d 1 h")])
def test_spans(seconds: float, words: str) -> None:
    assert format_duration(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"), [(None, "size unknown"), (999, "999 B"), (1500, "1.5 kB"), (2e6, "2.0 MB")]
)
def test_sizes(count: int | None, words: str) -> None:
    assert format_size(count) == words


@given(st.text())
def test_documents_escape_all_markup(text: str) -> None:
    page = "".join(document([said(text)], "html"))
    body = page[page.index("<p>") + 3 : page.index("</p>")]
    assert not set(body) & set("<>\"'")
    assert "\x1b" not in "".join(document([said(text)], "txt"))


def test_a_markdown_document_shows_the_text_unchanged() -> None:
    text = "".join(document([said("# no heading\n1. no list\n<b>no</b> *html*\n- no item")], "md"))
    assert text.split("\n")[2:-2] == [
        r"\# no heading  ",
        r"1\. no list  ",
        r"\<b\>no\</b\> \*html\*  ",
        r"\- no item",
    ]
