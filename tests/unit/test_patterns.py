"""Patterns: the syntax, which is JavaScript's, and the limit for slow matches."""

from __future__ import annotations

import threading

import pytest

from guestctl.core import patterns
from guestctl.core.patterns import PatternError, PatternTimeout, SlowMatch, compiled, group_names, literal

#: Pattern, flags, text, and what Node.js prints for `new RegExp(pattern, flags).exec(text)?.[0]`.
SAME_IN_NODE = [
    (r"ok$", "m", "ok\r\nx", "ok"),
    (r"ok$", "", "ok\n", None),
    (r"^b", "m", "a\rb", "b"),
    (r"^b$", "", "a\nb", None),
    (r".", "", "\u2028", None),
    (r"\d", "", "٣", None),
    (r"\w", "", "é", None),
    (r"\W", "i", "s", None),
    (r"[^\W]", "i", "k", "k"),
    (r"é\ba", "", "éa", "éa"),
    (r"\s", "", "\ufeff", "\ufeff"),
    (r"\s", "", "\x1c", None),
    (r"[\w-.]+", "", "a-b.c", "a-b.c"),
    (r"[\d-z]+", "", "1-z", "1-z"),
    (r"[^]", "", "\n", "\n"),
    (r"[]", "", "x", None),
    (r"[[a]", "", "[", "["),
    (r"[a&&b]", "", "&", "&"),
    (r"[\b]", "", "\b", "\b"),
    (r"\-\/\:\@\_\e\A\Z", "", "-/:@_eAZ", "-/:@_eAZ"),
    (r"\u0041\x42\cJ\0\012", "", "AB\n\0\n", "AB\n\0\n"),
    (r"\c1\8", "", r"\c18", r"\c18"),
    (r"(?:(a)|b)\1c", "", "bc", "bc"),
    (r"\1(a)", "", "a", "a"),
    (r"(a\1)", "", "a", "a"),
    (r"(?<n>a)\k<n>", "", "aa", "aa"),
    (r"\k<n>", "", "k<n>", "k<n>"),
    (r"a{,3}", "", "a{,3}", "a{,3}"),
    (r"a{1,99999999999999}", "", "aaa", "aaa"),
    (r"(?=a)*a]}", "", "a]}", "a]}"),
    (r"É", "i", "é", "é"),
    (r"straße", "i", "STRASSE", None),
]

#: The same for what goes beyond JavaScript without the flag `u`.
ADDITIONS = [
    (r"\p{L}+", "", "éa1", "éa"),
    (r"[^\P{L}]+", "", "éa1", "éa"),
    (r"\u{1F600}.", "", "😀😀", "😀😀"),
    (r"\ud83d\ude00", "", "😀", "😀"),
    (r"(?i)ABC", "", "abc", "abc"),
    (r"(?m)^b$", "", "a\nb", "b"),
    (r"(?s).", "", "\n", "\n"),
    (r"(?-i)a", "i", "A", None),
    (r"(?P<a>x)(?P=a)", "", "xx", "xx"),
]


@pytest.mark.parametrize(("pattern", "flags", "text", "found"), SAME_IN_NODE + ADDITIONS)
def test_the_syntax_is_that_of_javascript(pattern: str, flags: str, text: str, found: str | None) -> None:
    match = compiled(pattern, any_case="i" in flags, lines="m" in flags).search(text)
    assert (match.whole if match else None) == found


@pytest.mark.parametrize(
    "pattern",
    [
        "(",
        ")",
        "[",
        "\\",
        "*a",
        "a++",
        "^*",
        "a{2,1}",
        "[z-a]",
        "(?>a)",
        "(?x)a",
        "a(?i)b",
        r"\p{Nope}",
        "(?<a>x)(?<a>y)",
        "(" * 3000 + ")" * 3000,
    ],
)
def test_an_invalid_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(PatternError):
        compiled(pattern)


def test_a_literal_matches_itself() -> None:
    text = r"a.b*c[1]-{x}(y)|^$\/?+" + "\n"
    match = compiled(literal(text)).search(text)
    assert match is not None
    assert match.whole == text


def test_names_of_groups() -> None:
    assert list(group_names(r"(?<a>x)[(?<b>](?P<c>y)\(?<d>")) == ["a", "c"]


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "LIMIT", 0.02)


SLOW = "(a|a)*$"


@pytest.mark.usefixtures("hurried")
def test_a_match_that_takes_too_long_twice_has_no_result() -> None:
    text = "a" * 50 + "b"
    for _ in range(2):
        with pytest.raises(PatternTimeout) as raised:
            compiled(SLOW).search(text)
    assert (raised.value.code, int(raised.value.exit)) == ("check.pattern_timeout", 2)


@pytest.mark.usefixtures("hurried")
def test_a_slow_match_can_be_run_elsewhere() -> None:
    text = "a" * 51 + "b"
    with pytest.raises(SlowMatch) as slow:
        compiled(SLOW).search_at_once(text)
    worker = threading.Thread(target=slow.value.finish)
    worker.start()
    worker.join()
    with pytest.raises(PatternTimeout):
        compiled(SLOW).search_at_once(text)


def test_a_pattern_that_only_looks_slow_is_matched() -> None:
    assert compiled("(a+)+$").search("a" * 40 + "!") is None
