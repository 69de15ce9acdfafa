"""`web-messaging`: the vendor's documented guest wire, whole (web-messaging.md).

Knows: addresses, frames, service codes and history of this family. Must not know: sockets, HTTP
libraries, the clock, the sandbox (which implements the same document independently, on purpose).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from urllib.parse import urlencode, urlsplit

from guestctl.core.errors import (
    Conflict,
    Failure,
    Forbidden,
    NetworkError,
    RateLimited,
    Refused,
    SessionOver,
    Unauthorised,
    Unreadable,
)
from guestctl.core.model import (
    Credential,
    CredentialKind,
    Deployment,
    Limits,
    Message,
    NewSession,
    Outgoing,
    Position,
    Presence,
    Secret,
    Sender,
    Session,
    SessionEvent,
    SignIn,
    Source,
    Typing,
    Unknown,
)
from guestctl.core.values import Json
from guestctl.core.wire import Frame, HttpResponse, Request, SocketAddress, load_json, optional, required
from guestctl.dialects.base import Dialect, HistoryPage, normalised_time
from guestctl.dialects.capabilities import Ability, Paging, Rate, Standing
from guestctl.dialects.features import DeploymentConfiguration, FileTransfer, RichContent, SigningIn
from guestctl.dialects.flows import (
    Alive,
    Flow,
    FlowAnswer,
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
from guestctl.dialects.refusals import CloseAction, mark_written
from guestctl.dialects.web_messaging.answers import WebContent
from guestctl.dialects.web_messaging.content import read_attachments, read_options, write_message

#: The vendor's convention for health checks: base64 of `HealthCheckMessageId` (§5.7).
HEALTH_CHECK = "SGVhbHRoQ2hlY2tNZXNzYWdlSWQ="
#: `maxCustomDataBytes` when the service has not said (§9).
ATTRIBUTE_BYTES = 2048
#: Under which name the session notes the attributes it was opened with: its first message carries them (§5.4).
PENDING = "pending_attributes"
#: That it began with Presence Join (§5.4): another session under the same token would lack it.
JOINED = "joined"
#: A client message larger than this is closed with 1009 (§2.5).
FRAME_BYTES = 128 * 1024


class WebMessaging(Dialect, FileTransfer, SigningIn, DeploymentConfiguration):
    name = "web-messaging"
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
    #: Nobody outside knows whether the service de-duplicates by tracingId (reliability.md §10): assume not.
    deduplicates = False
    sends_on_socket = True
    can_start_new = True
    returns_client_key = False
    send_rate = Rate(2, 1.0)
    renewal_margins = {"history": 5.0, "sign-in": 5.0}
    close_frame = (1000, "Guest client disconnect")
    sends_origin = True
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

    def config(self, path: str) -> str:
        override = self.profile.config_url or self.profile.base_url
        return (override or f"https://api-cdn.{self.need('region')}").rstrip("/") + path

    def all_addresses(self) -> tuple[str, ...]:
        return (self.config(""), *self.addresses())

    def socket_address(self, session: Session) -> SocketAddress:
        query = {"deploymentId": self.need("deployment_id")}
        if self.profile.application:
            query["application"] = self.profile.application
        url = self.socket("/v1")
        return SocketAddress(f"{url}{'&' if urlsplit(url).query else '?'}{urlencode(query)}", self._origin())

    def _origin(self) -> dict[str, str]:
        return {"Origin": self.profile.origin} if self.profile.origin else {}

    # --- session (§5.1, §6.1) ---

    def create(self, new: NewSession) -> Flow[Session]:
        """Nothing goes over the wire yet: the guest makes the token, the first configure confirms it."""
        fresh = Session(
            api=self.name,
            profile=self.profile.name,
            name=new.name,
            ids={"conversation": None, "guest": None},
            credentials={"guest": Credential("guest", Secret(self.new_id()))},
        )
        return done(self._opened_with(new, fresh))

    def attach(self, session: Session, *, start_new: NewSession | None = None) -> Flow[Session]:
        if start_new is not None:
            _check_size(session, start_new.attributes)  # before the old conversation is left
            yield from self._close_session(session)
        frame = self._request("configureSession", session)
        frame.update(deploymentId=self.need("deployment_id"), startNew=start_new is not None)
        signed_in = session.credential("sign-in")
        if signed_in is not None:
            frame.update(action="configureAuthenticatedSession", data={"code": signed_in.secret.reveal()})
        elif self.profile.journey_context is not None:
            frame["journeyContext"] = self.profile.journey_context
        if self.traceparent:
            frame["traceparent"] = self.traceparent
        heard = yield from answered(frame_request(frame, _answer_to(frame, Opened, strict=False), "create"))
        assert isinstance(heard, Opened)
        configured = self._configured(session, heard.body)
        if start_new is not None:
            return self._opened_with(start_new, configured)
        if session.state == "draft":  # the limit is known from here on, and nothing could be said above it
            _check_size(configured, _pending(configured))
        return configured

    def _opened_with(self, new: NewSession, session: Session) -> Session:
        """What it says waits for the first message (§5.4, §10.11); nothing has been said in it."""
        return replace(session, notes={PENDING: dict(new.attributes)} if new.attributes else {})

    def _close_session(self, session: Session) -> Flow[None]:
        """Start new chat, on the same socket (§10.6): configure, closeSession, then configure again."""
        yield from self.attach(session)
        frame = self._request("closeSession", session)
        frame["closeAllConnections"] = True
        yield from answered(frame_request(frame, _answer_to(frame, Opened), "create"))

    def _configured(self, session: Session, body: Mapping[str, Json]) -> Session:
        if required(body, "connected", bool, "SessionResponse") is False:
            raise SessionOver("the service did not connect the session", api=self.name)
        media = optional(body, "allowedMedia", dict, {}) or {}
        inbound = optional(media, "inbound", dict, {}) or {}
        types = optional(inbound, "fileTypes", list, []) or []
        size = inbound.get("maxFileSizeKB")
        custom = body.get("maxCustomDataBytes")
        extensions = optional(body, "blockedExtensions", list, []) or []
        return replace(
            session,
            state="read_only" if body.get("readOnly") is True else "active",
            new_session=body.get("newSession") is True,
            expires_at=_epoch(body.get("expirationDate")),
            limits=Limits(
                attribute_bytes=int(custom) if isinstance(custom, (int, float)) else None,
                file_kilobytes=int(size) if isinstance(size, (int, float)) else None,
                file_types=tuple(str(t["type"]) for t in types if isinstance(t, dict) and "type" in t),
                blocked_extensions=tuple(e for e in extensions if isinstance(e, str)),
            ),
        ).without("history")

    def refreshable(self, session: Session) -> CredentialKind | None:
        return "history" if session.credential("sign-in") is None else "sign-in"

    def obtain(self, kind: CredentialKind, session: Session) -> Flow[Session]:
        if kind == "sign-in":
            return (yield from self._renew_sign_in(session))
        frame = self._request("getJwt", session)
        heard = yield from answered(frame_request(frame, _answer_to(frame, Granted), "refresh"))
        assert isinstance(heard, Granted)
        return session.having(Credential("history", heard.secret, heard.expires_at))

    # --- signing in (§7.2) ---

    @property
    def signing_in(self) -> SigningIn:
        return self

    def sign_in(self, proof: SignIn) -> Flow[Credential]:
        """The code flow gives a refresh token, the implicit one does not."""
        given = {
            "code": proof.code and proof.code.reveal(),
            "redirectUri": proof.redirect_uri,
            "codeVerifier": proof.code_verifier and proof.code_verifier.reveal(),
            "idToken": proof.id_token and proof.id_token.reveal(),
            "nonce": proof.nonce,
        }
        reply = yield from http_request(
            Request(
                "POST",
                self.rest("/api/v2/webdeployments/token/oauthcodegrantjwtexchange"),
                "sign-in",
                headers=self._origin(),
                json={
                    "deploymentId": self.need("deployment_id"),
                    "oauth": {name: value for name, value in given.items() if value is not None},
                },
            )
        )
        answer = reply.object()
        refresh = optional(answer, "refreshToken", str)
        jwt = required(answer, "jwt", str, "sign-in")
        return Credential("sign-in", Secret(jwt), refresh=Secret(refresh) if refresh else None)

    def sign_out(self, session: Session) -> Flow[Session]:
        yield from http_request(
            Request(
                "DELETE",
                self.rest("/api/v2/webdeployments/token/revoke"),
                "sign-in",
                headers=self._origin(),
                credential="sign-in",
                idempotent=True,
            )
        )
        return replace(session, state="ended").without("sign-in").without("history")

    def _renew_sign_in(self, session: Session) -> Flow[Session]:
        """The old refresh token is kept; the new JWT is good for 15 minutes at most."""
        held = session.credential("sign-in")
        if held is None or held.refresh is None:
            raise Unauthorised("the sign-in cannot be renewed: it has no refresh token", api=self.name)
        reply = yield from http_request(
            Request(
                "POST",
                self.rest("/api/v2/webdeployments/token/refresh"),
                "refresh",
                headers=self._origin(),
                json={"refreshToken": held.refresh.reveal(), "deploymentId": self.need("deployment_id")},
            )
        )
        jwt = required(reply.object(), "jwt", str, "token refresh")
        return session.having(replace(held, secret=Secret(jwt), expires_at=None))

    def clear(self, session: Session) -> Flow[Session]:
        """Presence Clear, the only guest-side end (§10.7)."""
        frame = self._request("onMessage", session)
        frame["message"] = {"type": "Event", "events": [{"eventType": "Presence", "presence": {"type": "Clear"}}]}
        key = frame["tracingId"]
        yield from answered(
            frame_request(
                frame,
                lambda h: (isinstance(h, SessionEvent) and h.change == "cleared") or _rejects(h, key),
                "send",
            )
        )
        return replace(session, state="cleared")

    end = clear

    # --- messages (§5.4, §5.5) ---

    def check_message(self, session: Session, message: Outgoing) -> None:
        _check_size(session, _attributes(session, message))
        if len(json.dumps(self._on_message(session, message), ensure_ascii=False).encode()) > FRAME_BYTES:
            raise Refused(
                f"the message is larger than the {FRAME_BYTES // 1024} KiB a frame may hold",
                code="service.too_long",
                api=self.name,
                service_code=4011,
            )

    def _on_message(self, session: Session, message: Outgoing) -> dict[str, Json]:
        frame = self._request("onMessage", session, message.key)
        frame["message"] = write_message(replace(message, attributes=_attributes(session, message)))
        return frame

    def after_acceptance(self, session: Session) -> Session:
        """What the session was opened with has been said, with its first message or with Presence Join."""
        if PENDING not in session.notes:
            return session
        return replace(session, notes={k: v for k, v in session.notes.items() if k != PENDING})

    def began_with_join(self, session: Session) -> bool:
        return JOINED in session.notes

    def send(self, session: Session, message: Outgoing) -> Flow[Message]:
        def answers(heard: Incoming) -> bool:
            if isinstance(heard, Message):
                return heard.direction == "inbound" and heard.key == message.key
            return _rejects(heard, message.key)

        heard = yield from answered(frame_request(self._on_message(session, message), answers, "send", message=True))
        assert isinstance(heard, Message)
        return heard

    def typing(self, session: Session) -> Flow[None]:
        """Nothing answers a typing event; where it is switched off a 403 comes (§11.3)."""
        frame = self._request("onMessage", session)
        frame["message"] = {"type": "Event", "events": [{"eventType": "Typing", "typing": {"type": "On"}}]}
        key = frame["tracingId"]
        heard = yield from frame_request(frame, lambda h: _rejects(h, key), "typing", timeout=0.2)
        if isinstance(heard, Rejection):
            raise heard.failure

    def heartbeat(self, session: Session) -> FrameRequest:
        frame = self._request("echo", session, HEALTH_CHECK)
        frame["message"] = {"type": "Text", "text": "ping"}
        return FrameRequest(json.dumps(frame), lambda h: isinstance(h, Alive), "socket")

    @property
    def rich_content(self) -> RichContent:
        return _CONTENT

    # --- files (§5.6, §7.3) ---

    @property
    def files(self) -> FileTransfer:
        return self

    def upload(self, session: Session, name: str, mime: str, content: bytes) -> Flow[str]:
        frame = self._request("onAttachment", session)
        proposed = self.new_id()
        frame.update(attachmentId=proposed, fileName=name, fileType=mime, fileSize=len(content), errorsAsJson=True)
        presigns = _answer_to(frame, FlowAnswer)
        # A GenerateUrlError without a tracingId says which attachment it is about (§6.6).
        presigned = yield from answered(frame_request(frame, lambda h: presigns(h) or _rejects(h, proposed), "upload"))
        assert isinstance(presigned, FlowAnswer)
        attachment_id = required(presigned.body, "attachmentId", str, "PresignedUrlResponse")
        headers = optional(presigned.body, "headers", dict, {}) or {}
        yield from http_request(
            Request(
                "PUT",
                required(presigned.body, "url", str, "PresignedUrlResponse"),
                "upload",
                headers={"Content-Type": mime, **{str(k): str(v) for k, v in headers.items()}},
                content=content,
            )
        )
        verdict = yield from answered(
            frame_request(
                None,
                lambda h: isinstance(h, (FlowAnswer, Rejection)) and h.reply_to == attachment_id,
                "upload",
            )
        )
        assert isinstance(verdict, FlowAnswer)
        return attachment_id

    def discard(self, session: Session, attachment_id: str) -> Flow[None]:
        frame = self._request("deleteAttachment", session)
        frame["attachmentId"] = attachment_id
        yield from answered(frame_request(frame, _answer_to(frame, FlowAnswer), "upload"))

    def download(self, session: Session, attachment_id: str) -> Flow[tuple[Request, str | None]]:
        frame = self._request("getAttachment", session)
        frame["attachmentId"] = attachment_id
        heard = yield from answered(frame_request(frame, _answer_to(frame, FlowAnswer), "download"))
        assert isinstance(heard, FlowAnswer)
        url = required(heard.body, "url", str, "PresignedUrlResponse")
        return Request("GET", url, "download", idempotent=True), optional(heard.body, "fileName", str)

    # --- history (§7.1) ---

    def history(self, session: Session, *, after: Position | None, cursor: str | None, limit: int) -> Flow[HistoryPage]:
        request = Request(
            "GET",
            self.rest("/api/v2/webmessaging/messages"),
            "history",
            query={"pageNumber": cursor or "1", "pageSize": str(limit)},
            headers=self._origin(),
            credential="history",
            idempotent=True,
        )
        try:
            page = (yield from http_request(request)).object()
        except Refused as failure:
            # "Nothing for this guest" (§7.1), if the service says so, whose errors have a code: others prove nothing.
            if failure.http_status != 404 or failure.service_code is None:
                raise
            return HistoryPage((), total=0)
        entities = required(page, "entities", list, "history page")
        number = int(cursor or "1")
        return HistoryPage(
            items=tuple([self._entity(entity) for entity in reversed(entities)]),
            next=str(number + 1) if entities else None,
            total=optional(page, "total", int),
        )

    def _entity(self, entity: Json) -> Message | Presence | Unknown:
        if not isinstance(entity, dict):
            raise Unreadable("history page: an entity is not an object", body=str(entity)[:200])
        if entity.get("type") != "Receipt":
            for heard in self._structured(entity, None, source="history"):
                if isinstance(heard, (Message, Presence)):
                    return heard
        return Unknown(str(entity.get("type")), entity)

    # --- the deployment (§3) ---

    @property
    def deployment_configuration(self) -> DeploymentConfiguration:
        return self

    def configuration(self) -> Flow[Json]:
        path = f"/webdeployments/v1/deployments/{self.need('deployment_id')}/config.json"
        reply = yield from http_request(Request("GET", self.config(path), "configuration", idempotent=True))
        return reply.object()

    def deployment(self, configuration: Json) -> Deployment:
        return read_deployment(configuration) if isinstance(configuration, dict) else Deployment()

    def auto_start(self, session: Session, deployment: Deployment, new: NewSession) -> Flow[Session]:
        """Presence Join, only after a new session and only with auto-start (§5.4, §10.11)."""
        if not (deployment.auto_start and session.new_session and not session.read_only):
            return session
        frame = self._request("onMessage", session)
        message: dict[str, Json] = {
            "type": "Event",
            "events": [{"eventType": "Presence", "presence": {"type": "Join"}}],
        }
        if new.attributes:
            message["channel"] = {"metadata": {"customAttributes": dict(new.attributes)}}
        frame["message"] = message
        key = frame["tracingId"]
        yield from answered(
            frame_request(
                frame, lambda h: (isinstance(h, Presence) and h.presence == "Join") or _rejects(h, key), "create"
            )
        )
        begun = self.after_acceptance(session)
        return replace(begun, notes={**begun.notes, JOINED: True})

    # --- reading (§4.2, §6, §8) ---

    def decode(self, frame: Frame, session: Session) -> Sequence[Incoming]:
        value = load_json(frame.text, "frame")
        if not isinstance(value, dict):
            raise Unreadable(f"frame: expected an object, got {type(value).__name__}", body=frame.text[:200])
        kind = value.get("class")
        body = value.get("body")
        tracing = value.get("tracingId")
        reply_to = tracing if isinstance(tracing, str) else None
        if kind == "StructuredMessage":
            if not isinstance(body, dict):
                raise Unreadable("StructuredMessage: `body` is missing", body=frame.text[:200])
            return self._structured(body, reply_to, value)
        if isinstance(kind, str) and kind in _EVENTS:
            detail = body if isinstance(body, dict) else {}
            reason = detail.get("reason") or detail.get("reasonCode")
            return (SessionEvent(_EVENTS[kind], reason if isinstance(reason, str) else None),)
        if not isinstance(kind, str) or not isinstance(value.get("code"), int):
            # A frame made by the gateway in front of the service (§2.5): survived, never acted on.
            return (Unknown(str(kind or value.get("type") or "gateway"), value),)
        return (self._answer(kind, value["code"], body, reply_to, value),)

    def _answer(self, kind: str, code: int, body: Json, reply_to: str | None, raw: Json) -> Incoming:
        detail: Mapping[str, Json] = body if isinstance(body, dict) else {}
        if kind == "SessionResponse":
            return Opened(detail, reply_to)
        if kind == "JwtResponse":
            jwt = required(detail, "jwt", str, kind)
            return Granted("history", Secret(jwt), _epoch(required(detail, "exp", (int, float), kind)), reply_to)
        if kind == "PresignedUrlResponse" or kind == "AttachmentDeletedResponse":
            return FlowAnswer(kind, detail, reply_to)
        if kind == "UploadSuccessEvent":
            return FlowAnswer(kind, detail, required(detail, "attachmentId", str, kind))
        if kind in {"UploadFailureEvent", "GenerateUrlError"}:
            words = str(detail.get("errorMessage") or detail.get("message") or kind)
            number = detail.get("errorCode")
            failure = self.service_failure(number if isinstance(number, int) else 4003, words)
            if kind == "UploadFailureEvent":  # as its success: of the attachment, whatever request it may name
                return Rejection(failure, required(detail, "attachmentId", str, kind))
            return Rejection(failure, reply_to or optional(detail, "attachmentId", str))
        if kind == "TooManyRequestsErrorMessage":
            wait, number = detail.get("retryAfter"), detail.get("errorCode")
            return Rejection(
                self.service_failure(
                    number if isinstance(number, int) and number in _LIMITS else 429,
                    str(detail.get("errorMessage") or "too many requests"),
                    retry_after=float(wait) if isinstance(wait, (int, float)) else None,
                ),
                reply_to,
            )
        if code >= 300 and (kind in {"string", "Error", "ErrorMessage"} or not detail):
            words = body if isinstance(body, str) else str(detail.get("errorMessage") or detail.get("message") or kind)
            number = detail.get("errorCode")
            return Rejection(self.service_failure(number if isinstance(number, int) else code, words), reply_to)
        return Unknown(kind, raw)

    def _structured(
        self, body: dict[str, Json], reply_to: str | None, frame: Json = None, *, source: Source = "live"
    ) -> tuple[Incoming, ...]:
        """A StructuredMessage body, or a history entity, which has the same shape (§6.3, §7.1)."""
        metadata = body.get("metadata")
        if not isinstance(metadata, dict):
            metadata = {}
        if reply_to == HEALTH_CHECK or metadata.get("customMessageId") == HEALTH_CHECK:
            return (Alive(reply_to, _epoch(metadata.get("expirationDate"))),)
        inbound = required(body, "direction", str, "StructuredMessage") == "Inbound"
        channel = body.get("channel")
        if not isinstance(channel, dict):
            channel = {}
        time = normalised_time(channel.get("time"))
        sender = _sender(inbound, body.get("originatingEntity"), channel.get("from"))
        key = None
        if inbound:
            custom = metadata.get("customMessageId")
            key = custom if isinstance(custom, str) else reply_to
        if body.get("type") == "Event":
            return self._events(body, metadata, inbound, sender, time, key, frame, source)
        content = body.get("content")
        items = tuple(content) if isinstance(content, list) else ()
        text = body.get("text")
        return (
            Message(
                id=required(body, "id", str, "StructuredMessage"),
                direction="inbound" if inbound else "outbound",
                text=text if isinstance(text, str) else "",
                time=time,
                key=key,
                sender=sender,
                source=source,
                content=items,
                options=read_options(items) if items else (),
                attachments=read_attachments(items) if items else (),
                raw=frame if frame is not None else body,
            ),
        )

    def _events(
        self,
        body: dict[str, Json],
        metadata: dict[str, Json],
        inbound: bool,
        sender: Sender,
        time: str | None,
        key: str | None,
        frame: Json,
        source: Source,
    ) -> tuple[Incoming, ...]:
        found: list[Incoming] = []
        for event in optional(body, "events", list) or []:
            if not isinstance(event, dict):
                continue
            kind = event.get("eventType")
            detail = event.get("presence" if kind == "Presence" else "typing")
            detail = detail if isinstance(detail, dict) else {}
            if kind == "Typing":
                duration = detail.get("duration")
                found.append(Typing(sender, duration if isinstance(duration, int) else 5000, time))
            elif kind == "Presence":
                read_only = metadata.get("readOnly") == "true"
                identity = body.get("id")
                found.append(
                    Presence(
                        presence=str(detail.get("type") or "Unknown"),
                        direction="inbound" if inbound else "outbound",
                        id=identity if isinstance(identity, str) else None,
                        time=time,
                        sender=sender,
                        key=key,
                        read_only=read_only,
                        source=source,
                    )
                )
                if read_only and not inbound:
                    found.append(SessionEvent("read_only"))
            else:
                found.append(Unknown(str(kind), frame if frame is not None else body))
        return tuple(found)

    def on_close(self, code: int) -> CloseAction:
        """§2.6 and other-apis.md: 1009 is our last frame's size, 1008 is final here."""
        if code == 1009:
            return "too_big"
        return "final" if code in {1008, 4001} else super().on_close(code)

    def refusal(self, request: Request, reply: HttpResponse) -> Failure:
        if request.route == "configuration" and reply.status == 403:
            # The CDN answers an unknown deployment as an object store does: 403 with XML (§3.1).
            return Forbidden(
                "no configuration for this deployment id in this region",
                code="forbidden.upgrade",
                api=self.name,
                http_status=403,
            )
        return super().refusal(request, reply)

    def status_failure(
        self, status: int, service_code: str | int | None, request: Request
    ) -> tuple[type[Failure], str]:
        """No address of this API names a session, so that 404 does not speak of one (§7)."""
        return _CODES[404] if status == 404 else super().status_failure(status, service_code, request)

    def service_failure(self, code: int, words: str, *, retry_after: float | None = None) -> Failure:
        """A frame code of §8 as the failure it means."""
        kind, stable = _failure_of(code, words)
        what = f"{words} (code {code})"
        failure = kind(what, code=stable, api=self.name, service_code=code, retry_after=retry_after, body=words)
        return mark_written(failure)

    def _request(self, action: str, session: Session, tracing: str | None = None) -> dict[str, Json]:
        return {"action": action, "token": session.token(), "tracingId": tracing or self.new_id()}


