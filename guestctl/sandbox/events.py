"""Wire events: what passes between guests and the sandbox, reported to an observer.

Knows: the kinds and members of events, which number belongs to what. Must not know: who observes, any API, secrets
(the observer masks them).

Events describe the guest's side, in the words of a client's trace:

    request, response, lost               `exchange` is the same for a request and its answer
    connect, upgrade, session, frame_out, frame_in,
    ping, pong, close, closed             `socket` is the same for everything on one socket

`session` is the id of the conversation, on every event from when it is known. A socket whose conversation becomes
known later reports it once with a `session` event. Numbers are unique within one sandbox. Nobody pays for events
without an observer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from typing import Any, TypeAlias

WireObserver: TypeAlias = Callable[[str, Mapping[str, Any]], None]
"""Receives the kind and the members of an event, in the sandbox's thread. It must not raise."""

NO_STATUS, NO_CLOSE = 1005, 1006


class WireEvents:
    """The events of one sandbox. `observer` may be set and cleared at any time, in the sandbox's thread."""

    def __init__(self, observer: WireObserver | None = None) -> None:
        self.observer = observer
        self._exchanges = count(1)
        self._sockets = count(1)

    def add(self, observer: WireObserver) -> None:
        """Let one more observer receive the events."""
        before = self.observer

        def both(kind: str, members: Mapping[str, Any]) -> None:
            assert before is not None
            before(kind, members)
            observer(kind, members)

        self.observer = observer if before is None else both

    def exchange(self, method: str, url: str, route: str, session: str | None) -> Exchange:
        """Return the events of a new request. `route` is its name in fault specs, or `other`."""
        return Exchange(self, next(self._exchanges), method, url, route, session)

    def socket(self, url: str) -> SocketEvents:
        """Return the events of a new socket."""
        return SocketEvents(self, next(self._sockets), url)


class Exchange:
    """Reports one request and how it ended, once."""

    def __init__(self, events: WireEvents, number: int, method: str, url: str, route: str, session: str | None) -> None:
        self._events = events
        self._number = number
        self._method = method
        self._url = url
        self._route = route
        self._session = session
        self._ended = False

    def sent(self, headers: Mapping[str, str], body: bytes | None) -> None:
        """Report the request. `body` is None without one, and if it was refused unread."""
        self._report("request", url=self._url, headers=headers, body=body)

    def answered(self, status: int, headers: Mapping[str, str], body: bytes, session: str | None) -> None:
        """Report the answer as it was written. `session` is that of the request, if it is known by now."""
        if not self._ended:
            self._ended = True
            self._session = session or self._session
            lower = {name.lower(): value for name, value in headers.items()}
            # The client's trace states the address of an answer without its query, too.
            self._report("response", url=self._url.partition("?")[0], status=status, headers=lower, body=body)

    def lost(self, why: str) -> None:
        """Report that the guest's connection ended before it could get an answer."""
        if not self._ended:
            self._ended = True
            self._report("lost", why=why, code="network.lost")

    def _report(self, kind: str, **members: Any) -> None:
        observer = self._events.observer
        if observer is not None:
            known = {} if self._session is None else {"session": self._session}
            observer(kind, {"exchange": self._number, **known, "route": self._route, "method": self._method, **members})


class SocketEvents:
    """Reports everything on one socket.

    `find_session` returns the id of the conversation to which the socket is attached now, None without one.
    """

    __slots__ = ("_closed", "_ended", "_events", "_number", "_session", "_url", "find_session")

    def __init__(self, events: WireEvents, number: int, url: str) -> None:
        self._events = events
        self._number = number
        self._url = url
        self._session: str | None = None
        self._ended: int | None = None  # the code of the first close, by either side
        self._closed = False
        self.find_session: Callable[[], str | None] = lambda: None

    @property
    def observed(self) -> bool:
        """Whether anybody observes. Asking first saves making the members of an event."""
        return self._events.observer is not None

    def connect(self, headers: Mapping[str, str], session: str | None) -> None:
        """Report the request for an upgrade, with the trace context of its headers."""
        self._session = session
        trace = headers.get("Traceparent")
        self._report("connect", {"url": self._url, **({} if trace is None else {"traceparent": trace})})

    def upgrade(
        self, status: int, request_headers: Mapping[str, str], headers: Mapping[str, str], body: bytes = b""
    ) -> None:
        """Report the answer to the upgrade. Any status but 101 is a refusal, which ends the socket."""
        lower = {name.lower(): value for name, value in headers.items()}
        sent = {"status": status, "request_headers": request_headers, "headers": lower, "body": body}
        self._report("upgrade", {"url": self._url, **sent})
        if status != 101:
            self._closed = True
            self._report("closed", {"code": None, "error": str(status)})

    def frame_out(self, message: str | bytes) -> None:
        """Report a message of the guest. Only a text message can be valid."""
        if isinstance(message, str):
            self._frame("frame_out", message)
        else:
            self.find()
            self._report("frame_out", {"text": message, "binary": True})

    def frame_in(self, text: str) -> None:
        """Report a frame that was written to the guest."""
        self._frame("frame_in", text)

    def ping(self, *, sent: bool = False) -> None:
        """Report a ping of the guest, or one of the service (`sent`)."""
        self._report("ping", {"direction": "in" if sent else "out"})

    def pong(self, *, sent: bool) -> None:
        """Report our answer to a ping (`sent`), or a pong of the guest."""
        self._report("pong", {"direction": "in" if sent else "out"})

    def close(self, code: int | None, reason: str, *, sent: bool) -> None:
        """Report our close frame (`sent`) or the guest's. The code is None for a frame without a status."""
        shown = NO_STATUS if code is None else code
        if self._ended is None:
            self._ended = shown
        self._report("close", {"direction": "in" if sent else "out", "code": shown, "reason": reason})

    def broke(self, reason: str, *, sent: bool) -> None:
        """Report the end of a connection without a close frame, by us (`sent`) or by the guest."""
        if self._ended is None:
            self.close(NO_CLOSE, reason, sent=sent)

    def closed(self) -> None:
        """Report once that the connection is over."""
        if not self._closed:
            self._closed = True
            self._report("closed", {"code": NO_CLOSE if self._ended is None else self._ended, "error": None})

    def find(self) -> None:
        """Report the conversation of the socket when it is known, or when it becomes another."""
        if self._events.observer is not None:
            session = self.find_session()
            if session is not None and session != self._session:
                self._session = session
                self._report("session", {})

    def _frame(self, kind: str, text: str) -> None:
        """Report a text frame. Almost everything is one, so this does as little as possible."""
        observer = self._events.observer
        if observer is not None:
            session = self.find_session()
            if session != self._session:
                self.find()
                session = self._session
            if session is None:
                observer(kind, {"socket": self._number, "text": text})
            else:
                observer(kind, {"socket": self._number, "session": session, "text": text})

    def _report(self, kind: str, members: Mapping[str, Any]) -> None:
        observer = self._events.observer
        if observer is not None:
            known = {} if self._session is None else {"session": self._session}
            observer(kind, {"socket": self._number, **known, **members})
