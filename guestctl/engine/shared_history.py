"""One listener reads history after a break, and the other listeners of the session use what it read.

Knows: which listener reads, how its answers are passed on, when a listener reads for itself. Must not know: any
dialect's wire, what is missing from a stream, how a socket is opened.

The answers of the service are passed on as they were received, together with the position after which the leader read.
A follower performs the same read with these answers, so that it finds the same entries, and the same gaps. Its own
position may be a later one: what it has shown is left out.

A listener with a socket of its own (`shared_socket`) may thus use answers that are older than this socket. To `CatchUp`
this is a history that lags, by less than `SLACK`: nothing is proved by its silence, and it is read again. Where nothing
is published within `PATIENCE`, the answers do not fit, or the database fails, a listener reads for itself.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from typing import TypeAlias

from guestctl.core.clock import Deadline
from guestctl.core.errors import Failure, UsageError
from guestctl.core.model import Position
from guestctl.core.values import Json
from guestctl.core.wire import HttpResponse
from guestctl.engine.exchange import SessionEngine
from guestctl.engine.history import Following
from guestctl.storage.shared_reads import Listening, SharedRead

Read: TypeAlias = Callable[[Position | None], Following]
"""Reads history after a position."""

#: Seconds to wait for the answers of another listener before reading for oneself, and between two looks for them.
PATIENCE, PAUSE = 5.0, 0.02
#: Seconds by which a read may have begun before the connection of a follower broke: all break at about the same time.
SLACK = 1.0
#: Bytes of answers that are passed on at most.
MOST_BYTES = 1 << 20


class _NotShared(Exception):
    """A follower needs an answer that the leader did not pass on."""


class SharedHistory:
    """The reads of one listener. `deadline` gives the deadline for one answer of the service."""

    def __init__(self, engine: SessionEngine, deadline: Callable[[], Deadline]) -> None:
        self._engine = engine
        self._reads = engine.state.shared_reads
        self._owner = engine.record.owner
        self._deadline = deadline
        #: When (epoch seconds) the last read began that this listener made or used.
        self._last = 0.0
        self._published = False
        self._listening: Listening | None = None
        with suppress(UsageError):
            self._listening = self._reads.join(self._owner)

    def close(self) -> None:
        """Stop being a listener, and remove what was published."""
        listening, self._listening = self._listening, None
        if listening is not None:
            listening.release()
        if self._published:
            with suppress(Failure):
                self._reads.remove(self._owner)

    def read(self, position: Position | None, read: Read, *, broke_at: float) -> Following:
        """Return history after a position: as another listener has read it since, or as this one reads it for all.

        `broke_at`: when (epoch seconds) the connection broke. Raises the failure of this listener's own read.
        """
        clock = self._engine.clock
        deadline = self._deadline().sooner(PATIENCE)
        while True:
            if (found := self._follow(position, read, broke_at)) is not None:
                return found
            try:
                release = self._reads.try_lead(self._owner)
            except UsageError:
                return read(position)
            if release is not None:
                try:
                    # The last leader may have published its answers a moment ago.
                    return self._follow(position, read, broke_at) or self._lead(position, read)
                finally:
                    release()
            if deadline.expired:
                self._last = clock.now()
                return read(position)
            clock.sleep(deadline.bound(PAUSE))

    def _lead(self, position: Position | None, read: Read) -> Following:
        """Read history, and publish the answers if somebody else listens."""
        begun = self._engine.clock.now()
        answers: list[tuple[str, HttpResponse]] = []
        self._engine.recorded_answers = answers
        try:
            found = read(position)
        finally:
            self._engine.recorded_answers = None
            self._last = begun
        if found.complete and sum(len(answer.body) for _, answer in answers) <= MOST_BYTES:
            with suppress(UsageError):
                self._publish(begun, position, answers)
        return found

    def _publish(self, begun: float, position: Position | None, answers: list[tuple[str, HttpResponse]]) -> None:
        if self._listening is None or self._reads.has_others(self._owner, self._listening):
            body = {
                "after": None if position is None else asdict(position),
                "answers": [[key, _as_json(answer)] for key, answer in answers],
            }
            self._reads.put(self._owner, SharedRead(begun, json.dumps(body)))
            self._published = True

    def _follow(self, position: Position | None, read: Read, broke_at: float) -> Following | None:
        """Return history as another listener has read it; None if there is no such read, or it does not fit."""
        shared = None
        with suppress(UsageError):
            shared = self._reads.get(self._owner, max(self._last, broke_at - SLACK))
        if shared is None:
            return None
        self._last = shared.begun_at
        try:
            body = json.loads(shared.body)
            after = None if body["after"] is None else Position(**body["after"])
            answers = {key: _from_json(answer) for key, answer in body["answers"]}
        except (ValueError, KeyError, TypeError):  # written by another version of guestctl
            return None

        def answer_to(key: str) -> HttpResponse:
            if key not in answers:
                raise _NotShared
            return answers[key]

        self._engine.answer_to = answer_to
        try:
            return _from(position, after, read(after))
        except (_NotShared, Failure):
            return None
        finally:
            self._engine.answer_to = None


def _from(position: Position | None, after: Position | None, found: Following) -> Following | None:
    """Return what follows `position` of what follows `after`; None if that does not show it."""
    if (position.id if position else None) == (after.id if after else None):
        return found
    ids = [item.id for item in found.items]
    if position is None or position.id not in ids:
        return None
    return replace(found, items=found.items[ids.index(position.id) + 1 :], anchored=True)


def _as_json(answer: HttpResponse) -> Mapping[str, Json]:
    return {
        "status": answer.status,
        "headers": dict(answer.headers),
        "body": b64encode(answer.body).decode("ascii"),
        "at": answer.at,
        "url": answer.url,
    }


def _from_json(values: Mapping[str, Json]) -> HttpResponse:
    return HttpResponse(**{**values, "body": b64decode(values["body"])})
