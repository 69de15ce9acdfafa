"""Markdown on a terminal: it is styled, and it cannot control the terminal."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as some

from guestctl.core.model import Message, Sender
from guestctl.output.markdown import spans
from guestctl.output.records import message_record
from guestctl.output.terminal import Terminal, cells
from guestctl.output.views import View

AT = "2026-03-04T09:15:27.412Z"


def plain(text: str) -> list[str] | None:
    found = spans(text)
    return None if found is None else ["".join(piece for piece, _ in line) for line in found]


@pytest.mark.parametrize("text", ["hello", "Order 17 is 5.50!", "a\nb", "", "1,5 + 2 = 3,5", "what? (yes)"])
def test_plain_text_is_unchanged(text: str) -> None:
    assert spans(text) is None


def test_emphasis_headings_and_links() -> None:
    assert spans("**bold** *both **of*** ~~gone~~") == [
        [("bold", "bold"), (" ", ""), ("both ", "italic"), ("of", "italic bold"), (" ", ""), ("gone", "strike")]
    ]
    assert spans("# Title") == [[("Title", "bold")]]
    assert spans("see [here](https://x.example/a)") == [
        [("see ", ""), ("here", "underline"), (" <https://x.example/a>", "")]
    ]
    assert plain("<https://x.example>") == ["https://x.example"]
    assert plain("![cat](https://x.example/c.png)") == ["(image) cat <https://x.example/c.png>"]


def test_lines_blocks_and_lists_keep_their_order() -> None:
    assert plain("one\ntwo *x*\n\nthree") == ["one", "two x", "", "three"]
    assert plain("- a\n- b\n  more\n  1. c\n  2. d") == ["- a", "- b", "  more", "  1. c", "  2. d"]
    assert plain("> said\n> so") == ["| said", "| so"]
    assert plain("`a*b*`\n```\nx  *y*\n```") == ["`a*b*`", "x  *y*"]
    assert plain("a\n\n---") == ["a", "", "----"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("&#27;[2J *x*", None),
        ("&#x202e;evil *x*", "\\u202eevil x"),
        ("<b>no</b> *x*", "<b>no</b> x"),
        ("[ok](javascript:alert)", "[ok](javascript:alert)"),
        ("[bank.example](https://evil.example)", "bank.example <https://evil.example>"),
        ("*a\x1b]0;x\x07b*", "a\\x1b]0;x\\x07b"),
    ],
)
def test_entities_and_escapes_bring_in_no_control_characters(text: str, shown: str | None) -> None:
    (line,) = plain(text) or [""]
    assert shown is None or line == shown
    assert line.isprintable()


SGR = re.compile(r"\x1b\[[0-9;]*m")


@given(some.text(alphabet="ab *_`[]()#>-1.~\n&<!|\\\x1b\u202e\t世", max_size=80) | some.text(max_size=60))
def test_any_markdown_is_indented_and_has_only_known_styles(text: str) -> None:
    record = message_record(Message("m", "outbound", text, AT, sender=Sender("bot", "Ann")), "d")
    shown = View(Terminal(stdout=True, width=40, colour=True), lambda: 1_772_615_727.0, lambda: True).line(record)
    bare = SGR.sub("", shown)
    assert "\x1b" not in bare
    for line in bare.split("\n")[1:]:
        assert line.startswith(" " * 24) or not line
        assert sum(map(cells, line)) <= 40
    assert SGR.sub("", shown).startswith("0") or SGR.sub("", shown)[0].isdigit()


def test_markdown_needs_colour_a_deployment_with_markdown_and_an_outbound_message() -> None:
    def shown(direction: str, colour: bool, markdown: bool) -> str:
        message = Message("m", "inbound" if direction == "inbound" else "outbound", "*hi*", AT)
        terminal = Terminal(stdout=True, width=80, colour=colour)
        return View(terminal, lambda: 0.0, lambda: markdown).line(message_record(message, "d"))

    assert "\x1b[3mhi\x1b[0m" in shown("outbound", True, True)
    assert "*hi*" in shown("outbound", True, False)
    assert "*hi*" in shown("outbound", False, True)
    assert "*hi*" in shown("inbound", True, True)
