"""All listeners of one session use one socket: that of the leader. The others follow through the state database.

Knows: which listener leads, what it publishes and when, what a follower makes of it. Must not know: any dialect's wire,
what is missing from a stream, when a listener reconnects.

The leader publishes each frame that it receives, from a point on that it states when it admits a follower. To a
follower this point is where its socket opened: it reads history afterwards, as every listener does. When the connection
of the leader breaks, that of each follower has broken, too, with the same failure. The leader reconnects and reads
history (`shared_history`), publishes that, and then everything that the new socket has brought. So the followers need
neither a connect nor a read of their own.

A follower ends this, and takes its stream for broken, when it finds a hole in the numbers of the rows, or when the
leader has ended: then it tries to become the leader. If the leader publishes nothing for `PATIENCE`, the follower opens
a socket of its own. It does so as well when it could not wait that long, and when the state cannot be used.

While nobody follows, the leader only looks for followers now and then, and writes nothing.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from math import inf
from typing import Any, TypeVar

from guestctl.core.clock import Deadline
from guestctl.core.errors import (
    NEXT_STEPS,
    Conflict,
    Failure,
    NetworkError,
    RateLimited,
    TimedOut,
    Unreadable,
    UsageError,
)
from guestctl.core.wire import Frame
from guestctl.engine.connect import masked, refuse_over
from guestctl.engine.exchange import SessionEngine
from guestctl.engine.own_sockets import OwnSockets
from guestctl.engine.session_socket import SessionSocket
from guestctl.storage.locks import Release
from guestctl.storage.shared_frames import KEPT, RowKind, Seat, SharedRow
from guestctl.storage.state import replaced

T = TypeVar("T")

#: Seconds without a sign of the leader after which a follower opens a socket of its own.
PATIENCE = 5.0
#: Seconds between two signs of a leader that receives nothing.
BEAT = 2.0
#: Seconds between two looks of a follower for rows, of the leader for followers, and of a follower for the end of the
#: leader.
PAUSE, LEADER_PAUSE, LOCK_PAUSE = 0.05, 0.1, 0.5
#: Rows, and bytes of them, that the leader keeps at most. A follower that needs older ones has missed something.
MOST_ROWS, MOST_BYTES = 10_000, 8 << 20

_FAILURES: dict[str, type[Failure]] = {kind.__name__: kind for kind in (Conflict, RateLimited, TimedOut, Unreadable)}


class SharedSocket(OwnSockets):
    """The part of one listener in this. `left` returns the seconds until its caller stops."""

    def __init__(self, engine: SessionEngine, left: Callable[[], float | None]) -> None:
        self._engine = engine
        self._left = left
        self._frames = engine.state.shared_frames
        self._clock = engine.clock
        self._publisher: _Publisher | None = None
        self._reader: _Reader | None = None
        #: When (monotonic) this listener last tried to become the leader.
        self._tried_at = -inf
        #: The listener opens its own sockets: the next one, or all.
        self._alone_next = self._alone = False

    def connects(self) -> bool:
        """Return whether the next socket is one of this listener's own. It becomes the leader if there is none."""
        if self._alone or self._alone_next or self._try_lead():
            return True
        left = self._left()
        return left is not None and left < PATIENCE

    def close(self) -> None:
        """Neither lead nor follow any more."""
        self._alone = True
        if self._publisher is not None:
            self._publisher.end()
            self._publisher = None
        if self._reader is not None:
            reader = self._reader
            with suppress(Failure):
                reader.look()  # what has arrived is part of the stream
            self._leave()
            reader.interrupted("the listener has ended")

    # --- leading ---

    def publish(self) -> None:
        """Publish what has arrived, admit new followers and show that this process is alive, if it leads."""
        self._perform(lambda publisher: publisher.publish())

    def attached(self, socket: SessionSocket) -> None:
        """Note that the socket is open, and that history has been read: followers may use both."""
        if not socket.followed:
            self._alone_next = False
            self._leave()
            self.connects()  # the leader may have ended
            self._perform(lambda publisher: publisher.attached(socket))

    def lost(self, failure: Failure) -> None:
        """Publish that the socket broke, or that no socket could be opened."""
        self._perform(lambda publisher: publisher.lost(failure))

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Show followers that this process is alive while it waits for the service."""
        publisher = self._publisher
        if publisher is None or not publisher.followed:
            yield
            return
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(BEAT):
                publisher.beat()

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _perform(self, act: Callable[[_Publisher], bool]) -> None:
        """Let the publisher act, if this listener leads. Where the session is not stored any more, nobody follows."""
        if self._publisher is not None and not act(self._publisher):
            self._publisher.end()
            self._publisher, self._alone = None, True

    def _try_lead(self) -> bool:
        """Become the leader if there is none; return whether this listener leads."""
        now = self._clock.monotonic()
        if self._publisher is not None or self._alone or now - self._tried_at < LOCK_PAUSE:
            return self._publisher is not None
        self._tried_at = now
        try:
            release = self._frames.try_lead(self._engine.record.owner)
        except UsageError:
            release, self._alone = None, True
        if release is None:
            return False
        self._leave()
        self._publisher = _Publisher(self._engine, release)
        self._perform(lambda publisher: publisher.take_over())
        return True

    # --- following ---

    def follow(self, pause: Callable[[float], Iterable[T]]) -> Generator[T, None, SessionSocket | None]:
        """Wait for the leader's socket and return it; None if this listener has to open one.

        `pause` waits some seconds, and yields what the caller gets in the meantime. Raises the failure with which the
        leader could not connect, and TimedOut when the caller stops.
        """
        reader = self._reader
        if reader is None:
            with suppress(UsageError):
                engine = self._engine
                seat = self._frames.take_seat(engine.record.owner, engine.scope, engine.session)
                self._reader = reader = None if seat is None else _Reader(engine, seat)
        if reader is None:
            self._alone_next = True
            return None
        reader.heard_at = self._clock.monotonic()
        while True:
            while reader.rows:
                row = reader.rows.popleft()
                if row.kind == "attached":
                    return self._follow(reader)
                if row.kind == "lost":
                    raise _failure_of(row)
            self.look(reader)
            if reader.rows:
                continue
            if self.connects():
                return None
            if self._left() == 0:
                raise TimedOut("timed out while another guestctl process connects")
            yield from pause(PAUSE)

    def _follow(self, reader: _Reader) -> SessionSocket | None:
        """Return the socket of the leader. Frames are read with the session as it is stored now."""
        engine = self._engine
        stored = engine.state.find(engine.scope, engine.session)
        if stored is None:
            reader.gone = True
            self.look(reader)
            return None
        engine.session = replace(stored, credentials={**engine.session.credentials, **stored.credentials})
        refuse_over(engine.session)
        if engine.connector.observer is not None:
            engine.connector.observer("follow", {"session": engine.session.name})
        frames = _FollowedFrames(self, reader, engine)
        return _FollowedSocket(frames, engine.dialect, engine.session, engine.clock, engine.timings, engine.notice)

    def look(self, reader: _Reader) -> None:
        """Read what the leader has published. If that is over, become the leader, or open the next socket alone.

        Raises SessionOver when another session has taken the place of this one: its conversation is over.
        """
        if reader is not self._reader:
            return
        try:
            if not reader.gone:
                reader.look()
        except UsageError as error:
            self._alone_next = True
            reader.interrupted(error.message)
        if reader.gone:
            self._alone = True
            self._leave()
            with suppress(UsageError):
                if self._engine.state.get(self._engine.scope, self._engine.session.name) is not None:
                    raise replaced(self._engine.session)
        elif reader.rows:
            if reader.rows[-1].kind == "ended":
                self._tried_at = -inf  # there may be no leader
        elif self._clock.monotonic() - reader.heard_at > PATIENCE:
            self._alone_next = True
            self._leave()
            reader.interrupted(f"the guestctl process with the connection has done nothing for {PATIENCE:g} s")
        elif self._try_lead():
            with suppress(UsageError):
                reader.read_rows()  # the last ones
            reader.interrupted("the guestctl process with the connection has ended")

    def _leave(self) -> None:
        """Follow no more."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.leave()


