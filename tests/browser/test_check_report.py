"""The file of `check --html` in a browser, opened from disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from guestctl.checks.ai.verdict_failures import CustomerFailed, Undecided
from guestctl.checks.outcomes import (
    Attempt,
    Details,
    JudgedCriterion,
    JudgedVote,
    Outcome,
    StepRun,
    TranscriptLine,
    Trouble,
)
from guestctl.checks.reports import html
from guestctl.checks.wire_log import WireEvent
from guestctl.core.errors import NetworkError, UsageError
from tests.browser.conftest import MODULES
from tests.browser.hostile import EVERY_CODE_POINT, LONG, MARKUP

Opened = Callable[..., Any]

SAID = TranscriptLine(0.01, "guest", "order")
OFFER = TranscriptLine(0.6, "bot", "Which one?", "m-2", options=("Pizza", "Salad"))
CLOSED = TranscriptLine(1.2, "bot", "Sorry, closed", "m-4", unmet=('containing "on its way"',))


def steps(verdict: Any) -> tuple[StepRun, ...]:
    return (
        StepRun("say", 3, "say: order", False, "passed", 0.0, 0.01),
        StepRun("expect", 4, "expect: Which one?", False, "passed", 0.01, 0.6),
        StepRun("expect", 6, "expect: on its way", False, verdict, 0.61, 1.0),
        StepRun("say", 7, "say: thanks", False),
    )


def outcome(name: str, verdict: Any, trouble: Trouble | None = None, **more: Any) -> Outcome:
    wire = () if trouble is None else (WireEvent(0.61, "frame_out", {"text": '{"action":"onMessage"}'}),)
    details = Details(steps(verdict), (SAID, OFFER, CLOSED), wire, (Attempt(verdict, 1.6, "late"),) * 2)
    fields: dict[str, Any] = {"attempts": 2, "trouble": trouble, "details": details, **more}
    return Outcome("talk.yaml", name, 1, ("menu",), verdict, 1.61, **fields)


def judgement(decision: Any, text: str = "The bot was polite.") -> JudgedCriterion:
    votes = (JudgedVote("yes", ("m-2",), "it asks", None), JudgedVote("yes", (), "", "it names no message"))
    return JudgedCriterion(text, False, decision, "1 yes", "it asks", votes, (OFFER,))


def everything() -> list[Outcome]:
    unmet = Trouble("timed out waiting for a matching reply", 6, "expect: on its way", "a reply", (CLOSED,))
    undecided = Trouble("undecided: votes differ", 6, "judge: x", failure=Undecided("undecided: votes differ"))
    customer = Trouble("the customer failed", 6, "customer: x", failure=CustomerFailed("the customer failed"))
    gone = Trouble("connection lost", 6, "", failure=NetworkError("connection lost", code="network.lost"))
    return [
        outcome("Greets", "passed", judged=(judgement("passed"),)),
        outcome("Orders", "failed", unmet),
        outcome("Asks", "undecided", undecided, judged=(judgement("undecided"),)),
        outcome("Rambles", "customer_failed", customer),
        outcome("Breaks", "error", gone),
    ]


@pytest.fixture
def show(tmp_path: Path, opened: Opened) -> Callable[..., Any]:
    """Write a report, and open it from disk."""

    def write(outcomes: Sequence[Outcome], **options: Any) -> Any:
        path = tmp_path / "report.html"
        path.write_bytes(html.document(outcomes, 12.5, 1_772_615_800.0))
        return opened(path.as_uri(), **options)

    return write


def names(page: Any) -> list[str]:
    return [text.strip() for text in page.locator(".scenario:visible > summary .name").all_inner_texts()]


def scenario(page: Any, name: str) -> Any:
    found = page.locator(".scenario", has=page.locator("summary .name", has_text=name))
    found.evaluate("(node) => { node.open = true; }")
    return found


def test_what_did_not_pass_is_shown_first_and_the_filter_shows_the_rest(show: Callable[..., Any]) -> None:
    page = show(everything())
    assert page.locator("h1").inner_text() == "4 of 5 scenarios did not pass"
    assert "2026-03-04 09:16:40 UTC · 12.5 s" in page.locator("header p").inner_text()
    assert names(page) == ["Orders", "Asks", "Rambles", "Breaks"]
    assert page.get_by_role("button", name="Not passed 4").get_attribute("aria-pressed") == "true"
    page.get_by_role("button", name="All 5").click()
    assert names(page) == ["Greets", "Orders", "Asks", "Rambles", "Breaks"]
    page.get_by_role("button", name="Customer failed 1").click()
    assert names(page) == ["Rambles"]
    page.get_by_role("button", name="All 5").click()
    page.get_by_label("Filter by name or tag").fill("ASKS")
    assert names(page) == ["Asks"]
    page.get_by_label("Filter by name or tag").fill("nothing")
    page.get_by_text("No scenario matches the filter.").wait_for()


def test_the_five_outcomes_have_names_signs_and_explanations_of_their_own(show: Callable[..., Any]) -> None:
    page = show(everything())
    page.get_by_role("button", name="All 5").click()
    marks = [text.strip() for text in page.locator(".scenario > summary .mark").all_inner_texts()]
    assert marks == ["✓Passed", "✗Failed", "?Undecided", "⚑Customer failed", "!Error"]
    meanings = [one.inner_text() for one in page.locator(".why .head + p").all()]
    assert len(set(meanings)) == 4
    assert scenario(page, "Breaks").locator("code").inner_text() == "network.lost"


def test_a_failure_has_what_came_next_to_what_was_expected(show: Callable[..., Any]) -> None:
    found = scenario(show(everything()), "Orders")
    why = found.locator(".why")
    expected, came = why.locator(".two > section").all()
    assert "a reply" in expected.inner_text()
    assert "Sorry, closed" in came.inner_text()
    assert '✗ containing "on its way"' in came.inner_text()
    assert found.locator(".bubble.failed").inner_text().endswith("Sorry, closed")
    signs = found.locator(".steps [role=img]")
    assert [one.get_attribute("aria-label") for one in signs.all()] == ["Passed", "Passed", "Failed", "Not run"]
    assert found.locator(".steps svg").count() == 3
    found.locator(".wire summary").click()
    assert found.locator(".wire pre").inner_text() == '{\n "action": "onMessage"\n}'
    assert len(found.get_by_text("1.60 s late").all()) == 2


def test_a_judgement_has_its_votes_and_the_messages_that_it_quotes(show: Callable[..., Any]) -> None:
    found = scenario(show(everything()), "Asks")
    assert found.locator("blockquote").inner_text() == "bot · 0.600 s Which one?"
    found.get_by_text("2 votes").click()
    votes = [text.strip() for text in found.locator(".box ol li").all_inner_texts()]
    assert votes == ["yes it asks", "yes does not count: it names no message"]


def test_the_keyboard_reaches_and_opens_every_scenario(show: Callable[..., Any]) -> None:
    page = show([outcome("first", "passed"), outcome("second", "passed")])
    assert page.locator("h1").inner_text() == "2 scenarios passed"
    found = []
    for _ in range(8):
        page.keyboard.press("Tab")
        found.append(page.evaluate("document.activeElement.innerText || document.activeElement.ariaLabel"))
    texts = [" ".join(text.split()) for text in found]
    buttons = ["All 2", "✓Passed 2", "Filter by name or tag", "Open all", "Close all"]
    assert texts[:5] == buttons
    assert [name in text for name, text in zip(["first", "second"], texts[5:], strict=False)] == [True, True]
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    page.locator(".scenario[open] .bubble").first.wait_for()
    assert page.locator(".scenario[open]").count() == 1


def test_paper_shows_what_the_filter_shows(show: Callable[..., Any]) -> None:
    page = show([outcome(f"s{n}", "failed", Trouble(f"why {n}", 1, "")) for n in range(8)])
    assert page.locator(".scenario[open]").count() == 5
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator(".why:visible").count() == 8
    assert page.locator("nav:visible").count() == 0
    assert page.locator(".wire:visible").count() == 0


def test_without_scripts_the_text_report_is_shown(show: Callable[..., Any]) -> None:
    page = show(everything(), java_script_enabled=False, watched=False)
    text = page.locator("noscript pre").inner_text()
    assert "FAIL  talk.yaml: Orders" in text
    assert "1 passed, 1 failed, 1 undecided, 1 customer failed, 1 error" in text


@pytest.mark.parametrize("options", [{}, {"color_scheme": "dark"}, {"viewport": {"width": 320, "height": 800}}])
def test_it_is_accessible_and_fits(show: Callable[..., Any], options: dict[str, Any]) -> None:
    axe = MODULES / "axe-core" / "axe.min.js"
    if not axe.exists():
        pytest.skip("axe-core is not installed (npm ci --prefix tests/node)")
    page = show(everything(), **options)
    page.get_by_role("button", name="All 5").click()
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    page.locator(".bubble").first.wait_for()
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    page.evaluate(axe.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run().then(({violations}) => violations.map(({id, nodes}) => [id, nodes[0].html]))")
    assert found == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_hostile_texts_run_nothing(show: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every member of an outcome has the markup, and the conversation every code point and long texts."""

    def hostile(text: str) -> Outcome:
        line = TranscriptLine(0.1, text, text, text, (text,), (text,), (text,), (text,))
        failure = UsageError(text, hint=text)
        vote = JudgedVote(text, (text,), text, text)
        wire = (
            WireEvent(0.1, "frame_in", {"text": text}),
            WireEvent(0.2, text[:9], {"url": text, "body": {text: text}}),
        )
        return Outcome(
            text[:50],
            text,
            1,
            (text,),
            "error",
            1.0,
            trouble=Trouble(text, 1, text, text, (line,), failure, (line,), 1.0, (text,)),
            ids={text: text},
            remarks=(text,),
            judged=(JudgedCriterion(text, True, "failed", text, text, (vote,), (line,)),),
            details=Details(
                (StepRun("say", 1, text, True, "error", 0.0, 1.0),), (line,), wire, (Attempt("error", 1.0, text),) * 2
            ),
        )

    monkeypatch.setattr(html, "MOST_BYTES", 1 << 30)  # nothing is left out
    lines = tuple(TranscriptLine(0.1, "bot", text) for text in [*EVERY_CODE_POINT, *LONG])
    long = outcome("long", "failed", Trouble("why", 1, ""), details=Details((), lines))
    page = show([*map(hostile, MARKUP), long])
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    page.locator(".bubble").last.wait_for()
    assert page.locator(".scenario[open]").count() == len(MARKUP) + 1
    assert page.locator(".bubble").count() == len(MARKUP) + len(lines)
    assert page.evaluate("window.ran === undefined && document.scripts.length === 2")
    assert page.locator(".scenario img, .scenario iframe, .scenario a, .scenario script").count() == 0
