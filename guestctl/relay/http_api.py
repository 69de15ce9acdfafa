"""The relay over HTTP: `/v1/events`, `/v1/ws`, `/v1/messages`, `/v1/history`, `/healthz`, `/readyz` and `/metrics`.

Knows: paths, parameters, headers, statuses, Server-Sent Events and JSON Lines. Must not know: tornado, the upstream,
files.

All functions run in the thread of the web server. There, a `Pump` (`web_reader`) passes new events of a session to its
readers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from guestctl.core.errors import Conflict, Failure, RateLimited, TimedOut, UsageError
from guestctl.output.records import USUAL_KINDS
from guestctl.output.writer import exact_json
from guestctl.relay.access import Right
from guestctl.relay.hub import NotRetained, Subscription
from guestctl.relay.log import LogEntry
from guestctl.relay.metrics import CONTENT_TYPE, Metrics
from guestctl.relay.reader_errors import is_final, reader_error
from guestctl.relay.relay import (
    KEY_WANTED,
    AccessDenied,
    NotNamed,
    NotServed,
    Relay,
    RelaySession,
    event_kinds,
    result_of,
)
from guestctl.relay.sends import SendAnswer, WantedMessage
from guestctl.relay.web_reader import Pump, WebReader
from guestctl.transport.web_routes import (
    JSON,
    WebRefusal,
    WebReply,
    WebRequest,
    WebRoute,
    WebSocketRoute,
    WebStream,
)
from guestctl.transport.web_server import WebServer

#: Without the charset, clients such as Python's requests take a text for ISO-8859-1.
EVENT_STREAM, JSON_LINES = "text/event-stream; charset=utf-8", "application/x-ndjson"
#: Seconds between two comments on a quiet event stream, so that both ends and proxies notice a broken connection.
KEEP_ALIVE = 15.0
#: The subprotocol that a browser offers next to the one with its key, and that the relay selects.
SUBPROTOCOL, BEARER = "guestctl.relay.v1", "guestctl.bearer."
#: Request headers that permitted web pages may send.
PAGE_HEADERS = ("Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID")
#: WebSocket close codes after `slow` (try again) and `end` (going away).
_CLOSE_CODES = {"slow": 1013, "end": 1001}
_SELECTING = frozenset({"session", "conversation_id"})
#: Before the first event: a browser's own `EventSource` reconnects after one second.
_PREAMBLE = b"retry: 1000\n\n"
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="guestctl relay"'}
_STATUS = {"accepted": 200, "rejected": 422, "not_sent": 503, "in_doubt": 202}


class _EventReader(WebReader):
    """A reader of Server-Sent Events, whose stream gets comments while it is quiet."""

    _comment_pending = False

    def comment(self) -> None:
        """Send a comment, unless the last one or an event is still on its way."""
        if not (self.subscription.busy or self._comment_pending):
            self._comment_pending = not self.stream.write(b": keep-alive\n\n", self._comment_sent)

    def _comment_sent(self) -> None:
        self._comment_pending = False


class HttpApi:
    """The handlers. `timeout` is how long a request waits for the service, in seconds; None: without a limit."""

    def __init__(self, relay: Relay, metrics: Metrics, *, timeout: float | None) -> None:
        self._relay = relay
        self._metrics = metrics
        self._timeout = timeout
        self._server: WebServer
        self._pumps: dict[str, Pump] = {}

    def routes(self) -> list[WebRoute | WebSocketRoute]:
        """Return the routes of the relay."""
        return [
            WebRoute("GET", "/v1/events", self._events),
            WebSocketRoute("/v1/ws", self._admit, self._opened),
            WebRoute("POST", "/v1/messages", self._send),
            WebRoute("GET", "/v1/history", self._history),
            *(WebRoute(method, "/healthz", self._healthz) for method in ("GET", "HEAD")),
            *(WebRoute(method, "/readyz", self._readyz) for method in ("GET", "HEAD")),
            WebRoute("GET", "/metrics", self._prometheus),
        ]

    def attach(self, server: WebServer) -> None:
        """Use this server, which has not started yet, for the routes."""
        self._server = server
        self._pumps = {session.name: Pump(server) for session in self._relay.sessions}

    def started(self) -> None:
        """Send comments on quiet event streams from now on."""
        self._server.call_soon(self._keep_alive)

    def _keep_alive(self) -> None:
        for pump in self._pumps.values():
            for reader in tuple(pump.readers):
                if isinstance(reader, _EventReader):
                    reader.comment()
        self._server.call_later(KEEP_ALIVE, self._keep_alive)

    # --- reading ---

    async def _events(self, request: WebRequest) -> WebReply | None:
        session = self._authorised(request, "read", {"after", "kinds"} | _SELECTING)
        lines = JSON_LINES in request.headers.get("Accept", "")
        subscription = self._subscribe(session, request, "json lines" if lines else "sse")
        if lines:
            self._add(session, WebReader, request.stream(JSON_LINES), subscription, _line)
        else:
            stream = request.stream(EVENT_STREAM)
            stream.write(_PREAMBLE, lambda: None)
            self._add(session, _EventReader, stream, subscription, _event)
        return None

    def _admit(self, request: WebRequest) -> str | None:
        session = self._authorised(request, "read", {"after", "kinds"} | _SELECTING)
        offered = _subprotocols(request)
        if SUBPROTOCOL not in offered and any(one.startswith(BEARER) for one in offered):
            # The only one to select would be the key, which no answer may show.
            raise _plain_refusal(400, f"offer the subprotocol {SUBPROTOCOL} next to the one with the key")
        # After the upgrade, a refusal has no status and no reason.
        self._subscribe(session, request, "websocket").close()
        return SUBPROTOCOL if SUBPROTOCOL in offered else None

    def _opened(self, request: WebRequest, stream: WebStream) -> None:
        try:
            session = self._authorised(request, "read", {"after", "kinds"} | _SELECTING)
            subscription = self._subscribe(session, request, "websocket")
        except WebRefusal:
            stream.abort()
            return
        self._add(session, WebReader, stream, subscription, _frame)

    def _subscribe(self, session: RelaySession, request: WebRequest, protocol: str) -> Subscription:
        if not self._relay.has_room:
            raise _plain_refusal(503, "the relay has no room for another reader", {"Retry-After": "10"})
        after = request.headers.get("Last-Event-ID") or _one(request, "after") or "last"
        kinds = _kinds(_one(request, "kinds"))
        wake = self._pumps[session.name].wake
        try:
            return session.hub.subscribe(after, kinds, wake=wake, protocol=protocol)
        except UsageError as failure:
            raise _refusal(400, failure) from None
        except NotRetained as gone:
            missing = gone.missing
            body = {
                "error": {"code": "relay.not_retained", "message": "the log no longer has all events after this id"},
                "first_missing": None if missing.first is None else str(missing.first),
                "last_missing": None if missing.last is None else str(missing.last),
            }
            raise WebRefusal(_json(410, body)) from None

    def _add(
        self,
        session: RelaySession,
        kind: type[WebReader],
        stream: WebStream,
        subscription: Subscription,
        encode: Callable[[LogEntry], bytes],
    ) -> None:
        def end(data: bytes, last: str) -> None:
            stream.end(data, _CLOSE_CODES[last])

        self._pumps[session.name].add(kind(self._server, stream, subscription, encode, end))

    # --- sending, history ---

    async def _send(self, request: WebRequest) -> WebReply:
        session = self._authorised(request, "send", _SELECTING)
        key = request.headers.get("Idempotency-Key", "")
        if not key:
            failure = UsageError("the request has no Idempotency-Key", hint="use a new UUID for each message")
            raise _refusal(400, failure)
        try:
            message = WantedMessage.read(_json_of(request))
            future = session.sends.submit(key, message)
            answer = await result_of(future, self._timeout)
        except UsageError as failure:
            # That the relay cannot store the message is not the fault of the request.
            raise _refusal(503 if failure.code == "state.unusable" else 400, failure) from None
        except Conflict as failure:
            raise _refusal(409, failure) from None
        except Failure as failure:
            answer = session.sends.not_sent(key, message, failure)
        return _send_reply(answer)

    async def _history(self, request: WebRequest) -> WebReply:
        session = self._authorised(request, "read", {"last", "since", "until", "all"} | _SELECTING)
        last = _one(request, "last")
        if last is not None and not (last.isascii() and last.isdigit() and len(last) < 9):
            raise _refusal(400, UsageError(f'last: "{last}" is not a number', hint="give the number of messages"))
        future = session.history(
            last=None if last is None else int(last),
            since=_one(request, "since"),
            until=_one(request, "until"),
            all=_one(request, "all") in {"1", "true"},
        )
        try:
            records = await result_of(future, self._timeout)
        except UsageError as failure:
            raise _refusal(400, failure) from None
        except Failure as failure:
            raise _refusal(_status_of(failure), failure) from None
        body = "".join(f"{exact_json(record)}\n" for record in records)
        return WebReply(200, body.encode(), {"Content-Type": JSON_LINES})

    # --- operation ---

    async def _healthz(self, request: WebRequest) -> WebReply:
        return _json(200, {"status": "serving"})

    async def _readyz(self, request: WebRequest) -> WebReply:
        ready = self._relay.ready
        return _json(200 if ready else 503, {"ready": ready})

    async def _prometheus(self, request: WebRequest) -> WebReply:
        if not self._relay.permits(_key(request)):
            raise _plain_refusal(401, KEY_WANTED, _CHALLENGE)
        return WebReply(200, self._metrics.text(), {"Content-Type": CONTENT_TYPE})

    # --- access ---

    def _authorised(self, request: WebRequest, right: Right, parameters: frozenset[str] | set[str]) -> RelaySession:
        """Return the session that the request means. Raises WebRefusal without the right, or for wrong parameters."""
        try:
            session = self._relay.authorise(
                _key(request), right, name=_one(request, "session"), conversation_id=_one(request, "conversation_id")
            )
        except AccessDenied as denied:
            raise _plain_refusal(
                403 if denied.known else 401, str(denied), None if denied.known else _CHALLENGE
            ) from None
        except NotNamed as error:
            raise _plain_refusal(400, str(error)) from None
        except NotServed as error:
            raise _plain_refusal(404, str(error)) from None
        unknown = sorted(set(request.query) - parameters)
        if unknown:
            hint = f"the parameters are {', '.join(sorted(parameters))}"
            raise _refusal(400, UsageError(f'unknown parameter "{unknown[0]}"', hint=hint))
        return session


def _event(entry: LogEntry) -> bytes:
    return entry.event


def _line(entry: LogEntry) -> bytes:
    return entry.line


def _frame(entry: LogEntry) -> bytes:
    return entry.frame


def _key(request: WebRequest) -> str:
    """Return the key of a request: the bearer of its header, or of a WebSocket's subprotocols; empty without one."""
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return key.strip()
    return next((one.removeprefix(BEARER) for one in _subprotocols(request) if one.startswith(BEARER)), "")


