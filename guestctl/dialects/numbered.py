"""The common part of `guest-sessions` and `external-contacts`: numbered messages and one events socket.

Knows: the message objects, the frames and the refusals of source 000 (other-apis.md, `guest-sessions`).
Must not know: how either API opens a session, the addresses of its messages.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar
from urllib.parse import urlencode, urlsplit

from guestctl.core.errors import Failure, Unauthorised, Unreadable
from guestctl.core.model import (
    Message,
    NewSession,
    Outgoing,
    Position,
    Sender,
    Session,
    SessionEvent,
    Source,
    Typing,
)
from guestctl.core.values import Json
from guestctl.core.wire import Frame, Request, SocketAddress, identifier, optional, required
from guestctl.dialects.base import (
    Dialect,
    HistoryEntry,
    HistoryPage,
    frame_object,
    history_from_start,
    id_in_path,
    other_frame,
    read_entries,
)
from guestctl.dialects.flows import Flow, Incoming, Opened, Rejection, answered, frame_request, http_request
from guestctl.dialects.history_pages import LIMIT, read_message, read_sender, read_time


class NumberedDialect(Dialect):
    """An API that numbers the messages of a conversation from 1 and identifies them by `messageId`."""

    required = (("region", "base_url"),)
    history_lags = True
    documented_addresses: ClassVar[tuple[tuple[str, str], ...]] = (
        ("socket", "wss://api.{region}/v2/guest/webmessaging/events"),
        ("typing", "https://api.{region}/api/v2/conversations/messaging/external-contacts/{guest}/typing"),
    )

    def default_rest(self) -> str:
        return f"https://api.{self.need('region')}"

    def default_socket(self) -> str:
        return f"wss://api.{self.need('region')}"

    @abstractmethod
    def messages(self, session: Session) -> str:
        """Return the address of the session's messages."""

    @abstractmethod
    def socket_query(self, session: Session) -> dict[str, str]:
        """Return the query that selects the session on the events socket."""

    def socket_address(self, session: Session) -> SocketAddress:
        url = self.socket("/v2/guest/webmessaging/events")
        return SocketAddress(
            f"{url}{'&' if urlsplit(url).query else '?'}{urlencode(self.socket_query(session))}", credential="guest"
        )

    def attach(
        self, session: Session, *, start_new: NewSession | None = None, traceparent: str | None = None
    ) -> Flow[Session]:
        """Wait for `connected`. The guest sends nothing first, because the upgrade carried the token."""
        yield from answered(frame_request(None, lambda incoming: isinstance(incoming, (Opened, Rejection)), "socket"))
        return replace(session, new_session=False)

    def send(self, session: Session, message: Outgoing) -> Flow[Message]:
        body = {"text": message.text, "messageId": message.key}
        request = Request(
            "POST", self.messages(session), "send", json=body, credential="guest", idempotent=self.deduplicates
        )
        stored = (yield from http_request(request)).object()
        what = "accepted message"
        return Message(
            id=identifier(stored, "messageId", what),
            direction="inbound",
            text=message.text,
            time=None if stored.get("timestamp") is None else read_time(stored, what),
            key=message.key,
            sender=Sender("guest"),
            sequence=optional(stored, "sequenceNumber", int),
            raw=stored,
        )

    def history(self, session: Session, *, after: Position | None, cursor: str | None, limit: int) -> Flow[HistoryPage]:
        def read(last: str | None) -> Flow[tuple[HistoryPage, int]]:
            """Return the page after a number, and the highest number in the conversation."""
            query = {"lastSequenceNumber": last or "0", "limit": str(min(limit, LIMIT))}
            url = self.messages(session)
            request = Request("GET", url, "history", query=query, credential="guest", idempotent=True)
            body = (yield from http_request(request)).object()
            found = required(body, "messages", list, "history")
            items = tuple(read_entries(found, lambda item: _read(item, "history", "history")))
            highest = required(body, "lastSequenceNumber", int, "history")
            before = int(last or 0)
            if not items:
                return HistoryPage((), announced_up_to=highest if highest > before else None), highest
            reached = _reached(items, found, before)
            if reached <= before:
                raise Unreadable(f"history does not advance beyond number {before}")
            return HistoryPage(items, next=str(reached) if reached < highest else None), highest

        def page(last: str | None) -> Flow[HistoryPage]:
            found, _ = yield from read(last)
            return found

        if cursor is not None or after is None:
            return (yield from page(cursor))
        if after.sequence is None:
            return (yield from history_from_start(page, after))
        found, highest = yield from read(str(after.sequence))
        first = found.items[0] if found.items else None
        skips = isinstance(first, Message) and first.sequence != after.sequence + 1
        return replace(found, anchored=not (skips or highest < after.sequence))

    def typing(self, session: Session) -> Flow[None]:
        path = f"/api/v2/conversations/messaging/external-contacts/{id_in_path(session, 'guest')}/typing"
        yield from http_request(Request("POST", self.rest(path), "typing", credential="guest"))

    def decode(self, frame: Frame, session: Session) -> Sequence[Incoming]:
        value = frame_object(frame)
        kind = value.get("type")
        if kind == "message":
            return (_read(required(value, "message", dict, "message frame"), "message frame"),)
        if kind == "connected":
            return (Opened(value),)
        if kind == "typing":
            return (Typing(read_sender(value.get("from"))),)
        if kind == "tokenExpired":
            return (SessionEvent("token_expired"),)
        return (other_frame(kind, value, self.name),)

    def status_failure(
        self, status: int, service_code: str | int | None, request: Request
    ) -> tuple[type[Failure], str]:
        """A refused token ends the session, because the API has no refresh."""
        if status == 401 and request.route != "create":
            return Unauthorised, "auth.no_refresh"
        return super().status_failure(status, service_code, request)


def _reached(items: Sequence[HistoryEntry], entries: Sequence[Json], before: int) -> int:
    """Return the number of the last entry. One that cannot be read follows the one before it by one."""
    number = before
    for item, entry in zip(items, entries, strict=True):
        stated = entry.get("sequenceNumber") if isinstance(entry, dict) else None
        if isinstance(item, Message):
            number = item.sequence or 0
        elif type(stated) is int and before < stated <= before + LIMIT:
            number = stated
        else:
            number += 1
    return number


def _read(value: Json, what: str, source: Source = "live") -> Message:
    return read_message(value, what, id="messageId", key="messageId", sequence="sequenceNumber", source=source)
