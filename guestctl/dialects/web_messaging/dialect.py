"""`web-messaging`: the API that the vendor documents (web-messaging.md).

Knows: addresses, sessions, messages and history of this API. Must not know: sockets, HTTP libraries, the
clock, the sandbox. The sandbox implements the same document independently, on purpose.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode, urlsplit

from guestctl.core.errors import Failure, Forbidden, Refused, SessionOver, Unreadable
from guestctl.core.model import (
    Credential,
    CredentialKind,
    Limits,
    Message,
    NewSession,
    Outgoing,
    Position,
    Presence,
    Secret,
    Session,
    SessionEvent,
    Unknown,
)
from guestctl.core.values import Json
from guestctl.core.wire import (
    Frame,
    HttpResponse,
    Request,
    SocketAddress,
    count,
    epoch_seconds,
    optional,
    required,
    size,
    utf8,
)
from guestctl.dialects.base import Dialect, HistoryEntry, HistoryPage, Omitted, own_id, read_entries
from guestctl.dialects.capabilities import Ability, Paging, Rate, Standing
from guestctl.dialects.features import DeploymentConfiguration, FileTransfer, RichContent, SigningIn
from guestctl.dialects.flows import (
    Alive,
    Flow,
    FrameRequest,
    Granted,
    Incoming,
    Opened,
    Rejection,
    answered,
    done,
    frame_request,
    http_request,
)
from guestctl.dialects.refusals import CloseAction
from guestctl.dialects.web_messaging import attributes
from guestctl.dialects.web_messaging.answers import WebContent
from guestctl.dialects.web_messaging.content import write_message
from guestctl.dialects.web_messaging.deployment import WebDeployment, origin_headers
from guestctl.dialects.web_messaging.error_codes import FAILURES, NAME
from guestctl.dialects.web_messaging.files import WebFiles
from guestctl.dialects.web_messaging.frames import (
    HEALTH_CHECK,
    AnswerTo,
    decode_frame,
    event_frame,
    read_structured,
    rejects,
    request_frame,
)
from guestctl.dialects.web_messaging.sign_in import WebSignIn

#: The service closes the socket with 1009 if a guest's frame is larger than this (§2.5).
FRAME_BYTES = 128 * 1024
#: Seconds to wait for an error frame after a typing event. Nothing answers one that is accepted.
TYPING_TIMEOUT = 0.2


class WebMessaging(Dialect):
    name = NAME
    summary = "vendor-documented socket wire, history over REST"
    abilities = {
        Ability.CREATE: Standing.DOCUMENTED,
        Ability.SEND: Standing.DOCUMENTED,
        Ability.HISTORY: Standing.DOCUMENTED,
        Ability.LISTEN: Standing.DOCUMENTED,
        Ability.RESUME: Standing.DOCUMENTED,
        Ability.REFRESH: Standing.DOCUMENTED,
        Ability.TYPING: Standing.DOCUMENTED,
        Ability.END: Standing.DOCUMENTED,
        Ability.CLEAR: Standing.DOCUMENTED,
        Ability.FILES: Standing.DOCUMENTED,
        Ability.PICK: Standing.DOCUMENTED,
        Ability.SIGN_IN: Standing.DOCUMENTED,
    }
    fields = frozenset({"attr"})
    send_fields = frozenset({"attr"})
    required = (("deployment_id",), ("region", "base_url", "socket_url"))
    paging = Paging.BY_PAGE_NUMBER
    page_size = 100
    sends_on_socket = True
    can_start_new = True
    #: One at a time, so that no second ever has more than two.
    send_rate = Rate(2, 1.0, burst=1)
    renewal_margins = {"history": 5.0, "sign-in": 5.0}
    close_frame = (1000, "Guest client disconnect")
    sends_origin = True
    forbidden_by = ("origin", "deployment_id")
    documented_addresses = (
        ("socket", "wss://webmessaging.{domain}/v1"),
        ("configuration", "https://api-cdn.{domain}/webdeployments/v1/deployments/{deploymentId}/config.json"),
        ("allowed domains", "https://api-cdn.{domain}/webdeployments/v1/deployments/{deploymentId}/domains.json"),
        ("history", "https://api.{domain}/api/v2/webmessaging/messages"),
        ("sign-in", "https://api.{domain}/api/v2/webdeployments/token/oauthcodegrantjwtexchange"),
        ("sign-in refresh", "https://api.{domain}/api/v2/webdeployments/token/refresh"),
        ("sign-out", "https://api.{domain}/api/v2/webdeployments/token/revoke"),
    )

    # --- addresses (§1.1, §2.1, §3.1) ---

    def default_rest(self) -> str:
        return f"https://api.{self.need('region')}"

    def default_socket(self) -> str:
        return f"wss://webmessaging.{self.need('region')}"

    def _config_url(self, path: str) -> str:
        override = self.profile.config_url or self.profile.base_url
        return (override or f"https://api-cdn.{self.need('region')}").rstrip("/") + path

    def all_addresses(self) -> tuple[str, ...]:
        return (self._config_url(""), *self.addresses())

    def socket_address(self, session: Session) -> SocketAddress:
        query = {"deploymentId": self.need("deployment_id")}
        if self.profile.application:
            query["application"] = self.profile.application
        url = self.socket("/v1")
        return SocketAddress(
            f"{url}{'&' if urlsplit(url).query else '?'}{urlencode(query)}", origin_headers(self.profile)
        )

    # --- sessions (§5.1, §6.1) ---

    def create(self, new: NewSession) -> Flow[Session]:
        """Return a draft without any request: the guest makes the token, and the first configure confirms it."""
        draft = Session(
            api=self.name,
            profile=self.profile.name,
            name=new.name,
            ids={"conversation": None, "guest": None},
            credentials={"guest": Credential("guest", Secret(self.new_id()))},
        )
        return done(attributes.begin_with(new, draft))

    def attach(
        self, session: Session, *, start_new: NewSession | None = None, traceparent: str | None = None
    ) -> Flow[Session]:
        if start_new is not None:
            attributes.check_size(session, start_new.attributes)  # before the old conversation is closed
            yield from self._close_session(session, traceparent)
        frame = self._request("configureSession", session)
        frame.update(deploymentId=self.need("deployment_id"), startNew=start_new is not None)
        signed_in = session.credential("sign-in")
        if signed_in is not None:
            frame.update(action="configureAuthenticatedSession", data={"code": signed_in.secret.reveal()})
        elif self.profile.journey_context is not None:
            frame["journeyContext"] = self.profile.journey_context
        if traceparent:
            frame["traceparent"] = traceparent
        answer = yield from answered(frame_request(frame, AnswerTo(frame, Opened, strict=False), "create"))
        assert isinstance(answer, Opened)
        configured = self._configured(session, answer.body)
        if start_new is not None:
            return attributes.begin_with(start_new, configured)
        if session.state == "draft":
            # Only now is the service's own limit known. No message has been sent yet.
            attributes.check_size(configured, attributes.pending(configured))
        return configured

    def _close_session(self, session: Session, traceparent: str | None) -> Flow[None]:
        """Close the old conversation on the socket that is to start a new one (§10.6).

        The service wants three requests in this order: configure, closeSession, configure again.
        """
        yield from self.attach(session, traceparent=traceparent)
        frame = self._request("closeSession", session)
        frame["closeAllConnections"] = True
        yield from answered(frame_request(frame, AnswerTo(frame, Opened), "create"))

    def _configured(self, session: Session, body: Mapping[str, Json]) -> Session:
        if required(body, "connected", bool, "SessionResponse") is False:
            raise SessionOver("the service did not connect the session", api=self.name)
        media = optional(body, "allowedMedia", dict, {}) or {}
        inbound = optional(media, "inbound", dict, {}) or {}
        types = optional(inbound, "fileTypes", list, []) or []
        custom = body.get("maxCustomDataBytes")
        extensions = optional(body, "blockedExtensions", list, []) or []
        return replace(
            session,
            state="read_only" if body.get("readOnly") is True else "active",
            new_session=body.get("newSession") is True,
            expires_at=epoch_seconds(body.get("expirationDate")),
            limits=Limits(
                attribute_bytes=size(custom),
                file_kilobytes=size(inbound.get("maxFileSizeKB")),
                file_types=tuple(str(t["type"]) for t in types if isinstance(t, dict) and "type" in t),
                blocked_extensions=tuple(e for e in extensions if isinstance(e, str)),
            ),
        ).without("history")

    def refreshable(self, session: Session) -> CredentialKind | None:
        return "history" if session.credential("sign-in") is None else "sign-in"

    def obtain(self, kind: CredentialKind, session: Session) -> Flow[Session]:
        if kind == "sign-in":
            return (yield from WebSignIn(self).renew(session))
        frame = self._request("getJwt", session)
        answer = yield from answered(frame_request(frame, AnswerTo(frame, Granted), "refresh"))
        assert isinstance(answer, Granted)
        return session.having(Credential("history", answer.secret, answer.expires_at))

    def clear(self, session: Session) -> Flow[Session]:
        """Send Presence Clear, the only way in which a guest can end the conversation (§10.7)."""
        frame = event_frame(session, self.new_id(), {"eventType": "Presence", "presence": {"type": "Clear"}})
        key = frame["tracingId"]
        yield from answered(
            frame_request(
                frame,
                lambda h: (isinstance(h, SessionEvent) and h.change == "cleared") or rejects(h, key),
                "send",
            )
        )
        return replace(session, state="cleared")

    end = clear

    # --- features ---

    @property
    def rich_content(self) -> RichContent:
        return WebContent()

    @property
    def files(self) -> FileTransfer:
        return WebFiles(self.new_id)

    @property
    def signing_in(self) -> SigningIn:
        return WebSignIn(self)

    @property
    def deployment_configuration(self) -> DeploymentConfiguration:
        return WebDeployment(self._configuration_url, self.new_id)

    def _configuration_url(self) -> str:
        return self._config_url(f"/webdeployments/v1/deployments/{self.need('deployment_id')}/config.json")

    # --- messages (§5.4, §5.5) ---

    def check_message(self, session: Session, message: Outgoing) -> None:
        attributes.check_size(session, attributes.carried_by(session, message))
        if len(utf8(json.dumps(self._on_message(session, message), ensure_ascii=False))) > FRAME_BYTES:
            raise Refused(
                f"the message is larger than a frame may be ({FRAME_BYTES // 1024} KiB)",
                code="service.too_long",
                api=self.name,
                service_code=4011,
            )

    def after_acceptance(self, session: Session, accepted: Message | None = None) -> Session:
        return attributes.without_pending(session)

    def began_with_join(self, session: Session) -> bool:
        return attributes.has_joined(session)

    def send(self, session: Session, message: Outgoing) -> Flow[Message]:
        def answers(incoming: Incoming) -> bool:
            if isinstance(incoming, Message):
                return incoming.direction == "inbound" and incoming.key == message.key
            return rejects(incoming, message.key)

        echo = yield from answered(frame_request(self._on_message(session, message), answers, "send", message=True))
        assert isinstance(echo, Message)
        return echo

    def _on_message(self, session: Session, message: Outgoing) -> dict[str, Any]:
        frame = self._request("onMessage", session, message.key)
        frame["message"] = write_message(replace(message, attributes=attributes.carried_by(session, message)))
        return frame

    def typing(self, session: Session) -> Flow[None]:
        """Send a typing event. Raises Forbidden if the deployment has switched typing off: a 403 follows (§11.3)."""
        frame = event_frame(session, self.new_id(), {"eventType": "Typing", "typing": {"type": "On"}})
        key = frame["tracingId"]
        answer = yield from frame_request(frame, lambda h: rejects(h, key), "typing", timeout=TYPING_TIMEOUT)
        if isinstance(answer, Rejection):
            raise answer.failure

    def heartbeat(self, session: Session) -> FrameRequest:
        frame = self._request("echo", session, HEALTH_CHECK)
        frame["message"] = {"type": "Text", "text": "ping"}
        return FrameRequest(json.dumps(frame), lambda h: isinstance(h, Alive), "socket")

    def decode(self, frame: Frame, session: Session) -> Sequence[Incoming]:
        return decode_frame(frame)

    def _request(self, action: str, session: Session, tracing_id: str | None = None) -> dict[str, Any]:
        return request_frame(action, session, tracing_id or self.new_id())

    # --- history (§7.1) ---

    def history(self, session: Session, *, after: Position | None, cursor: str | None, limit: int) -> Flow[HistoryPage]:
        request = Request(
            "GET",
            self.rest("/api/v2/webmessaging/messages"),
            "history",
            query={"pageNumber": cursor or "1", "pageSize": str(limit)},
            headers=origin_headers(self.profile),
            credential="history",
            idempotent=True,
        )
        try:
            page = (yield from http_request(request)).object()
        except Refused as failure:
            # The service answers 404 if it has no messages for this guest (§7.1). Its own errors have a code;
            # a 404 without one comes from a gateway in between and proves nothing.
            if failure.http_status != 404 or failure.service_code is None:
                raise
            return HistoryPage((), total=0)
        entities = required(page, "entities", list, "history page")
        number = int(cursor or "1")
        return HistoryPage(
            items=tuple(read_entries(entities[::-1], _read_entity)),
            next=str(number + 1) if entities else None,
            total=count(page.get("total")),
        )

    # --- refusals (§2.6, §3.1, §7) ---

    def on_close(self, code: int) -> CloseAction:
        """1009 refuses our last frame for its size; after 1008 and 4001 no reconnect can help (§2.6)."""
        if code == 1009:
            return "too_big"
        return "final" if code in {1008, 4001} else super().on_close(code)

    def refusal(self, request: Request, reply: HttpResponse) -> Failure:
        if request.route == "configuration" and reply.status == 403:
            # For an unknown deployment the CDN answers like an object store: 403 with XML (§3.1).
            return Forbidden(
                self.with_checked_values("no configuration for this deployment id in this region", request),
                code="forbidden.upgrade",
                api=self.name,
                http_status=403,
            )
        return super().refusal(request, reply)

    def status_failure(
        self, status: int, service_code: str | int | None, request: Request
    ) -> tuple[type[Failure], str]:
        """No address of this API names a session, so a 404 says nothing about the session (§7)."""
        return FAILURES[404] if status == 404 else super().status_failure(status, service_code, request)


def _read_entity(entity: Json) -> HistoryEntry:
    """Return an entity as the same body is read live. Raises Unreadable."""
    if not isinstance(entity, dict):
        raise Unreadable("history page: an entity is not an object", body=str(entity)[:200])
    kind = entity.get("type")
    if kind == "Receipt":
        return Omitted()
    for event in read_structured(entity, None, source="history"):
        if isinstance(event, (Message, Presence)):
            return event
        if isinstance(event, Unknown) and kind != "Event":
            return replace(event, id=own_id(entity))
    return Omitted()
