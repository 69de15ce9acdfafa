"""What `ask` prints for replies of several messages and for replies without text.

Knows: the command line and a scripted bot. Must not know: the client's internals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from guestctl import Client
from guestctl.core.timings import Timings
from guestctl.dialects import NAMES
from guestctl.sandbox.serve import running
from guestctl.sandbox.server import Sandbox
from guestctl.sandbox.settings import SandboxOptions
from tests.cli.conftest import Front

BOT = """
rules:
  - equals: three
    replies: [One, Two, Three]
  - equals: mixed
    replies:
      - Choose one
      - quickReplies: [{text: "Yes"}, {text: "No"}]
  - equals: quick
    quickReplies: [{text: "Yes"}, {text: "No"}]
  - equals: card
    card: {title: Parcel 7, description: On its way, actions: [{text: Track it, payload: track}]}
  - equals: carousel
    carousel:
      - {title: Standard, actions: [{text: Choose, payload: "ship:std"}]}
      - {title: Express, actions: [{text: Choose, payload: "ship:exp"}]}
  - equals: slots
    datePicker: {title: Delivery, times: [2026-03-09T08:00:00Z]}
  - equals: list
    listPicker: {title: Toppings, reply: My toppings, items: [Feta, Brie]}
  - equals: form
    form: {id: f-1, title: Your details, reply: Thank you, fields: [{id: name, title: Your name}]}
  - equals: file
    attachment: {url: "https://cdn.example/label.png", size: 48213, id: a-1}
otherwise: "${text}"
"""
WITHOUT_TEXT = ("quick", "card", "carousel", "slots", "list", "form", "file")


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bot") / "bot.yaml"
    path.write_text(BOT)
    return path


@pytest.fixture(scope="module")
def scripted(script: Path) -> Iterator[Sandbox]:
    with running(SandboxOptions(fast=True, script=script)) as found:
        yield found


@pytest.fixture
def asking(scripted: Sandbox, sandboxed: Callable[[Sandbox], Front]) -> Front:
    return sandboxed(scripted)


@pytest.mark.parametrize("kind", WITHOUT_TEXT)
def test_a_reply_without_text_is_drawn_as_send_draws_it(asking: Front, kind: str) -> None:
    asking("session", "create")
    drawn = asking("send", kind, "--wait", "-o", "table").out.rstrip("\n").split("\n")[1:]
    assert drawn
    told = asking("ask", kind)
    assert told.code == 0
    assert told.out.rstrip("\n").split("\n") == [line[28:] for line in drawn]


def test_ask_prints_all_messages_of_the_reply(asking: Front) -> None:
    assert asking("ask", "three").out == "One\nTwo\nThree\n"
    assert asking("ask", "mixed").out == "Choose one\n[1] Yes\n[2] No\n"


def test_first_prints_the_first_message_only(asking: Front) -> None:
    assert asking("ask", "three", "--first").out == "One\n"
    record = asking("ask", "three", "--first", "-o", "json").record
    assert (record["text"], record["following"]) == ("One", [])
    refused = asking("ask", "three", "--first", "--silence", "1")
    assert (refused.code, refused.out) == (2, "")


@pytest.mark.parametrize("mode", ["json", "jsonl"])
def test_the_record_of_ask_is_one_object_with_the_following_messages(asking: Front, mode: str) -> None:
    record = asking("ask", "three", "-o", mode).record
    assert record["text"] == "One"
    assert [message["text"] for message in record["following"]] == ["Two", "Three"]
    assert all(message["kind"] == "message" for message in record["following"])


@pytest.mark.parametrize("silence", ["100ms", "0.2"])
def test_silence_is_a_duration(asking: Front, silence: str) -> None:
    assert asking("ask", "three", "--silence", silence).out == "One\nTwo\nThree\n"
    assert asking("ask", "three", "--silence", "soon").code == 2


@pytest.mark.parametrize("api", NAMES)
def test_ask_all_returns_every_message_on_every_api(script: Path, tmp_path: Path, api: str) -> None:
    with running(SandboxOptions(fast=True, keys="returned", deduplicates="yes", api=api, script=script)) as served:
        environ = {"GUESTCTL_SANDBOX_URL": served.url, "GUESTCTL_STATE": str(tmp_path), "GUESTCTL_API": api}
        timings = Timings(reply_silence=0.1, poll_min=0.05)
        with Client("sandbox", environ=environ, timings=timings) as guest:
            assert [message.text for message in guest.ask_all("three")] == ["One", "Two", "Three"]
            assert guest.ask("three").text == "One"