class _Publisher:
    """Writes what the leader receives.

    Its methods return False when the session is not stored any more. A failure to write leaves a hole in the numbers.
    """

    def __init__(self, engine: SessionEngine, release: Release) -> None:
        self._engine = engine
        self._release = release
        self._frames = engine.state.shared_frames
        self._clock = engine.clock
        self._session = engine.session
        #: The open socket that followers use; None while there is none.
        self._socket: SessionSocket | None = None
        self._leader: int | None = None
        self._number = 0
        #: Number, time (epoch seconds) and bytes of each row that is kept, and the sum of the bytes.
        self._kept: deque[tuple[int, float, int]] = deque()
        self._bytes = 0
        #: Whether rows are missing because the last ones could not be written.
        self._failed = False
        self.followed = False
        #: When (monotonic) to look for followers, and when the last look for dead ones and the last sign were.
        self._look_at = self._looked_for_dead_at = self._written_at = -inf

    def take_over(self) -> bool:
        """Admit the followers of a leader that has ended, before anything is received for them."""
        with suppress(UsageError):
            self._frames.remove_old()
        return self.publish()

    def publish(self) -> bool:
        now = self._clock.monotonic()
        socket = self._socket
        if now < self._look_at and not (socket is not None and socket.recorded):
            return True
        try:
            admitted = self._look_for_followers(now) if now >= self._look_at else []
            if admitted is None:
                return False
            rows = self._recorded()
            after = self._number + len(rows)
            if admitted and socket is not None:
                rows.append(("attached", self._clock.now(), ""))
            if self._failed and socket is not None:
                rows.insert(0, ("attached", self._clock.now(), ""))  # the hole before it is seen at once
                after += 1
            if rows or admitted or (self.followed and now - self._written_at >= BEAT):
                return self._write(rows, admit=admitted, after=after)
        except UsageError:
            self._failed = self._leader is not None
        return True

    def attached(self, socket: SessionSocket) -> bool:
        if socket is self._socket:
            return True
        self._socket = socket
        try:
            admitted = self._look_for_followers(self._clock.monotonic())
            if admitted is None:
                return False
            if self.followed:
                after = self._number
                rows = [("attached", self._clock.now(), ""), *self._recorded()]
                return self._write(rows, admit=admitted, after=after)
        except UsageError:
            self._failed = self._leader is not None
        return True

    def lost(self, failure: Failure) -> bool:
        rows = self._recorded()
        self._socket = None
        if not self.followed:
            return True
        try:
            return self._write([*rows, ("lost", self._clock.now(), _text_of(self._engine, failure))])
        except UsageError:
            self._failed = self._leader is not None
        return True

    def beat(self) -> None:
        """Show that this process is alive. Any thread may call it."""
        with suppress(Failure):
            if self._leader is not None:
                self._frames.write(self._engine.scope, self._session, self._leader, [])

    def end(self) -> None:
        """Publish the end, and let another listener lead."""
        rows = self._recorded()
        self._record(followed=False)
        try:
            with suppress(UsageError):
                if self._leader is not None:
                    self._write([*rows, ("ended", self._clock.now(), "")])
                    self._frames.clear(self._engine.scope, self._session)
        finally:
            self._release()

    def _look_for_followers(self, now: float) -> list[int] | None:
        """Return the seats whose followers have to be admitted; None if the session is not stored any more."""
        engine = self._engine
        self._look_at = now + LEADER_PAUSE
        found = self._frames.followers(engine.scope, self._session)
        if found is None:
            return None
        admitted = [seat for seat, leader in found.items() if leader is None or leader != self._leader]
        look_for_dead = now - self._looked_for_dead_at >= BEAT
        for seat in list(found) if look_for_dead else admitted:
            if self._frames.remove_dead(engine.record.owner, engine.scope, self._session, seat):
                del found[seat]
        if look_for_dead:
            self._looked_for_dead_at = now
        self._record(followed=bool(found))
        return [seat for seat in admitted if seat in found]

    def _record(self, *, followed: bool) -> None:
        """Let sockets record what they receive, if there is a follower."""
        self.followed = self._engine.records_frames = followed
        socket = self._socket
        if socket is not None and (socket.recorded is not None) != followed:
            socket.recorded = [] if followed else None

    def _recorded(self) -> list[tuple[RowKind, float, str]]:
        """Return and remove what the socket has recorded."""
        socket = self._socket
        if socket is None or not socket.recorded:
            return []
        recorded, socket.recorded = socket.recorded, []
        return [("frame", frame.at, frame.text) for frame in recorded]

    def _write(self, contents: list[tuple[RowKind, float, str]], *, admit: Iterable[int] = (), after: int = 0) -> bool:
        if self._leader is None:
            self._leader = self._frames.begin(self._engine.scope, self._session)
            if self._leader is None:
                return False
        rows = []
        for kind, at, body in contents:
            self._number += 1
            rows.append(SharedRow(self._number, at, kind, body))
            self._kept.append((self._number, self._clock.now(), len(body)))
            self._bytes += len(body)
        self._written_at = self._clock.monotonic()
        written = self._frames.write(
            self._engine.scope,
            self._session,
            self._leader,
            rows,
            admit=tuple(admit),
            after=after,
            remove_to=self._remove_to(),
        )
        self._failed = False
        return written

    def _remove_to(self) -> int:
        """Return the number of the last row that is not kept any more, 0 if there is none."""
        removed, old = 0, self._clock.now() - KEPT
        while self._kept and (
            len(self._kept) > MOST_ROWS or (self._bytes > MOST_BYTES and len(self._kept) > 1) or self._kept[0][1] < old
        ):
            removed, _, size = self._kept.popleft()
            self._bytes -= size
        return removed