def _attributes(session: Session, message: Outgoing) -> dict[str, str]:
    """The message's own, and those the session was opened with while nothing has carried them."""
    return {**_pending(session), **message.attributes}


def _pending(session: Session) -> dict[str, str]:
    pending = session.notes.get(PENDING)
    return dict(pending) if isinstance(pending, dict) else {}


def _check_size(session: Session, attributes: Mapping[str, str]) -> None:
    limit = session.limits.attribute_bytes or ATTRIBUTE_BYTES
    size = sum(len(k.encode()) + len(v.encode()) for k, v in attributes.items())
    if size > limit:
        raise Refused(
            f"attributes take {size} bytes, the limit is {limit}",
            code="service.attributes",
            api=session.api,
            service_code=4013,
        )


_CONTENT = WebContent()

_EVENTS: Mapping[Json, Json] = {
    "SessionExpiredEvent": "expired",
    "SessionClearedEvent": "cleared",
    "ConnectionClosedEvent": "evicted",
    "LogoutEvent": "logged_out",
}

#: Both are seen in a TooManyRequestsErrorMessage (§12, row 3).
_LIMITS = frozenset({429, 4029})

_CODES: Mapping[int, tuple[type[Failure], str]] = {
    401: (Unauthorised, "auth.refused"),
    403: (Forbidden, "forbidden"),
    404: (Refused, "service.not_found"),
    409: (Conflict, "conflict.read_only"),
    429: (RateLimited, "rate.limited"),
    4000: (Forbidden, "forbidden.feature"),
    4001: (Refused, "service.file"),
    4002: (Refused, "service.file"),
    4003: (Refused, "service.file"),
    4004: (Refused, "service.file"),
    4005: (Refused, "service.file"),
    4006: (SessionOver, "session.expired"),
    4007: (SessionOver, "session.gone"),
    4008: (Refused, "service.file"),
    4009: (Refused, "service.file"),
    4010: (Refused, "service.file"),
    4011: (Refused, "service.too_long"),
    4013: (Refused, "service.attributes"),
    4017: (Unauthorised, "auth.downgrade"),
    4020: (Refused, "service.missing"),
    4029: (RateLimited, "rate.limited"),
    4102: (Refused, "service.file"),
    5000: (NetworkError, "service.down"),
}


