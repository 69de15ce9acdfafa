"""An id of `send` belongs to one message: its text, attributes, answer and file.

Knows: the command line, and what the sandbox stored. Must not know: how the messages are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from guestctl.sandbox.serve import running
from guestctl.sandbox.server import Sandbox
from guestctl.sandbox.settings import SandboxOptions
from tests.cli.conftest import Front

ID = "0b7d2c5e-1f63-4b9a-9a35-4d3f1f6a7b10"

BOT = """
rules:
  - equals: offer
    quickReplies: [{text: Choose, payload: first}, {text: Choose, payload: second}]
  - equals: form
    form:
      id: f-1
      title: Your details
      reply: Thank you
      fields: [{id: name, title: Your name}, {id: town, title: Town}]
otherwise: "${text}|${payload}"
"""

#: What asks the bot for an offer, the first message, and other messages with the same id.
MESSAGES: dict[str, tuple[str, tuple[str, ...], list[tuple[str, ...]]]] = {
    "text": ("", ("one",), [("two",), ("One",), ("one", "--attr", "a=b"), ("one", "--file", "a.txt")]),
    "attributes": (
        "",
        ("one", "--attr", "a=b"),
        [("one",), ("one", "--attr", "a=c"), ("one", "--attr", "a=b", "--attr", "c=d")],
    ),
    "file": (
        "",
        ("--file", "a.txt"),
        [("--file", "b.txt"), ("--file", "same.txt"), ("one",), ("one", "--file", "a.txt")],
    ),
    "pick": ("offer", ("--pick", "first"), [("--pick", "second"), ("Choose",)]),
    "form": (
        "form",
        ("--form", "name=Ada"),
        [("--form", "name=Eve"), ("--form", "name=Ada", "--form", "town=Ulm"), ("Thank you",)],
    ),
}


@pytest.fixture
def bot(tmp_path: Path) -> Iterator[Sandbox]:
    (tmp_path / "bot.yaml").write_text(BOT)
    with running(SandboxOptions(fast=True, script=tmp_path / "bot.yaml")) as found:
        yield found


@pytest.mark.parametrize("kind", MESSAGES)
def test_an_id_is_repeated_only_with_the_same_message(
    kind: str, bot: Sandbox, sandboxed: Callable[[Sandbox], Front], tmp_path: Path
) -> None:
    front = sandboxed(bot)
    for name, text in (("a.txt", "same"), ("b.txt", "other"), ("same.txt", "same")):
        (tmp_path / name).write_text(text)
    front("session", "create")
    asked, first, others = MESSAGES[kind]
    if asked:
        front("send", asked, "--wait")
    sent = front("send", *first, "--id", ID)
    assert (sent.code, sent.record["delivery"]) == (0, "accepted"), sent.err

    def stored() -> list[str]:
        return [m["id"] for m in front("sandbox", "sessions").records[-1]["messages"] if m["direction"] == "inbound"]

    before = stored()
    assert sent.record["id"] in before
    for other in others:
        refused = front("send", *other, "--id", ID)
        assert (refused.code, refused.error["code"]) == (6, "conflict.key"), other
        assert refused.record["delivery"] == "not_sent"
    again = front("send", *first, "--id", ID)
    assert (again.code, again.record["id"]) == (0, sent.record["id"]), again.err
    assert stored() == before
