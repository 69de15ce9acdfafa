"""A 403 names what the API checks and which values it was given; `doctor` checks the queue where a call can."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.front import Guest, Room, check
from tests.integration.middle import Gateway, answer

DEPLOYMENT = 'deployment_id "5a4db0c5-0000-4000-8000-677565737463"'
#: API -> what it checks, as the message of a refused request ends.
CHECKED = {
    "web-messaging": f'this API checks origin "http://localhost" and {DEPLOYMENT}',
    "guest-sessions": f"this API checks {DEPLOYMENT}",
    "conversation-guests": f"this API checks {DEPLOYMENT}",
    "messaging-conversations": 'this API checks queue "sandbox-queue" and the scopes "webmessaging:guest:send '
    'webmessaging:guest:read webmessaging:conversation:read"',
    "guests": 'this API checks queue "sandbox-queue" and the scopes "guest:create guest:read webchat:send"',
    "webmessaging-conversations": f'this API checks {DEPLOYMENT} and the scopes "webmessaging:conversation:write"',
}
WITH_QUEUES = ["messaging-conversations", "guests"]


@pytest.mark.parametrize("api", CHECKED)
def test_a_403_names_what_is_checked(guest: Guest, room: Room) -> None:
    room.faults("refuse:status=403" if guest.api == "web-messaging" else "http:status=403,on=create")
    code = "forbidden.upgrade" if guest.api == "web-messaging" else "forbidden"
    error = check(guest("session", "create"), 5, code, f"; {CHECKED[guest.api]}")
    assert error["message"].endswith(CHECKED[guest.api])
    assert error["body"]


@pytest.mark.parametrize("api", ["web-messaging"])
def test_a_value_that_is_not_set_is_named_as_such(guest: Guest, room: Room) -> None:
    url = guest.environ["GUESTCTL_SANDBOX_URL"]
    (guest.cwd / "profiles.yaml").write_text(f"profiles: {{shop: {{base_url: '{url}', deployment_id: d}}}}\n")
    room.faults("refuse:status=403")
    refused = guest("session", "create", GUESTCTL_PROFILE="shop")
    check(refused, 5, "forbidden.upgrade", 'this API checks origin (none set) and deployment_id "d"')


@pytest.mark.parametrize("api", WITH_QUEUES)
def test_the_queue_of_the_request_is_named(guest: Guest, room: Room) -> None:
    """The one of --queue, if it is not the profile's."""
    error = check(guest("session", "create", "--queue", "unknown-1"), 5, "forbidden", 'queue "unknown-1"')
    assert error["message"].startswith("create: HTTP 403: The queue is not provisioned for web messaging; this API")
    assert room.sessions() == []


def queue_check(guest: Guest, **more: Any) -> dict[str, Any]:
    (found,) = [record for record in guest("doctor", **more).records if record["check"] == "queue"]
    return found


@pytest.mark.parametrize("api", ["guests"])
def test_doctor_reads_the_queue(guest: Guest, room: Room) -> None:
    found = queue_check(guest)
    assert (found["result"], found["target"], found["found"]) == ("ok", "sandbox-queue", "Queue sandbox-queue")
    found = queue_check(guest, GUESTCTL_QUEUE="unknown-1")
    assert (found["result"], found["failure"], found["target"]) == ("failed", "doctor.queue", "unknown-1")
    assert room.sessions() == []


@pytest.mark.parametrize("api", ["guests"])
def test_a_queue_that_cannot_be_read_is_no_failure(behind: Guest, middle: Gateway) -> None:
    middle.rule = lambda asked: answer(403, b"{}") if "/queues/" in asked.target else None
    found = queue_check(behind)
    assert (found["result"], found["found"]) == ("skipped", "the OAuth client may not read queues")


@pytest.mark.parametrize("api", ["messaging-conversations"])
def test_doctor_names_a_queue_that_no_call_reads(guest: Guest) -> None:
    found = queue_check(guest)
    assert (found["result"], found["target"]) == ("skipped", "sandbox-queue")
    assert "session create" in found["found"]


@pytest.mark.parametrize("api", ["guests"])
def test_doctor_warns_of_a_guest_without_routing(guest: Guest) -> None:
    """The service may issue it a token without routing hints, which is refused."""
    file = guest.cwd / "profiles.yaml"
    file.write_text(
        f"profiles: {{shop: {{api: guests, base_url: '{guest.environ['GUESTCTL_SANDBOX_URL']}', "
        "oauth: {client_id: sandbox-client, client_secret: '${S}'}}}\n"
    )
    found = queue_check(guest, GUESTCTL_PROFILE="shop", S="sandbox-secret")
    assert (found["result"], found["found"]) == ("warning", "the profile has no queue, skill or language")
    assert "--help" not in found["fix"]
    assert "a queue, a skill or a language" in found["fix"]
