"""Records as shown on a terminal: no message can pose as another line."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from datetime import datetime
from random import Random
from time import tzset
from typing import Any

import pyte
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wcwidth import wcwidth

from guestctl.core.clock import epoch_of
from guestctl.core.humanize import format_duration, format_size
from guestctl.core.model import Attachment, Connection, Gap, Message, Option, Sender, Typing
from guestctl.output.records import Record, event_record, message_record
from guestctl.output.terminal import Terminal, cells
from guestctl.output.transcript import document
from guestctl.output.views import View
from tests.properties import examples

AT = "2026-03-04T09:15:27.412Z"
NARROW = Terminal(stdout=True, width=40)
WIDE = Terminal()
#: Columns before the sender, and before the text.
SENDER, TEXT = {40: 12, 80: 16}, {40: 24, 80: 28}


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "UTC")
        tzset()
        yield
    tzset()


def view(terminal: Terminal = WIDE) -> View:
    return View(terminal, lambda: 1_772_615_727.0)


def said(text: str, name: str | None = "Ann", **more: Any) -> Record:
    return message_record(Message("m1", "outbound", text, AT, sender=Sender("agent", name), **more), "d")


def rows(drawn: str) -> list[str]:
    """Return the lines of a record with a fixed time."""
    return re.sub(r"^\d\d:\d\d:\d\d", "09:15:27", drawn).split("\n")


def test_a_message_with_options_and_files() -> None:
    record = said(
        "Which?\nPick one.",
        options=(Option("Billing", "b", "QuickReply"), Option("Site", "s", "Link", url="https://x.example")),
        attachments=(Attachment("a1", "bill.pdf", "application/pdf", 12_345),),
    )
    indent = " " * 28
    assert rows(view().line(record)) == [
        "09:15:27      < Ann         Which?",
        f"{indent}Pick one.",
        f"{indent}[1] Billing",
        f"{indent}[2] Site <https://x.example>",
        f"{indent}(file) bill.pdf, 12.3 kB, a1",
    ]


@given(st.text(max_size=300), st.text(max_size=60))
def test_every_line_stays_in_its_columns_for_any_text(text: str, name: str) -> None:
    for line in view(NARROW).line(said(text, name)).split("\n")[1:]:
        assert line.startswith(" " * SENDER[40]) or not line
        assert sum(map(cells, line)) <= 40


def test_a_long_name_is_folded_like_the_text() -> None:
    assert rows(view(NARROW).line(said("good morning to you", "One Who Is Called Longlastingly"))) == [
        "09:15:27  < One Who Is  good morning to",
        "            Called      you",
        "            Longlastin",
        "            gly",
    ]


def test_only_a_word_longer_than_its_cell_is_folded() -> None:
    text = "a 5a4db0c5-0000-4000-8000-677565737463 and longest_words_of_all or unbreakableunbreakable"
    assert [line[TEXT[40] :] for line in rows(view(NARROW).line(said(text)))] == [
        "a",
        "5a4db0c5-0000-",
        "4000-8000-",
        "677565737463 and",
        "longest_words_",
        "of_all or",
        "unbreakableunbre",
        "akable",
    ]


def test_a_text_starts_below_a_sender_whose_width_is_in_doubt() -> None:
    """Terminals disagree about joined symbols; on each of them the text is in its column."""
    assert rows(view(NARROW).line(said("hi", "\U0001f469\u200d\U0001f469"))) == [
        "09:15:27  < \U0001f469\u200d\U0001f469",
        f"{' ' * 24}hi",
    ]


def test_a_narrow_terminal_shows_the_text_below_the_sender() -> None:
    drawn = view(Terminal(stdout=True, width=30))
    assert rows(drawn.line({**said("hi"), "delivery": "in_doubt"})) == ["09:15:27  < Ann (in doubt)", "  hi"]
    assert drawn.header() == ""


@pytest.mark.parametrize(
    ("width", "header", "first"),
    [
        (60, "TIME        FROM        TEXT", "09:15:27  < Ann         hi"),
        (80, "TIME            FROM        TEXT", "09:15:27      < Ann         hi"),
        (120, "TIME            FROM             TEXT", "09:15:27      < Ann              hi"),
    ],
)
def test_the_columns_follow_from_the_width_of_the_terminal(width: int, header: str, first: str) -> None:
    drawn = view(Terminal(stdout=True, width=width))
    assert drawn.header() == header
    assert rows(drawn.line(said("hi"))) == [first]


def test_a_source_is_shown_where_it_differs() -> None:
    record = said("hi", source="replayed")
    assert rows(view().line(record)) == [f"{'09:15:27      < Ann         hi':<72}replayed"]
    assert rows(view().line(record, usual=frozenset({"replayed"}))) == ["09:15:27      < Ann         hi"]


@pytest.mark.parametrize(
    ("time", "full_times", "shown"),
    [
        ("2026-03-02T12:15:27Z", False, "Mar 02 12:15"),
        ("2025-12-31T12:15:27Z", False, "Dec 31 2025"),
        (None, False, "--:--:--"),
        ("soon", False, "--:--:--"),
        (None, True, "--:--:--"),
        ("2026-03-04T09:15:27Z", True, "2026-03-04 09:15:27+00:00"),
    ],
)
@pytest.mark.usefixtures("utc")
def test_a_time_of_another_day_has_its_date(time: str | None, full_times: bool, shown: str) -> None:
    drawn = View(Terminal(stdout=True, width=120), lambda: 1_772_615_727.0, full_times=full_times)
    assert drawn.line({**said("hi"), "time": time}).startswith(f"{shown} ")


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


@pytest.mark.timeout(600)
def test_twenty_thousand_lines_contain_no_forbidden_character() -> None:
    draw_hostile_texts(range(20_000))


def test_a_thousand_lines_contain_no_forbidden_character() -> None:
    draw_hostile_texts(range(1000))


def draw_hostile_texts(seeds: range) -> None:
    """Draw random texts. Each has its own seed, which a failure names."""
    drawn = view(NARROW)
    for seed in seeds:
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
        assert all(row.startswith(" " * SENDER[40]) or not row for row in line.split("\n")[1:]), seed
        assert all(sum(map(cells, row)) <= 40 for row in line.split("\n")), seed


class Emulated(pyte.Screen):
    """A terminal that records whether it was made to answer."""

    answered = ""

    def write_process_input(self, data: str) -> None:
        self.answered += data

    def draw(self, data: str) -> None:
        # pyte folds before what has no width, and stops at some of it; terminals put it on the character before.
        super().draw("".join(char for char in data if wcwidth(char) > 0))


@pytest.mark.parametrize(("width", "source"), [(40, "live"), (80, "live"), (80, "replayed")])
@pytest.mark.parametrize("colour", [False, True])
@settings(max_examples=examples(40))
@given(
    st.lists(st.one_of(st.sampled_from(SEQUENCES), st.text(max_size=20)), max_size=6).map("".join),
    st.one_of(st.just("Ann"), st.sampled_from(SEQUENCES), st.text(max_size=20)),
)
def test_a_message_never_leaves_its_place_on_the_screen(
    width: int, source: Any, colour: bool, text: str, name: str
) -> None:
    screen = Emulated(width, 300)
    modes, attributes = set(screen.mode), screen.cursor.attrs
    drawn = View(Terminal(stdout=True, colour=colour, width=width), lambda: 1_772_615_727.0, lambda: True)
    message = drawn.line(said(text, name, source=source))
    before, after = drawn.line(said("before")), drawn.line(said("after"))
    pyte.Stream(screen).feed("\n".join([before, message, after]).replace("\n", "\r\n"))
    last = screen.cursor.y
    rows = ["".join(screen.buffer[y][x].data for x in range(width)).rstrip() for y in range(last + 1)]
    stamp = rows[0].removesuffix("< Ann         before")
    assert re.fullmatch(r"\d\d:\d\d:\d\d +", stamp)
    assert rows[1].startswith(f"{stamp}<")
    assert all(row[: SENDER[width]].isspace() or not row for row in rows[2:last])
    assert rows[last] == f"{stamp}< Ann         after"
    last_columns = ["".join(screen.buffer[y][x].data for x in range(72, 80)) for y in range(last)]
    assert source == "live" or "replayed" in last_columns
    assert max(screen.buffer) == last
    # As many rows as we meant: it folded nothing, nothing scrolled.
    assert last == message.count("\n") + 2
    assert (screen.mode, screen.cursor.attrs, screen.cursor.x) == (modes, attributes, TEXT[width] + len("after"))
    assert (screen.title, screen.icon_name, screen.margins, screen.savepoints, screen.charset, screen.answered) == (
        *("", "", None, [], 0, ""),
    )


def test_messages_without_time_or_name() -> None:
    record = message_record(Message("m", "inbound", "hi", None), "d")
    assert view().line(record) == "--:--:--      > guest       hi"


def test_a_sent_message_shows_its_delivery() -> None:
    assert rows(view().line({**said("hi"), "delivery": "in_doubt"})) == [
        f"{'09:15:27      < Ann         hi':<72}in doubt"
    ]
    assert rows(view().line({**said("hi"), "delivery": "accepted"}))[0].endswith("  accepted")


def test_events_in_a_conversation() -> None:
    retrying = event_record(Connection("retrying", attempt=2, delay=1.25, close_code=1006), "d", at=AT)
    assert rows(view().line(retrying)) == [f"09:15:27      *{' ' * 13}retrying in 1.2 s (attempt 2) (close 1006)"]
    gap = event_record(Gap("a\x1b", None, "too old"), "d", at=AT)
    assert rows(view().line(gap)) == [f"09:15:27      !{' ' * 13}gap between a\\x1b and ?: too old"]
    typing = event_record(Typing(Sender("agent", "Ann")), "d", at=AT)
    assert rows(view().line(typing)) == ["09:15:27      * Ann         is typing"]


def test_one_record_is_a_table_with_the_distance_of_its_times() -> None:
    card = view().card(
        {"kind": "session", "name": "d", "ids": {"guest": None}, "expires_at": "2026-03-04T10:15:27.000Z"}
    )
    local = datetime.fromtimestamp(epoch_of("2026-03-04T10:15:27Z")).astimezone().isoformat(" ")
    assert card.split("\n") == [
        f"{'name':<22}d",
        f"{'ids.guest':<22}-",
        f"{'expires_at':<22}{local} (in 1 h)",
    ]


def session(name: str, created: str) -> Record:
    return {
        "kind": "session",
        "name": name,
        "current": name == "cart",
        "state": "active",
        "api": "web-messaging",
        "profile": "staging",
        "created_at": created,
        "expires_at": "2026-03-04T11:20:00Z",
    }


SESSIONS = [session("cart", "2026-03-04T09:12:00Z"), session("default", "2026-03-04T09:15:27Z")]


@pytest.mark.parametrize(("width", "name"), [(60, 19), (80, 39), (120, 40)])
def test_a_list_has_relative_times_and_one_line_for_each_record(width: int, name: int) -> None:
    assert view(Terminal(stdout=True, width=width)).table(SESSIONS).split("\n") == [
        f"{'NAME':{name}}  USE  STATE       CREATED     EXPIRES",
        f"{'cart':{name}}  *    active      3 min ago   in 2 h",
        f"{'default':{name}}       active      now         in 2 h",
    ]


def test_verbose_lists_have_full_times() -> None:
    drawn = View(Terminal(stdout=True, width=120), lambda: 1_772_615_727.0, full_times=True).table(SESSIONS)
    local = datetime.fromtimestamp(epoch_of("2026-03-04T09:12:00Z")).astimezone().isoformat(" ")
    assert f"  {local}  " in drawn.split("\n")[1]
    assert "ago" not in drawn


@pytest.mark.parametrize(("width", "name"), [(40, "cart"), (60, "a-name-of-twenty-cols")])
def test_a_list_without_room_for_its_words_is_one_table_for_each_record(width: int, name: str) -> None:
    drawn = view(Terminal(stdout=True, width=width)).table([{**SESSIONS[0], "name": name}, SESSIONS[1]])
    assert drawn.split("\n")[:3] == [f"{'NAME':<22}{name}", f"{'USE':<22}*", f"{'STATE':<22}active"]
    assert drawn.count("\n\n") == 1


def test_tables_never_read_markup() -> None:
    rows = [{"kind": "x", "name": "[bold]a[/bold] :smile: [/]", "other": "1"}]
    assert "[bold]a[/bold] :smile: [/]" in view().table(rows)
    assert "[bold]a[/bold] :smile: [/]" in view().line(said("[bold]a[/bold] :smile: [/]"))


@pytest.mark.parametrize(
    ("seconds", "words"), [(7200, "2 h"), (0, "0 s"), (59.9, "59 s"), (3600, "1 h"), (90061, "1 d 1 h")]
)
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
