"""What the client decides by itself: scopes and the bounds of a history."""

from __future__ import annotations

import pytest

from guestctl.client import _between, _bound, scope_of
from guestctl.dialects import dialect_class
from guestctl.errors import UsageError
from guestctl.model import Message, Profile


def test_a_scope_is_profile_api_deployment_and_addresses() -> None:
    def scope(**given: str) -> str:
        profile = Profile(**{"name": "p", "region": "mypurecloud.de", "deployment_id": "d", **given})  # type: ignore[arg-type]
        return scope_of(profile, dialect_class("web-messaging")(profile, new_id=lambda: "id"))

    assert scope() == scope()
    others = [
        {"name": "q"},
        {"region": "mypurecloud.ie"},
        {"deployment_id": "e"},
        {"base_url": "https://x.test"},
        {"socket_url": "wss://x.test"},
    ]
    assert len({scope(), *(scope(**other) for other in others)}) == len(others) + 1


def message(n: int) -> Message:
    return Message(f"m{n}", "inbound", str(n), f"2026-03-04T09:15:2{n}.000Z")


def between(since: str | None = None, until: str | None = None, last_id: str | None = None) -> str:
    items = iter([message(n) for n in range(5)])
    return "".join(str(item.id)[1] for item in _between(items, _bound(since), _bound(until), last_id))


def test_bounds() -> None:
    assert between() == "01234"
    assert between(since="2026-03-04T09:15:22Z") == "234"
    assert between(until="2026-03-04T09:15:22Z") == "012"
    assert between(last_id="m3") == "0123"
    with pytest.raises(UsageError, match="m9"):
        between(last_id="m9")


@pytest.mark.parametrize("given_", [None, "9d1f0c2e", "b9c7-not-a-time", "m1"])
def test_an_id_is_no_time(given_: str | None) -> None:
    assert _bound(given_) is None
