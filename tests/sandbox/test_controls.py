"""Controls of a sandbox: answering as the agent, and faults with their counters."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest
import requests

from guestctl.sandbox.controls import SandboxControls
from guestctl.sandbox.faults import ON
from guestctl.sandbox.server import Sandbox
from tests.sandbox.bare import EVERYBODY, SOCKET_SENDERS, Guest, GuestSession
from tests.sandbox.stranger import PATIENCE, Join

T = TypeVar("T")
QUICK_REPLY = {"contentType": "QuickReply", "quickReply": {"text": "Yes", "payload": "y", "action": "Message"}}
CARD = {"contentType": "Card", "card": {"title": "Pizza", "description": "Hot", "actions": []}}


class Refused(Exception):
    """A refusal of the controls."""


@pytest.fixture
def do(sandbox: Sandbox) -> Callable[[Callable[[SandboxControls], T]], T]:
    """Return a function that runs something with the controls in the sandbox's thread."""
    controls = SandboxControls(sandbox, Refused)
    return lambda what: sandbox.call(lambda: what(controls))


Do = Callable[[Callable[[SandboxControls], object]], object]


def id_of(sandbox: Sandbox) -> str:
    return sandbox.call(lambda: next(iter(sandbox.service.conversations)))


def test_an_agent_answers_with_a_text_content_and_typing(sandbox: Sandbox, join: Join, do: Do) -> None:
    guest = join(sandbox)
    guest.configure()
    session = id_of(sandbox)
    do(lambda controls: controls.send_text(session, "Hello"))
    assert guest.receive()["body"]["text"] == "Hello"
    do(lambda controls: controls.send_content(session, "Choose", [QUICK_REPLY, CARD]))
    shown = guest.receive()["body"]
    assert (shown["type"], shown["text"], shown["content"]) == ("Structured", "Choose", [QUICK_REPLY, CARD])
    assert shown["originatingEntity"] == "Human"
    do(lambda controls: controls.show_typing(session))
    assert guest.receive()["body"]["events"][0]["eventType"] == "Typing"


def test_a_file_of_the_agent_can_be_downloaded(sandbox: Sandbox, join: Join, do: Do) -> None:
    guest = join(sandbox)
    guest.configure()
    session = id_of(sandbox)
    do(lambda controls: controls.send_file(session, "menu.pdf", "application/pdf", b"%PDF"))
    (item,) = guest.receive()["body"]["content"]
    file = item["attachment"]
    assert (file["filename"], file["mime"], file["fileSize"], file["mediaType"]) == (
        "menu.pdf",
        "application/pdf",
        4,
        "File",
    )
    answer = requests.get(file["url"], timeout=PATIENCE)
    assert (answer.status_code, answer.content) == (200, b"%PDF")
    (entity,) = guest.history()["entities"]
    again = entity["content"][0]["attachment"]["url"]
    assert requests.get(again, timeout=PATIENCE).content == b"%PDF"


def test_the_agent_ends_a_conversation_once(sandbox: Sandbox, join: Join, do: Do) -> None:
    guest = join(sandbox)
    guest.configure()
    session = id_of(sandbox)
    do(lambda controls: controls.end(session))
    assert guest.receive()["body"]["events"][0]["presence"]["type"] == "Disconnect"
    with pytest.raises(Refused, match=r"has ended \(read-only\)"):
        do(lambda controls: controls.send_text(session, "too late"))


@pytest.mark.parametrize("kind", EVERYBODY)
def test_other_apis_get_texts_only(kind: type[Guest], sandbox: Sandbox, do: Do) -> None:
    guest = kind(sandbox)
    session = id_of(sandbox)
    line = guest.listen() if isinstance(guest, (GuestSession, *SOCKET_SENDERS)) else None
    do(lambda controls: controls.show_typing(session))
    do(lambda controls: controls.send_text(session, "Hello"))
    if line is not None:
        frames = [line.hear()]
        if isinstance(guest, GuestSession):
            assert frames.pop() == {"type": "typing"}
            frames = [line.hear()]
        assert guest.message_in(frames[0])["text"] == "Hello"
    with pytest.raises(Refused, match="text only"):
        do(lambda controls: controls.send_content(session, None, [CARD]))
    with pytest.raises(Refused, match="text only"):
        do(lambda controls: controls.send_file(session, "a", "text/plain", b"a"))


@pytest.mark.parametrize(
    "item", [{}, {"contentType": "Card"}, {"contentType": "Card", "card": {"actions": [5]}}, {"contentType": 5}]
)
def test_content_that_is_not_documented_is_refused(
    sandbox: Sandbox, join: Join, do: Do, item: dict[str, object]
) -> None:
    guest = join(sandbox)
    guest.configure()
    session = id_of(sandbox)
    with pytest.raises(Refused, match="item"):
        do(lambda controls: controls.send_content(session, None, [item]))


def test_an_unknown_session_is_refused(do: Do) -> None:
    with pytest.raises(Refused, match="no session"):
        do(lambda controls: controls.end("nobody"))


def test_sessions_have_state_sockets_and_counters(sandbox: Sandbox, join: Join, do: Do) -> None:
    guest = join(sandbox)
    guest.configure()
    guest.message("hi")
    guest.receive(), guest.receive()
    ((session, found),) = do(lambda controls: controls.sessions()).items()  # type: ignore[attr-defined]
    assert session == id_of(sandbox)
    started = found.pop("started")
    assert started.endswith("Z")
    assert found == {"api": "web-messaging", "state": "active", "sockets": 1, "messages": 2, "requests": 2}


def test_armed_faults_have_counters(sandbox: Sandbox, join: Join, do: Do) -> None:
    do(lambda controls: controls.add_faults(["duplicate:times=3", "drop:after=9", "delay:ms=1"]))
    guest = join(sandbox)
    guest.configure()
    guest.receive()  # the duplicate
    assert do(lambda controls: controls.armed()) == [
        {"spec": "duplicate:times=3", "kind": "duplicate", "times_left": 2, "fired": 1},
        {"spec": "drop:after=9", "kind": "drop", "times_left": 1, "fired": 0},
        {"spec": "delay:ms=1", "kind": "delay", "times_left": None, "fired": 1},
    ]
    do(lambda controls: controls.remove_fault("drop:after=9"))
    with pytest.raises(Refused, match="no fault"):
        do(lambda controls: controls.remove_fault("drop:after=9"))
    with pytest.raises(Refused, match="unknown kind"):
        do(lambda controls: controls.add_faults(["swap", "dance"]))
    assert [one["kind"] for one in do(lambda controls: controls.armed())] == ["duplicate", "delay"]  # type: ignore[attr-defined]
    do(lambda controls: controls.clear_faults())
    assert do(lambda controls: controls.armed()) == []


def test_every_kind_of_fault_is_listed_with_its_keys(do: Do) -> None:
    kinds = {one["kind"]: one for one in do(lambda controls: controls.kinds())}  # type: ignore[attr-defined]
    assert kinds["ratelimit"]["keys"] == ["retry_after", "after", "every", "times", "on"]
    assert kinds["lag"]["on"] == ["history"]
    assert set(kinds["delay"]["on"]) == set(ON)
    assert all(one["about"] and one["example"].startswith(kind) for kind, one in kinds.items())
    do(lambda controls: controls.add_faults([one["example"] for one in kinds.values()]))