def _failure_of(code: int, words: str) -> tuple[type[Failure], str]:
    if code == 403:
        said = words.lower()
        if said.startswith(("session authentication failed", "try to authenticate again")):
            return Unauthorised, "auth.refused"
        if "conversation clear" in said or "feature toggle" in said:
            return Forbidden, "forbidden.feature"
    if 500 <= code < 600:
        return NetworkError, "service.down"
    return _CODES.get(code, (Refused, "service.refused"))


def _rejects(heard: Incoming, key: str) -> bool:
    """An error frame for this request. Those without a tracingId are taken as the answer too:
    guestctl never has two requests waiting on one socket (§8, context rule)."""
    return isinstance(heard, Rejection) and heard.reply_to in (key, None)


def _answer_to(frame: Mapping[str, Json], kind: type[Incoming], *, strict: bool = True) -> _Answers:
    return _Answers(frame["tracingId"], kind, strict)


class _Answers:
    """Accepts the awaited class with our tracingId (or without one), or an error frame for it."""

    def __init__(self, key: str, kind: type[Incoming], strict: bool) -> None:
        self._key, self._kind, self._strict = key, kind, strict

    def __call__(self, heard: Incoming) -> bool:
        if isinstance(heard, Rejection):
            return heard.reply_to in (self._key, None) or not self._strict
        return isinstance(heard, self._kind) and getattr(heard, "reply_to", None) in (self._key, None)


def _sender(inbound: bool, entity: Json, origin: Json) -> Sender:
    name = None
    if isinstance(origin, dict) and origin:
        parts = (
            [origin.get("nickname")] if origin.get("nickname") else [origin.get("firstName"), origin.get("lastName")]
        )
        name = " ".join(p for p in parts if isinstance(p, str) and p) or None
    if inbound:
        return Sender("guest", name)
    if entity == "Bot":
        return Sender("bot", name)
    return Sender("agent" if entity == "Human" else None, name)


def _epoch(value: Json) -> float | None:
    """Epoch seconds, given as a number or its text; milliseconds are recognised by their size."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    if not 0 < number < 1e15:
        return None
    return number / 1000 if number > 1e11 else number


def read_deployment(config: Mapping[str, Json]) -> Deployment:
    """`config.json` as far as a guest needs it (§3.2); raw is kept for `doctor`."""

    def at(*path: str) -> Json:
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
