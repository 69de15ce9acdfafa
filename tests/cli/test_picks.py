"""What a pick means when labels, payloads and places are numbers: in `send`, in `check` and in `chat`.

Knows: the command line and a scripted bot. Must not know: how an option is found.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from guestctl.sandbox.serve import running
from guestctl.sandbox.server import Sandbox
from guestctl.sandbox.settings import SandboxOptions
from tests.cli.conftest import Front
from tests.cli.test_chat import chatting
from tests.cli.test_check import untimed

OFFERS: dict[str, Any] = {
    "ratings": {"quickReplies": ["5", "4", "3", "2", "1"]},
    "titled": {"quickReplies": {"title": "Rate us", "replies": ["5", "4", "3", "2", "1"]}},
    "payloads": {"quickReplies": [{"text": t, "payload": n} for t, n in (("Good", "3"), ("Fair", "2"), ("Bad", "1"))]},
    "card": {"card": {"title": "Rate us", "actions": ["3", "2", "1"]}},
    "list": {"listPicker": {"title": "Rate", "items": [{"id": f"id-{n}", "title": str(n)} for n in (3, 2, 1)]}},
    "large": {"quickReplies": ["20", "10"]},
    "zero": {"quickReplies": ["0", "1", "2"]},
    "words": {"quickReplies": ["Red", "Green", "Blue"]},
    "twice": {"quickReplies": [*({"text": "Choose", "payload": p} for p in ("first", "second")), "Other"]},
    "cards": {"carousel": [{"title": t, "actions": [{"text": "Choose", "payload": t}]} for t in ("std", "exp")]},
    "cases": {"quickReplies": [{"text": "yes", "payload": "1"}, {"text": "YES", "payload": "2"}]},
    "crossed": {"quickReplies": [{"text": "A", "payload": "B"}, {"text": "B", "payload": "A"}]},
    "equal": {"quickReplies": ["Same", "Same"]},
}  # fmt: skip

#: What is offered, what is picked, and the payload that the bot receives.
PICKS = [
    ("ratings", "5", "5"),
    ("ratings", "1", "1"),
    ("ratings", "3", "3"),
    ("titled", "5", "5"),
    ("payloads", "3", "3"),
    ("payloads", "Bad", "1"),
    ("card", "3", "3"),
    ("list", "3", "id-3"),
    ("list", "1", "id-1"),
    ("large", "20", "20"),
    ("large", "2", "10"),
    ("zero", "0", "0"),
    ("zero", "3", "2"),
    ("words", "2", "Green"),
    ("words", "blue", "Blue"),
    ("twice", "second", "second"),
    ("twice", "3", "Other"),
    ("cards", "exp", "exp"),
    ("cards", "2", "exp"),
    ("cases", "yes", "1"),
    ("cases", "YES", "2"),
    ("equal", "Same", "Same"),
]

PLACES = [
    ("ratings", 5, "1"),
    ("ratings", 1, "5"),
    ("titled", 2, "4"),
    ("payloads", 3, "1"),
    ("card", 1, "3"),
    ("list", 3, "id-1"),
    ("large", 1, "20"),
    ("zero", 1, "0"),
    ("twice", 2, "second"),
    ("cards", 1, "std"),
]

#: What is offered, what is picked, and the choices that the error lists.
AMBIGUOUS = [
    ("twice", "Choose", ['1 "Choose" (first)', '2 "Choose" (second)']),
    ("twice", "choose", ['1 "Choose" (first)', '2 "Choose" (second)']),
    ("cards", "Choose", ['1 "Choose" (std)', '2 "Choose" (exp)']),
    ("cases", "Yes", ['1 "yes" (1)', '2 "YES" (2)']),
    ("crossed", "A", ['1 "A" (B)', '2 "B" (A)']),
]


@pytest.fixture(scope="module")
def offering(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    script = tmp_path_factory.mktemp("bot") / "bot.json"
    rules = [{"equals": name, "reply": f"offer {name}", **offer} for name, offer in OFFERS.items()]
    script.write_text(json.dumps({"rules": rules, "otherwise": "got ${payload}"}))
    with running(SandboxOptions(fast=True, script=script)) as found:
        yield found


@pytest.fixture
def guest(offering: Sandbox, sandboxed: Callable[[Sandbox], Front]) -> Front:
    front = sandboxed(offering)
    front("session", "create")
    return front


@pytest.mark.parametrize(("offer", "wanted", "payload"), PICKS)
def test_send_picks_a_label_or_payload_before_a_place(guest: Front, offer: str, wanted: str, payload: str) -> None:
    guest("send", offer, "--wait")
    sent = guest("send", "--pick", wanted, "--wait", "-o", "json")
    assert (sent.code, sent.record["reply"]["text"]) == (0, f"got {payload}"), sent


@pytest.mark.parametrize(("offer", "place", "payload"), PLACES)
def test_pick_number_is_always_the_place(guest: Front, offer: str, place: int, payload: str) -> None:
    guest("send", offer, "--wait")
    sent = guest("send", "--pick-number", str(place), "--wait", "-o", "json")
    assert (sent.code, sent.record["reply"]["text"]) == (0, f"got {payload}"), sent


def messages(guest: Front) -> list[str]:
    return [message["text"] for message in guest("sandbox", "sessions").records[-1]["messages"]]


@pytest.mark.parametrize(("offer", "wanted", "choices"), AMBIGUOUS)
def test_a_name_of_several_options_is_refused_with_the_choices(
    guest: Front, offer: str, wanted: str, choices: list[str]
) -> None:
    guest("send", offer, "--wait")
    before = messages(guest)
    refused = guest("send", "--pick", wanted, "--wait")
    assert (refused.code, refused.error["code"], refused.record["delivery"]) == (2, "usage.option", "not_sent")
    assert refused.error["message"] == f'"{wanted}" names several options: {", ".join(choices)}'
    assert "--pick-number N" in refused.error["hint"]
    assert messages(guest) == before


@pytest.mark.parametrize("number", ["0", "-1", "x", "6"])
def test_a_place_that_is_not_offered_is_refused(guest: Front, number: str) -> None:
    guest("send", "ratings", "--wait")
    refused = guest("send", "--pick-number", number)
    assert (refused.code, refused.out) == (2, "")
    problem = refused.error["message"]
    assert "--pick-number" in problem or problem.startswith('no option "6"; available: 1 "5", 2 "4"')


def test_a_check_picks_as_send_does(guest: Front, tmp_path: Path) -> None:
    steps = {}
    for number, (offer, wanted, payload) in enumerate(PICKS):
        steps[f"{number} {offer} {wanted}"] = [
            {"say": offer},
            {"pick": wanted},
            {"expect": {"equals": f"got {payload}"}},
        ]
    for number, (offer, place, payload) in enumerate(PLACES):
        pick = {"pick": {"number": place}}
        steps[f"place {number} {offer}"] = [{"say": offer}, pick, {"expect": {"equals": f"got {payload}"}}]
    (tmp_path / "s.json").write_text(json.dumps({"scenarios": steps}))
    result = guest("check", str(tmp_path / "s.json"), "--parallel", "4", "--timeout", "10s")
    assert (result.code, untimed(result.out).splitlines()[-1]) == (0, f"{len(steps)} passed, 0 failed, 0 errors"), (
        result
    )


def test_a_bare_number_in_a_check_is_a_label_before_a_place(guest: Front, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("scenarios: {a: [{say: ratings}, {pick: 5}, {expect: {equals: got 5}}]}\n")
    assert guest("check", str(tmp_path / "s.yaml"), "--timeout", "10s").code == 0


@pytest.mark.parametrize(("offer", "wanted", "choices"), AMBIGUOUS)
def test_an_ambiguous_pick_is_an_error_of_the_check(
    guest: Front, tmp_path: Path, offer: str, wanted: str, choices: list[str]
) -> None:
    (tmp_path / "s.json").write_text(json.dumps({"scenarios": {"a": [{"say": offer}, {"pick": wanted}]}}))
    result = guest("check", str(tmp_path / "s.json"), "--timeout", "10s", "-o", "json")
    assert (result.code, result.record["errors"]) == (2, 1)
    error = result.record["scenarios"][0]["trouble"]["error"]
    assert error["code"] == "usage.option"
    assert all(choice in error["message"] for choice in choices)
    assert messages(guest)[-1] == f"offer {offer}"


def test_chat_picks_as_send_does(guest: Front) -> None:
    with chatting(guest) as terminal:
        for typed, offer, payload in (("5", "ratings", "5"), ("/pick 5", "titled", "5"), ("2", "words", "Green")):
            terminal.type(f"{offer}\r")
            terminal.until(f"offer {offer}")
            terminal.type(f"{typed}\r")
            terminal.until(f"got {payload}")
            terminal.seen = ""
        terminal.type("twice\r")
        terminal.until("offer twice")
        terminal.type("/pick Choose\r")
        terminal.until('"Choose" names several options')
        terminal.type("/pick second\r")
        terminal.until("got second")
        terminal.type("\x04")
        assert terminal.ended() == 0
