"""The deployment's public configuration (web-messaging.md §3), and the auto-start that it may ask for.

Knows: `config.json`, where it is published, and Presence Join. Must not know: how long a caller caches it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from guestctl.core.model import Deployment, NewSession, Presence, Profile, Session
from guestctl.core.values import Json
from guestctl.core.wire import Request, optional
from guestctl.dialects.features import DeploymentConfiguration
from guestctl.dialects.flows import Flow, answered, frame_request, http_request
from guestctl.dialects.web_messaging.attributes import joined
from guestctl.dialects.web_messaging.frames import event_frame, rejects


class WebDeployment(DeploymentConfiguration):
    """The configuration of one deployment. `url` is the address of its `config.json`."""

    def __init__(self, url: Callable[[], str], new_id: Callable[[], str]) -> None:
        self._url = url
        self._new_id = new_id

    def fetch(self) -> Flow[Json]:
        response = yield from http_request(Request("GET", self._url(), "configuration", idempotent=True))
        return response.object()

    def parse(self, configuration: Json) -> Deployment:
        return read_deployment(configuration) if isinstance(configuration, dict) else Deployment()

    def auto_start(self, session: Session, deployment: Deployment, new: NewSession) -> Flow[Session]:
        """Send Presence Join in a new session if the deployment has auto-start (§5.4, §10.11)."""
        if not (deployment.auto_start and session.new_session and not session.read_only):
            return session
        frame = event_frame(session, self._new_id(), {"eventType": "Presence", "presence": {"type": "Join"}})
        if new.attributes:
            frame["message"]["channel"] = {"metadata": {"customAttributes": dict(new.attributes)}}
        key = frame["tracingId"]
        yield from answered(
            frame_request(
                frame, lambda h: (isinstance(h, Presence) and h.presence == "Join") or rejects(h, key), "create"
            )
        )
        return joined(session)


def origin_headers(profile: Profile) -> dict[str, str]:
    """Return the `Origin` header, which the service compares with the deployment's allowed domains."""
    return {"Origin": profile.origin} if profile.origin else {}


def read_deployment(config: Mapping[str, Json]) -> Deployment:
    """Return the settings in `config.json` that concern a guest (§3.2). `raw` keeps the whole for `doctor`."""

    def at(*path: str) -> Any:
        value: Json = config
        for step in path:
            value = value.get(step) if isinstance(value, dict) else None
        return value

    chat = ("messenger", "apps", "conversations")
    ended = at(*chat, "conversationDisconnect", "type")
    return Deployment(
        active=at("status") != "Inactive",
        messenger=at("messenger", "enabled") is not False,
        auto_start=at(*chat, "autoStart", "enabled") is True,
        guest_typing=at(*chat, "showUserTypingIndicator") is True,
        clear=at(*chat, "conversationClear", "enabled") is True,
        markdown=at(*chat, "markdown", "enabled") is True,
        disconnect=ended if isinstance(ended, str) and at(*chat, "conversationDisconnect", "enabled") else None,
        attachments=optional(at("messenger", "fileUpload") or {}, "enableAttachments", bool),
        sign_in=at("auth", "enabled") is True,
        session_upgrade=at("auth", "allowSessionUpgrade") is True,
        raw=config,
    )
