"""Scenarios against a sandbox with well-behaved and badly behaved bots."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from guestctl.checks.outcomes import Outcome, exit_code
from guestctl.checks.runner import Rules
from guestctl.core.errors import Exit
from guestctl.dialects import NAMES
from guestctl.sandbox.server import Sandbox
from tests.checks import scripts
from tests.checks.conftest import Checked

Served = Callable[..., Sandbox]
#: For what is not going to come. A busy machine must be able to send within this time, too.
SHORT = Rules(wait=2.0)


def verdicts(outcomes: dict[str, Outcome]) -> dict[str, str]:
    return {name: outcome.verdict for name, outcome in outcomes.items()}


def one(outcomes: dict[str, Outcome]) -> Outcome:
    (outcome,) = outcomes.values()
    return outcome


def script(*steps: str) -> str:
    return "scenarios:\n  a:\n" + "".join(f"    - {step}\n" for step in steps)


# --- the peer's ---


def test_the_peers_scripts_pass_and_fail_as_they_say(served: Served, checked: Checked) -> None:
    sandbox = served(scripts.BOT)
    assert set(verdicts(checked(sandbox, scripts.PASSING)).values()) == {"passed"}
    failing = checked(sandbox, scripts.FAILING, rules=SHORT)
    assert set(verdicts(failing).values()) == {"failed"}
    trouble = failing["Fails on a pattern"].trouble
    assert trouble is not None
    assert trouble.line == 10
    assert trouble.expected == "a reply matching /question [0-9]+/, within 2 s"
    assert [line.text for line in trouble.came] == ["May we ask a question?"]
    assert [line.who for line in failing["Fails on a pattern"].transcript] == ["guest", "bot"]


# --- unruly bots ---

TWO = "rules: [{equals: go, replies: [first, {text: second, delay: 5ms}]}]"


@pytest.mark.parametrize("fault", ["", "swap:after=3", "duplicate", "duplicate:after=3"])
def test_the_order_on_the_wire_does_not_change_the_verdict(served: Served, checked: Checked, fault: str) -> None:
    def sandbox() -> Sandbox:
        return served(TWO, faults=(fault,) if fault else ())

    right = script("say: go", "expect: first", "expect: second")
    wrong = script("say: go", "expect: second", "expect: {contains: first, within: 400ms}")
    any_order = script("say: go", "expect: {contains: [second, first], in_order: false}")
    later = script("say: go", "expect: second", "expect: {contains: first, in_order: false}")
    assert one(checked(sandbox(), right)).verdict == "passed"
    assert one(checked(sandbox(), wrong)).verdict == "failed"
    assert one(checked(sandbox(), any_order)).verdict == "passed"
    assert one(checked(sandbox(), later)).verdict == "passed"


def test_a_late_reply_is_in_time_or_not(served: Served, checked: Checked) -> None:
    sandbox = served("rules: [{equals: go, reply: {text: done, delay: 300ms}}]")
    assert one(checked(sandbox, script("say: go", "expect: {contains: done, within: 5s}"))).verdict == "passed"
    failed = one(checked(sandbox, script("say: go", "expect: {contains: done, within: 50ms}")))
    assert failed.verdict == "failed"
    assert failed.trouble is not None
    assert failed.trouble.came == ()


def test_a_silent_bot_fails(served: Served, checked: Checked) -> None:
    sandbox = served("rules: [{equals: hello, reply: hi}]")
    assert one(checked(sandbox, script("say: go", "expect: {contains: hi, within: 400ms}"))).verdict == "failed"
    assert one(checked(sandbox, script("say: go", "expectNone: 200ms"))).verdict == "passed"


def test_a_bot_that_answers_twice(served: Served, checked: Checked) -> None:
    sandbox = served("rules: [{equals: go, replies: [ok, ok]}]")
    assert one(checked(sandbox, script("say: go", "expect: ok"))).verdict == "passed"
    assert one(checked(sandbox, script("say: go", "expect: {equals: ok, count: 2}"))).verdict == "passed"
    assert one(checked(sandbox, script("say: go", "expect: {equals: ok, count: 3, within: 400ms}"))).verdict == "failed"
    assert one(checked(sandbox, script("say: go", "expect: ok", "expectNone: 300ms"))).verdict == "failed"
    # The second ok answers the first question, not the one nobody answers.
    assert (
        one(
            checked(sandbox, script("say: go", "expect: ok", "say: x", "expect: {contains: ok, within: 400ms}"))
        ).verdict
        == "failed"
    )


def test_expect_none_with_conditions_ignores_other_replies(served: Served, checked: Checked) -> None:
    sandbox = served("rules: [{equals: go, replies: [fine, 'error 5']}]")
    assert one(checked(sandbox, script("say: go", "expectNone: {for: 200ms, contains: sorry}"))).verdict == "passed"
    failed = one(checked(sandbox, script("say: go", "expectNone: {for: 5s, matches: 'error \\d'}")))
    assert failed.verdict == "failed"
    assert failed.trouble is not None
    assert [line.text for line in failed.trouble.came] == ["error 5"]


# --- what else there is to say and to expect ---

RICH = """\
rules:
  - equals: menu
    reply: Which colour?
    quickReplies: [Red, {text: Blue, payload: "colour:blue"}]
  - payload: "colour:blue"
    reply: Blue it is
  - equals: shop
    reply: {text: Look, card: {title: Our Shop, actions: [{text: Buy, payload: buy}]}}
  - payload: buy
    reply: Sold
  - equals: file
    reply: {text: Here, attachment: {url: "https://example.test/Invoice.pdf", type: application/pdf}}
  - equals: order
    reply: Your order is no 4711-x
  - match: where is (.+)
    reply: ${1} is on its way
  - equals: human
    reply: A moment
    handover: {name: Mina}
  - equals: bye
    reply: Goodbye
    disconnect: true
  - equals: plan
    reply: Your plan is ${attr.plan}
