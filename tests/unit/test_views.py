"""What people see: no message can pose as another line."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestctl.model import Attachment, Connection, Gap, Message, Option, Sender
from guestctl.records import event_record, message_record
from guestctl.terminal import Terminal, cells
from guestctl.transcript import document
from guestctl.views import View, size_of, span

AT = "2026-03-04T09:15:27.412Z"
NARROW = Terminal(stdout=True, width=40)
WIDE = Terminal()


def view(terminal: Terminal = WIDE) -> View:
    return View(terminal, lambda: 1_772_615_727.0)


def said(text: str, name: str | None = "Ann", **more: Any) -> dict[str, Any]:
    return message_record(Message("m1", "outbound", text, AT, sender=Sender("agent", name), **more), "d")


def test_a_chat_line_with_everything() -> None:
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
def test_whatever_is_said_every_further_line_is_indented_and_fits(text: str, name: str) -> None:
    for line in view(NARROW).line(said(text, name)).split("\n")[1:]:
        assert line.startswith(" " * 11)
        assert sum(map(cells, line)) <= 40


def test_without_a_time_or_a_name() -> None:
    record = message_record(Message("m", "inbound", "hi", None), "d")
    assert view().line(record) == "--:--:-- > guest: hi"


def test_what_did_not_arrive_says_so() -> None:
    assert view().line({**said("hi"), "delivery": "in_doubt"}).endswith("\n           (in doubt)")


def test_remarks() -> None:
    retrying = event_record(Connection("retrying", attempt=2, delay=1.25, close_code=1006), "d", at=AT)
    assert view().line(retrying).endswith(" * retrying in 1.2 s (attempt 2) (close 1006)")
    gap = event_record(Gap("a\x1b", None, "too old"), "d", at=AT)
    assert view().line(gap).endswith(" ! gap between a\\x1b and ?: too old")


def test_cards_say_how_far_off_a_time_is() -> None:
    card = view().card(
        {"kind": "session", "name": "d", "ids": {"guest": None}, "expires_at": "2026-03-04T10:15:27.000Z"}
    )
    assert card == "name        d\nids.guest   -\nexpires_at  2026-03-04T10:15:27.000Z (in 1 h)"


def test_tables_never_read_markup() -> None:
    rows = [{"kind": "x", "name": "[bold]a[/bold] :smile: [/]", "other": "1"}]
    assert "[bold]a[/bold] :smile: [/]" in view().table(rows)


@pytest.mark.parametrize(("seconds", "words"), [(0, "0 s"), (59.9, "59 s"), (3600, "1 h"), (90061, "1 d 1 h")])
def test_spans(seconds: float, words: str) -> None:
    assert span(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"), [(None, "size unknown"), (999, "999 B"), (1500, "1.5 kB"), (2e6, "2.0 MB")]
)
def test_sizes(count: int | None, words: str) -> None:
    assert size_of(count) == words


@given(st.text())
def test_no_document_lets_markup_through(text: str) -> None:
    page = "".join(document([said(text)], "html"))
    body = page[page.index("<p>") + 3 : page.index("</p>")]
    assert not set(body) & set("<>\"'")
    assert "\x1b" not in "".join(document([said(text)], "txt"))


def test_markdown_shows_what_was_written() -> None:
    text = "".join(document([said("# no heading\n1. no list\n<b>no</b> *html*\n- no item")], "md"))
    assert text.split("\n")[2:-2] == [
        r"\# no heading  ",
        r"1\. no list  ",
        r"\<b\>no\</b\> \*html\*  ",
        r"\- no item",
    ]