def _subprotocols(request: WebRequest) -> list[str]:
    return [one.strip() for one in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]


def _one(request: WebRequest, name: str) -> str | None:
    """Return the value of a parameter, None without one. Raises WebRefusal if it is given twice."""
    values = request.query.get(name, [])
    if len(values) > 1:
        raise _refusal(400, UsageError(f'the parameter "{name}" is given twice', hint="give it once"))
    return values[0] if values and values[0] else None


def _kinds(text: str | None) -> frozenset[str]:
    if text is None:
        return USUAL_KINDS
    try:
        return event_kinds(word.strip() for word in text.split(",") if word.strip())
    except UsageError as failure:
        raise _refusal(400, failure) from None


def _json_of(request: WebRequest) -> Any:
    try:
        return json.loads(request.body)
    except (ValueError, RecursionError):
        raise UsageError("the body is not JSON", hint='send {"text": "…"}') from None


def _send_reply(answer: SendAnswer) -> WebReply:
    reply = _json(422 if is_final(answer.failure) else _STATUS[answer.delivery], answer.record)
    wait = answer.failure.retry_after if isinstance(answer.failure, RateLimited) else None
    return (
        reply if wait is None else WebReply(reply.status, reply.body, {**reply.headers, "Retry-After": f"{wait:.0f}"})
    )


def _status_of(failure: Failure) -> int:
    """Return the status for a failure of the service behind the relay."""
    return HTTPStatus.GATEWAY_TIMEOUT if isinstance(failure, TimedOut) else HTTPStatus.BAD_GATEWAY


def _refusal(status: int, failure: Failure) -> WebRefusal:
    return WebRefusal(_json(status, reader_error(failure)))


def _plain_refusal(status: int, message: str, headers: Mapping[str, str] | None = None) -> WebRefusal:
    return WebRefusal(_json(status, {"error": {"message": message}}, headers))


def _json(status: int, value: Any, headers: Mapping[str, str] | None = None) -> WebReply:
    return WebReply(status, exact_json(value).encode() + b"\n", {"Content-Type": JSON, **(headers or {})})
