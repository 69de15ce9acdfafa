"""The calls of the relay's gRPC service, for gRPC and gRPC-Web: bytes in, bytes out, and status codes.

Knows: which session a call means, what it needs, and the status of each outcome. Must not know: grpcio, tornado, how
bytes travel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from guestctl.core.clock import Clock
from guestctl.core.errors import Conflict, Failure, SessionOver, TimedOut, Unsupported, UsageError
from guestctl.relay.access import Right
from guestctl.relay.call_status import CallEnded, Status
from guestctl.relay.chat_messages import (
    entry_message,
    gap_message,
    history_message,
    parsed,
    send_details,
    send_response,
    short_entry_message,
    status_details,
    wanted_message,
)
from guestctl.relay.hub import NotRetained, Subscription
from guestctl.relay.log import LogEntry
from guestctl.relay.proto import chat_stream_pb2 as pb
from guestctl.relay.reader_errors import is_final, reader_hint, reader_message
from guestctl.relay.relay import AccessDenied, NotNamed, NotServed, Relay, RelaySession, event_kinds, result_of

#: The status of a send that was not accepted and is not in doubt.
_SEND_STATUS = {"rejected": Status.FAILED_PRECONDITION, "not_sent": Status.UNAVAILABLE}
#: The status of a failure that does not concern one message. Any other is UNAVAILABLE.
_STATUS: dict[type[Failure], Status] = {
    Conflict: Status.ALREADY_EXISTS,
    TimedOut: Status.DEADLINE_EXCEEDED,
    SessionOver: Status.FAILED_PRECONDITION,
    Unsupported: Status.UNIMPLEMENTED,
}


class _Selecting(Protocol):
    """Every request names its session in the same two fields."""

    conversation_id: str
    session: str


class ChatService:
    """The calls. `key` is the bearer key of a call, `data` the request, and every answer is bytes as well.

    `timeout` is how long Send and History wait for the service, in seconds; None: without a limit. Every method raises
    CallEnded.
    """

    def __init__(self, relay: Relay, clock: Clock, *, timeout: float | None) -> None:
        self.relay = relay
        self._clock = clock
        self._timeout = timeout

    def subscribe(
        self, key: str, data: bytes, wake: Callable[[], None], protocol: str
    ) -> tuple[Subscription, Callable[[LogEntry], bytes]]:
        """Return a new reader, and the function that encodes its entries (see `Hub.subscribe`)."""
        try:
            request = parsed(pb.ChatRequest, data)
            session = self._authorised(key, "read", request)
            if not self.relay.has_room:
                raise CallEnded(Status.RESOURCE_EXHAUSTED, "the relay has no room for another reader")
            kinds = event_kinds(request.kinds) if request.kinds else None
            reader = session.hub.subscribe(
                request.after or "last", kinds, strict=request.strict, wake=wake, protocol=protocol
            )
        except UsageError as failure:
            raise _ended(failure) from None
        except NotRetained as gone:
            message = "the log no longer has all events after this id"
            details = status_details(Status.OUT_OF_RANGE, message, gap_message(gone.missing))
            raise CallEnded(Status.OUT_OF_RANGE, message, details) from None
        return reader, short_entry_message if request.typed_only else entry_message

    async def send(self, key: str, data: bytes) -> bytes:
        """Send a message, and return the `SendResponse` of one that is accepted or in doubt."""
        try:
            request = parsed(pb.SendRequest, data)
            session = self._authorised(key, "send", request)
            if not request.idempotency_key:
                raise UsageError("the request has no idempotency_key", hint="use a new UUID for each message")
            message = wanted_message(request)
            try:
                answer = await result_of(session.sends.submit(request.idempotency_key, message), self._timeout)
            except (UsageError, Conflict):
                raise
            except Failure as failure:
                answer = session.sends.not_sent(request.idempotency_key, message, failure)
        except Failure as failure:
            raise _ended(failure) from None
        status = _SEND_STATUS.get("rejected" if is_final(answer.failure) else answer.delivery)
        if status is not None:
            reason = str(answer.record["error"]["message"])
            raise CallEnded(status, reason, send_details(status, reason, answer))
        return send_response(answer).SerializeToString()  # type: ignore[no-any-return, unused-ignore]

    async def history(self, key: str, data: bytes) -> list[bytes]:
        """Return the messages of the conversation."""
        try:
            request = parsed(pb.HistoryRequest, data)
            session = self._authorised(key, "read", request)
            records = await result_of(
                session.history(
                    last=request.last if request.HasField("last") else None,
                    since=request.since or None,
                    until=request.until or None,
                    all=request.all,
                ),
                self._timeout,
            )
        except Failure as failure:
            raise _ended(failure) from None
        conversation, now = session.upstream.conversation, self._clock.now()
        return [history_message(record, conversation, now) for record in records]

    def _authorised(self, key: str, right: Right, request: _Selecting) -> RelaySession:
        """Return the session that a request means."""
        try:
            return self.relay.authorise(
                key, right, name=request.session or None, conversation_id=request.conversation_id or None
            )
        except AccessDenied as denied:
            status = Status.PERMISSION_DENIED if denied.known else Status.UNAUTHENTICATED
            raise CallEnded(status, str(denied)) from None
        except NotNamed as error:
            raise CallEnded(Status.INVALID_ARGUMENT, str(error)) from None
        except NotServed as error:
            raise CallEnded(Status.NOT_FOUND, str(error)) from None


def _ended(failure: Failure) -> CallEnded:
    """Return the status of a failure that concerns the request, or of the service behind the relay."""
    if failure.code == "bug":
        return CallEnded(Status.INTERNAL, "an internal error")
    if isinstance(failure, UsageError) and failure.code != "state.unusable":
        hint = reader_hint(failure)
        return CallEnded(Status.INVALID_ARGUMENT, reader_message(failure) + (f" ({hint})" if hint else ""))
    status = next((status for kind, status in _STATUS.items() if isinstance(failure, kind)), Status.UNAVAILABLE)
    return CallEnded(status, reader_message(failure))