class _Reader:
    """Reads what the leader publishes, for the follower on a seat.

    `rows` are those that were read and not used yet. A row of the kind `ended` without a number of its own stands where
    the stream is interrupted. `heard_at` is when (monotonic) the last sign of the leader was seen. `gone`: the session
    is not stored any more.
    """

    def __init__(self, engine: SessionEngine, seat: Seat) -> None:
        self._engine = engine
        self._frames = engine.state.shared_frames
        self._seat = seat
        self._leader: int | None = None
        self._number = 0
        self._beat: tuple[int, int] | None = None
        self.rows: deque[SharedRow] = deque()
        self.heard_at = engine.clock.monotonic()
        self.gone = False

    def look(self) -> None:
        """Read the next rows; if there are none, look whether the leader is alive, or another one leads."""
        engine = self._engine
        if self.read_rows():
            self.heard_at = engine.clock.monotonic()
            return
        place = self._frames.place(engine.scope, engine.session, self._seat.number)
        if place is None:
            self._ask_again("the session was forgotten or replaced")
            return
        if place.beat != self._beat:
            self._beat, self.heard_at = place.beat, engine.clock.monotonic()
        if place.leader != self._leader:
            if self._leader is not None:
                self.read_rows()  # the last ones of the former leader
                self.interrupted("another guestctl process has the connection now")
            self._leader, self._number = place.leader, place.after

    def read_rows(self) -> bool:
        """Read the next rows of the leader; return whether there are any."""
        if self._leader is None:
            return False
        found = self._frames.rows(self._engine.scope, self._engine.session, self._leader, self._number)
        for row in found:
            if row.number != self._number + 1:
                self._ask_again(
                    "not all that the service sent was passed on by the guestctl process with the connection"
                )
                return True
            self._number = row.number
            self.rows.append(row)
        return bool(found)

    def interrupted(self, why: str) -> None:
        """Let the stream break after the rows that were read."""
        self.rows.append(SharedRow(self._number, self._engine.clock.now(), "ended", why))

    def _ask_again(self, why: str) -> None:
        """Start again at a point that the leader states."""
        self._leader = None
        self.gone = not self._frames.ask(self._engine.scope, self._engine.session, self._seat.number)
        self.interrupted(why)

    def leave(self) -> None:
        """Give up the seat. If nobody is left, what was published is removed."""
        engine = self._engine
        try:
            with suppress(UsageError):
                self._frames.leave(engine.scope, engine.session, self._seat.number)
                if (release := self._frames.try_lead(engine.record.owner)) is not None:
                    try:
                        self._frames.clear(engine.scope, engine.session)
                    finally:
                        release()
        finally:
            self._seat.release()