otherwise: "you said ${text}"
"""


@pytest.mark.parametrize(
    "steps",
    [
        ["say: menu", "expect: {options: [red, Blue]}", "pick: Blue", "expect: Blue it is"],
        ["say: menu", "pick: 2", "expect: Blue it is"],
        ["say: menu", "pick: 'colour:blue'", "expect: Blue it is"],
        ["say: shop", "expect: {card: our shop, from: bot}", "pick: Buy", "expect: Sold"],
        ["say: file", "expect: {attachment: invoice.pdf}", "expectNone: 50ms"],
        [
            "say: order",
            "expect: {matches: 'no (\\S+)', saveAs: id}",
            "say: where is ${id}",
            "expect: {equals: '${id} is on its way'}",
        ],
        ["say: order", "waitForReplyMatching: 'no (?<id>\\S+)'", "say: where is ${id}", "expect: 4711-x is on"],
        ["say: human", "expect: moment", "say: hi", "expect: {contains: you said hi, from: agent}"],
        ["say: bye", "expect: Goodbye", "expectDisconnect: {within: 5s}"],
        ["say: bye", "expectDisconnect", "expect: {contains: goodbye, in_order: false}"],
        ["say: plan\n      attributes: {plan: gold}", "expect: is gold"],
        ["attributes: {plan: tin}", "say: plan", "expect: is tin"],
        ["typing", "pause: 20ms", "say: x", "expect: {contains: x, not: [q, {equals: z}]}"],
        ["say: one", "say: two", "expect: {contains: [one, two]}"],
    ],
    ids=lambda steps: steps[-1],
)
def test_steps(served: Served, checked: Checked, steps: list[str]) -> None:
    outcome = one(checked(served(RICH), script(*steps)))
    assert outcome.verdict == "passed", outcome


def test_an_option_that_is_not_offered_cannot_be_picked(served: Served, checked: Checked) -> None:
    outcome = one(checked(served(RICH), script("say: menu", "expect: colour", "pick: Green"), rules=SHORT))
    assert outcome.verdict == "failed"
    assert outcome.trouble is not None
    assert outcome.trouble.expected == 'an option "Green", within 2 s'


def test_a_file_is_sent(served: Served, checked: Checked, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("hello")
    sandbox = served(RICH)
    outcome = one(
        checked(sandbox, script("say: look\n      attach: note.txt", "expect: you said look", "attach: note.txt"))
    )
    assert outcome.verdict == "passed", outcome


def test_an_ended_conversation_fails_at_once(served: Served, checked: Checked) -> None:
    outcome = one(checked(served(RICH), script("say: bye", "expect: {contains: never, within: 1h}")))
    assert outcome.verdict == "failed"
    assert outcome.trouble is not None
    assert outcome.trouble.message == "the conversation ended before a matching reply came"
    after = one(checked(served(RICH), script("say: bye", "expectDisconnect", "say: hello")))
    assert (after.verdict, exit_code([after])) == ("failed", Exit.NO)


def test_setup_and_teardown_surround_every_scenario(served: Served, checked: Checked) -> None:
    sandbox = served(RICH)
    text = "setup: [{say: before}, {expect: before}]\nteardown: [{say: after}]\n" + script(
        "expect: {contains: never, within: 400ms}"
    )
    assert one(checked(sandbox, text)).verdict == "failed"
    texts = [message["text"] for session in _sessions(sandbox) for message in session["messages"]]
    assert [text for text in texts if not text.startswith("you said")] == ["before", "after"]


def _sessions(sandbox: Sandbox) -> list[dict[str, list[dict[str, str]]]]:
    from guestctl.core.model import Secret
    from guestctl.sandbox_tools.admin_client import SandboxAdmin

    return SandboxAdmin(sandbox.url, Secret(sandbox.admin_key)).sessions()


def test_every_row_of_a_matrix_runs_as_a_new_guest(served: Served, checked: Checked) -> None:
    sandbox = served(RICH)
    text = "scenarios:\n  a:\n    matrix: {w: [x, y]}\n    steps: [{say: '${w}'}, {expect: 'you said ${w}'}]\n"
    assert verdicts(checked(sandbox, text)) == {"a [w=x]": "passed", "a [w=y]": "passed"}
    assert len(_sessions(sandbox)) == 2


def test_variables(served: Served, checked: Checked) -> None:
    text = "variables: {a: file, b: file}\n" + script(
        "say: ${a} ${b} ${c}", "expect: {equals: you said file given env}"
    )
    found = checked(served(RICH), text, variables={"b": "given"}, environ={"c": "env", "a": "no"})
    assert one(found).verdict == "passed"


def test_retries_are_new_guests(served: Served, checked: Checked) -> None:
    sandbox = served(RICH)
    outcome = one(
        checked(sandbox, script("say: x", "expect: {contains: never, within: 100ms}"), rules=Rules(retries=2))
    )
    assert (outcome.verdict, outcome.attempts, len(_sessions(sandbox))) == ("failed", 3, 3)
    passed = one(checked(sandbox, script("say: x", "expect: x"), rules=Rules(retries=2)))
    assert (passed.verdict, passed.attempts) == ("passed", 1)


def test_a_scenario_has_its_own_timeout(served: Served, checked: Checked) -> None:
    text = "scenarios:\n  a:\n    timeout: 1s\n    steps: [{pause: 1h}, {say: x}]\n"
    outcome = one(checked(served(RICH), text))
    assert outcome.verdict == "failed"
    assert outcome.trouble is not None
    assert outcome.trouble.message == "the scenario took longer than its timeout of 1 s"


# --- the service, not the bot ---


def test_an_unreachable_service_is_an_error_not_a_failure(served: Served, checked: Checked) -> None:
    sandbox = served(RICH)
    sandbox.stop()
    text = "scenarios:\n  a: [{say: x}]\n  b: [{say: x}]\n"
    outcomes = checked(sandbox, text, rules=Rules(wait=1.0))
    assert verdicts(outcomes) == {"a": "error", "b": "error"}
    assert exit_code(list(outcomes.values())) == Exit.NETWORK
    assert outcomes["b"].trouble is not None
    assert outcomes["b"].trouble.message.startswith("not run: ")


def test_a_refused_guest_is_an_error_not_a_failure(served: Served, checked: Checked) -> None:
    outcomes = checked(served(RICH, faults=("refuse:status=403",)), script("say: x"))
    assert exit_code(list(outcomes.values())) == Exit.FORBIDDEN


def test_a_broken_connection_does_not_change_the_verdict(served: Served, checked: Checked) -> None:
    sandbox = served(RICH, faults=("drop:code=1006,after=3",))
    outcome = one(checked(sandbox, script("say: x", "expect: you said x", "say: y", "expect: you said y")))
    assert outcome.verdict == "passed", outcome


@pytest.mark.parametrize("api", NAMES)
def test_every_api_can_be_checked(served: Served, checked: Checked, api: str) -> None:
    text = script("say: one", "expect: {equals: you said one}", "say: two", "expect: {equals: you said two}")
    outcome = one(checked(served(RICH), text, api=api))
    assert outcome.verdict == "passed", outcome
    silent = one(
        checked(
            served("rules: [{equals: x, reply: y}]"), script("say: z", "expect: {contains: y, within: 400ms}"), api=api
        )
    )
    assert silent.verdict == "failed", silent


# --- many ---


def test_a_hundred_parallel_guests_receive_only_their_own_replies(served: Served, checked: Checked) -> None:
    sandbox = served()
    text = "scenarios:\n" + "".join(
        f"  s{n}: [{{say: 'q{n}'}}, {{expect: {{equals: 'echo: q{n}'}}}}, {{expectNone: 10ms}}]\n" for n in range(100)
    )
    outcomes = checked(sandbox, text, rules=Rules(wait=20.0, parallel=20))
    assert list(outcomes) == [f"s{n}" for n in range(100)]
    assert set(verdicts(outcomes).values()) == {"passed"}
    assert len(_sessions(sandbox)) == 100


# --- golden transcripts ---


def test_a_golden_transcript_is_written_and_compared(served: Served, checked: Checked, tmp_path: Path) -> None:
    from guestctl.checks import golden

    text = "golden: true\n" + script(
        "say: order", "expect: {matches: 'no (\\S+)', saveAs: id}", "say: menu", "pick: Red"
    )
    missing = one(checked(served(RICH), text))
    assert missing.verdict == "failed"
    blessed = one(checked(served(RICH), text, rules=Rules(wait=5.0, bless=True)))
    assert blessed.blessed == (
        "> order",
        "< Your order is no ${id}",
        "> menu",
        "< Which colour?",
        "  [1] Red",
        "  [2] Blue",
        "> Red",
        "< you said Red",
    )
    golden.save(tmp_path / "script.golden.json", {"a": blessed.blessed})
    assert one(checked(served(RICH.replace("4711-x", "9999-y")), text)).verdict == "passed"
    changed = one(checked(served(RICH.replace("Which colour?", "What colour?")), text))
    assert changed.verdict == "failed"
    assert changed.trouble is not None
    assert "-< Which colour?\n+< What colour?" in changed.trouble.message


def test_secrets_are_masked_in_outcomes(served: Served, checked: Checked) -> None:
    text = script("say: my password is ${PASSWORD}", "expect: {contains: never, within: 400ms}")
    outcome = one(checked(served(RICH), text, environ={"PASSWORD": "correct-horse"}))
    assert "correct-horse" not in repr(outcome)
    assert any("my password is ***" in line.text for line in outcome.transcript)
