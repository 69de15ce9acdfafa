"""The activity log of a session has the details that source 003 gives its events."""

from __future__ import annotations

import pytest

from guestctl.dialects import NAMES, dialect_class
from tests.integration.front import Guest, InstantClock, Record, Room, listen

WITH_SOCKET = [name for name in NAMES if dialect_class(name).has_socket]


def details(guest: Guest, event: str) -> list[Record]:
    """Return the details of each such event in the report."""
    activity = guest.ok("session", "report").record["activity"]
    return [line["details"] for line in activity if line["event"] == event]


@pytest.mark.parametrize("api", WITH_SOCKET, indirect=True)
def test_a_clean_close_and_a_broken_connection_are_both_logged(talking: Guest, room: Room, time: InstantClock) -> None:
    before = len(details(talking, "ws_disconnected"))

    def lose() -> None:
        time.advance(3.5)
        room.disconnect(1012)

    listen(talking, "--until", "^last$", lives=[lose, lambda: room.push("last")])
    lost, closed = details(talking, "ws_disconnected")[before:]
    assert lost["code"] == 1012
    assert 3500 <= lost["duration_ms"] < 60_000
    assert (closed["code"], closed["reason"]) == talking.dialect.close_frame
    assert len(details(talking, "ws_disconnected")) == len(details(talking, "ws_connected"))


def test_received_records_are_logged_with_their_kind(talking: Guest, room: Room) -> None:
    talking.ok("send", "hi")
    listen(talking, "--until", "^last$", lives=[lambda: room.push("last")])
    (received,) = details(talking, "ws_message_received")[-1:]
    assert (received["type"], received["count"]) == ("message", 1)


@pytest.mark.parametrize("api", ["messaging-conversations"], indirect=True)
def test_the_reason_of_a_close_hides_the_token(talking: Guest, room: Room) -> None:
    token = talking.token()
    (conversation,) = room.sandbox.service.conversations.values()

    def close() -> None:
        (socket,) = conversation.observers
        room.sandbox.call(lambda: socket.close(1012, token[:120]))

    listen(talking, "--until", "^last$", lives=[close, lambda: room.push("last")])
    (lost,) = [entry for entry in details(talking, "ws_disconnected") if entry["code"] == 1012]
    assert lost["reason"]
    assert token[:120] not in lost["reason"]


@pytest.mark.parametrize("api", ["guests"], indirect=True)
def test_a_sync_is_logged_with_its_provider(talking: Guest) -> None:
    talking.ok("guest", "sync", "--provider", "shop", "--email", "ann@shop.example")
    assert details(talking, "profile_synced") == [{"provider_id": "shop"}]