class _FollowedFrames:
    """The frames of the leader's socket, as if they came from a connection."""

    def __init__(self, shared: SharedSocket, reader: _Reader, engine: SessionEngine) -> None:
        self._shared = shared
        self._reader = reader
        self._clock = engine.clock
        self._failure: Failure | None = None
        self.ended: tuple[int, str] | None = None
        #: When (epoch seconds) the connection of the leader broke.
        self.broke_at: float | None = None

    @property
    def heard_at(self) -> float:
        return self._reader.heard_at

    def receive(self, timeout: float) -> Frame | None:
        """Return the next frame, or None if none arrives within `timeout` seconds. Raises the failure of the leader.

        The end of the leader is no failure until more is awaited: the caller may end with the same message.
        """
        deadline = Deadline.after(self._clock, timeout)
        while True:
            if not timeout and self._reader.rows and self._reader.rows[0].kind == "ended":
                return None
            if (frame := self._next()) is not None:
                return frame
            self._shared.look(self._reader)
            if self._reader.rows:
                continue
            if deadline.expired:
                return None
            self._clock.sleep(deadline.bound(PAUSE))

    def arrived(self, most: int) -> list[Frame]:
        """Return up to `most` frames that were read together with the last one."""
        rows = self._reader.rows
        frames: list[Frame] = []
        while rows and len(frames) < most and rows[0].kind == "frame":
            row = rows.popleft()
            frames.append(Frame(row.body, row.at))
        return frames

    def _next(self) -> Frame | None:
        """Return the next frame that was read. Raises the failure that came before it."""
        if self._failure is not None:
            raise self._failure
        rows = self._reader.rows
        while rows:
            row = rows.popleft()
            if row.kind == "frame":
                return Frame(row.body, row.at)
            if row.kind == "lost":
                self.broke_at = row.at
                raise self._end(_failure_of(row))
            if row.kind == "ended":
                raise self._end(NetworkError(row.body or "the guestctl process with the connection has ended"))
        return None

    def _end(self, failure: Failure) -> Failure:
        self._failure = failure
        self.ended = self.ended or (1006, failure.message)
        return failure

    def send(self, text: str, *, deadline: Deadline) -> None:
        """Raise NetworkError: another process has the connection."""
        raise NetworkError("nothing can be sent on the connection of another guestctl process")

    def ping(self) -> None:
        """Raise NetworkError: another process has the connection."""
        raise NetworkError("nothing can be sent on the connection of another guestctl process")

    def close(self, code: int = 1000, reason: str = "") -> list[Frame]:
        """Read no more. What was published later belongs to the next socket."""
        self.abort()
        return []

    def abort(self) -> None:
        if self._failure is None:
            self._end(NetworkError("the listener has another connection now"))


