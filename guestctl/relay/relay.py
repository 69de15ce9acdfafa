"""The relay of one or several sessions: what every server of readers works with.

Knows: how log, hub, upstream, sends and keys of a session belong together, and which session a request means. Must not
know: protocols, tornado, argv.

A server of any protocol, in any thread:

    session = relay.authorise(key, "read", name=…, conversation_id=…)   # raises AccessDenied, NotNamed, NotServed
    reader = session.hub.subscribe(…)                                   # see `hub`
    future = session.sends.submit(idempotency_key, message)             # see `sends`
    future = session.history(last=20)                                   # a list of records
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from guestctl.core.clock import Clock, rfc3339
from guestctl.core.errors import Failure, TimedOut, UsageError, bug
from guestctl.output.records import EVENT_KINDS, Record, stream_record
from guestctl.relay.access import AccessKeys, Right, relay_files
from guestctl.relay.hub import QUEUE, Hub
from guestctl.relay.log import RETAIN, EventLog
from guestctl.relay.sends import Sends, masked_failure
from guestctl.relay.upstream import OpenClient, Upstream
from guestctl.storage.locks import try_lock_path

T = TypeVar("T")

#: The reason of a refusal without a valid key.
KEY_WANTED = "this needs a key of the relay (`guestctl relay key` prints it where the relay runs)"
#: Seconds that a session may take to store what it received and to close its socket.
STOP_LIMIT = 3.0


async def result_of(future: Future[T], timeout: float | None) -> T:
    """Wait for a future of another thread in an event loop. Raises its Failure, or that of an unexpected exception.

    When the time is up, or the waiting task is cancelled, a job that has not begun is withdrawn: raises TimedOut.
    """
    wrapped = asyncio.wrap_future(future)
    try:
        await asyncio.wait({wrapped}, timeout=timeout)
    except asyncio.CancelledError:
        wrapped.cancel()  # and with it a job that has not begun
        raise
    if not wrapped.done() and future.cancel():
        raise TimedOut("the relay is not connected to the service")
    try:
        return await wrapped
    except Failure:
        raise
    except Exception as error:
        raise bug(error) from None


def event_kinds(names: Iterable[str]) -> frozenset[str]:
    """Return the kinds with these names. Raises UsageError for an unknown one, and if there is none."""
    kinds = frozenset(names)
    unknown = sorted(kinds - set(EVENT_KINDS))
    if unknown or not kinds:
        what = f'no kind "{", ".join(unknown)}"' if unknown else "no kind named"
        raise UsageError(f"kinds: {what}", hint=f"available kinds: {', '.join(EVENT_KINDS)}")
    return kinds


class AccessDenied(Exception):
    """The key does not permit this. `known`: the key is valid, but it has not the right (HTTP 403, otherwise 401)."""

    def __init__(self, message: str, *, known: bool) -> None:
        super().__init__(message)
        self.known = known


class NotNamed(Exception):
    """The relay serves several sessions, and the request names none (HTTP 400)."""


class NotServed(Exception):
    """The relay does not serve the named session or conversation, or not for this key (HTTP 404)."""


class RelaySession:
    """One session of a relay.

    `directory` is the state directory. `open_client` makes clients of the session. Raises UsageError if another process
    runs a relay of the session, or if its files cannot be used, and SessionOver if no such session is stored.
    """

    def __init__(
        self,
        directory: Path,
        open_client: OpenClient,
        clock: Clock,
        *,
        retain: int = RETAIN,
        queue: int = QUEUE,
        strict: bool = False,
        masked: Callable[[str], str] = str,
        notice: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._clock = clock
        self._masked = masked
        self._history_client = open_client(None, None)
        session = self._history_client.session()
        self.name = session.name
        base = relay_files(directory, self._history_client.scope, self.name)
        self.keys = AccessKeys(base)
        self.keys.key("read")
        release = try_lock_path(base.with_suffix(".lock"))
        if release is None:
            raise UsageError(
                f'another relay serves the session "{self.name}"', hint="use that relay, or stop it first", code="usage"
            )
        self._release = release
        birth = repr(session.created_at)
        self.log = EventLog(base.with_suffix(".db"), birth=birth, now=clock.now(), retain=retain)
        self.hub = Hub(self.log, self.name, clock, strict=strict, queue=queue)
        self.upstream = Upstream(self.hub, open_client, clock, masked=masked, notice=notice)
        self.upstream.on_end(self._upstream_ended)
        known = self._history_client.outcome
        self.sends = Sends(self.log, self.upstream, self.name, f"{base.name} {birth}", outcome=known, masked=masked)
        self._history = ThreadPoolExecutor(1, thread_name_prefix=f"history {self.name}")

    def history(
        self, *, last: int | None = None, since: str | None = None, until: str | None = None, all: bool = False
    ) -> Future[list[Record]]:
        """Read the history of the conversation, and return the future list of its records (see `Client.history`).

        Another client reads it, without a socket, so that events do not wait for it. The future raises the failure of
        the service, or UsageError for an argument that cannot be used.
        """

        def read() -> list[Record]:
            now = rfc3339(self._clock.now())
            try:
                items = self._history_client.history(last=last, since=since, until=until, all=all)
                return [stream_record(item, self.name, now=lambda: now, masked=self._masked) for item in items]
            except Failure as failure:
                raise masked_failure(failure, self._masked) from None

        return self._history.submit(read)

    def _upstream_ended(self) -> None:
        failure = self.upstream.failure
        self.hub.end(None if failure is None else masked_failure(failure, self._masked))

    def stop(self) -> None:
        """Stop listening, end the stream of every reader, and close the log."""
        self.upstream.stop(STOP_LIMIT)
        self.hub.end()

    def close(self) -> None:
        """Close the files, after the readers have gone."""
        self._history.shutdown(wait=False, cancel_futures=True)
        self._history_client.close()
        if self.upstream.close():
            self.log.close()
        self._release()


class Relay:
    """All sessions of one process. `capacity` is the number of readers that it has room for."""

    def __init__(self, sessions: Sequence[RelaySession], *, capacity: int) -> None:
        self.sessions = tuple(sessions)
        self.capacity = capacity

    def start(self) -> None:
        """Start to listen in every session."""
        for session in self.sessions:
            session.upstream.start()

    def stop(self) -> None:
        """Stop every session. Readers get their last event."""
        for session in self.sessions:
            session.stop()

    def close(self) -> None:
        """Close the files, after the servers have stopped."""
        for session in self.sessions:
            session.close()

    @property
    def has_room(self) -> bool:
        """Whether there is room for another reader, of any protocol."""
        return sum(len(session.hub.readers) for session in self.sessions) < self.capacity

    @property
    def ready(self) -> bool:
        """Whether every session is attached, and heard the service within the last 60 s."""
        return all(session.upstream.alive for session in self.sessions)

    @property
    def failure(self) -> Failure | None:
        """The failure of the session that ended last, once every session has ended; otherwise None."""
        failures = [session.upstream.failure for session in self.sessions if session.upstream.ended]
        return failures[-1] if len(failures) == len(self.sessions) else None

    def permits(self, key: str) -> bool:
        """Return whether a key may read any of the sessions."""
        return any(session.keys.allows(key, "read") for session in self.sessions)

    def authorise(
        self, key: str, right: Right, *, name: str | None = None, conversation_id: str | None = None
    ) -> RelaySession:
        """Return the session that a request means, if its key permits that.

        A name or the service's id of the conversation is required if the relay has several sessions. Raises
        AccessDenied, NotNamed and NotServed.
        """
        if not self.permits(key):
            raise AccessDenied(KEY_WANTED, known=False)
        if name is None and conversation_id is None and len(self.sessions) > 1:
            raise NotNamed("the relay serves several sessions: name one with session or conversation_id")
        for session in self.sessions:
            if name is not None and session.name != name:
                continue
            if conversation_id is not None and session.upstream.conversation != conversation_id:
                continue
            if session.keys.allows(key, "read"):
                if right == "send" and not session.keys.allows(key, "send"):
                    raise AccessDenied(
                        "this key may only read (`guestctl relay key --send` prints the one that may also send)",
                        known=True,
                    )
                return session
        raise NotServed("the relay does not serve this session for this key")
