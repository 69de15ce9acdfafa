"""What the client decides by itself: scopes."""

from __future__ import annotations

from guestctl.client import scope_of
from guestctl.core.model import Profile
from guestctl.dialects import dialect_class


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