class _FollowedSocket(SessionSocket):
    """The leader's socket, as a follower uses it."""

    followed = True

    def keep_alive(self) -> None:
        """Do nothing: the leader keeps the connection alive."""

    @property
    def broke_at(self) -> float | None:
        return self.socket.broke_at if isinstance(self.socket, _FollowedFrames) else None


def _text_of(engine: SessionEngine, failure: Failure) -> str:
    """Return a failure of the leader as JSON, without secrets."""
    values: dict[str, Any] = {
        "kind": type(failure).__name__,
        "message": masked(engine, failure.message),
        "code": failure.code,
        "retry_after": failure.retry_after,
        "http_status": failure.http_status,
    }
    if isinstance(failure, NetworkError):
        values |= {"written": failure.written, "transient": failure.transient, "close_code": failure.close_code}
    return json.dumps(values)


def _failure_of(row: SharedRow) -> Failure:
    """Return the failure of the leader that a row describes."""
    try:
        values = json.loads(row.body)
        kind = _FAILURES.get(values.pop("kind"), NetworkError)
        message = str(values.pop("message"))
        if values["code"] not in NEXT_STEPS:
            values["code"] = None
        return kind(message, **values)
    except (ValueError, KeyError, TypeError, AttributeError):  # written by another version of guestctl
        return NetworkError("the connection of another guestctl process broke", written=True)
