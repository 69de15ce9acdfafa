"""Services that answer with the published members only: no guest id, no client keys (other-apis.md)."""

from __future__ import annotations

import pytest

from guestctl.dialects import NAMES
from guestctl.dialects.capabilities import Ability
from guestctl.sandbox.server import Sandbox
from tests.integration.conftest import Enter, Serve
from tests.integration.front import Guest, Room, check, listen, messages, texts
from tests.integration.middle import Gateway

WITHOUT_A_GUEST_ID = ["guest-sessions", "webmessaging-conversations"]


@pytest.fixture
def sandbox(serve: Serve) -> Sandbox:
    return serve(answers="published", keys="withheld", deduplicates="no")


@pytest.mark.parametrize("api", NAMES)
def test_a_conversation(guest: Guest, room: Room) -> None:
    guest.ok("session", "create")
    guest.ok("send", "hi")
    assert guest.ok("ask", "once more").out == "echo: once more\n"
    shown = messages(guest.ok("history", "-o", "jsonl"))
    assert [(one["direction"], one["from"]["role"], one["text"]) for one in shown if one["direction"] == "inbound"] == [
        ("inbound", "guest", "hi"),
        ("inbound", "guest", "once more"),
    ]
    result = listen(guest, "--max", "1", lives=[lambda: room.push("pushed")])
    assert (result.code, texts(result)) == (0, ["pushed"])
    assert guest.ok("resume").code == 0
    assert room.texts("inbound") == ["hi", "once more"]


@pytest.mark.parametrize("api", WITHOUT_A_GUEST_ID)
def test_a_session_without_a_guest_id_is_stored_as_such(guest: Guest) -> None:
    assert guest.ok("session", "create").record["ids"]["guest"] is None


@pytest.mark.parametrize(
    ("api", "command"),
    [("guest-sessions", ("typing",)), ("webmessaging-conversations", ("refresh-token",))],
)
def test_only_what_needs_the_guest_id_is_refused(guest: Guest, command: tuple[str, ...]) -> None:
    guest.ok("session", "create")
    check(guest(*command), 12, "api.no_guest_id", "no guest id")
    guest.ok("send", "still fine")


@pytest.mark.parametrize("api", ["webmessaging-conversations"])
def test_the_refresh_without_the_guest_id_in_its_address_is_tried(guest: Guest) -> None:
    assert guest.can(Ability.REFRESH)
    guest.ok("session", "create", GUESTCTL_REFRESH_STYLE="guest-token")
    result = guest("refresh-token", GUESTCTL_REFRESH_STYLE="guest-token")
    assert result.code != 12, result


@pytest.mark.parametrize("keys", ["withheld", "returned"])
@pytest.mark.parametrize("api", ["messaging-conversations"])
def test_own_messages_are_recognised_without_the_guest_id(serve: Serve, enter: Enter, api: str, keys: str) -> None:
    """The guest's messages are inbound, live and in history, and never a reply."""
    with Gateway() as middle:
        sandbox = serve(also_hosts=(f"127.0.0.1:{middle.port}",), keys=keys, deduplicates="no")
        middle.behind = sandbox.port
        middle.change = lambda value: {name: one for name, one in value.items() if name != "guestId"}
        guest, room = enter(sandbox, api, GUESTCTL_SANDBOX_URL=middle.url), Room(sandbox)
        assert guest.ok("session", "create").record["ids"]["guest"] is None
        assert guest.ok("send", "hi", "-o", "json").record["direction"] == "inbound"
        assert guest.ok("ask", "once more").out == "echo: once more\n"
        directions = [one["direction"] for one in messages(guest.ok("history", "-o", "jsonl"))]
        assert directions == ["inbound", "outbound", "inbound", "outbound"]
        # In doubt: history settles it, without a key and before the guest's id is known.
        guest.ok("session", "create", "--new")
        room.faults("drop:code=1006,after=1,on=send")
        sent = guest("ask", "is it there?", "--timeout", "20", "-o", "json")
        assert sent.code in {0, 8}, sent
        assert sum(one["messages"] and one["messages"][0]["text"] == "is it there?" for one in room.sessions()) == 1
