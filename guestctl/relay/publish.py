"""Appends every event of a relay to a Redis stream: each once, in order, and under its own id.

Knows: the client for Redis (`guestctl[redis]`, imported only here), streams and their ids. Must not know: HTTP, the
upstream, argv.

A publisher is one more reader of the hub, in a thread of its own, so neither the upstream nor other readers wait for
Redis. It stores no position: the newest id of the stream is the position. It is asked for on every new connection, so
whatever was lost on the way or by Redis itself is read from the log and appended again. Redis refuses an id that is not
greater than the newest one, so nothing stands in the stream twice.
"""

from __future__ import annotations

import re
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any
from urllib.parse import unquote, urlsplit

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from guestctl.core.errors import UsageError
from guestctl.core.model import Secret
from guestctl.core.values import immutable
from guestctl.output.records import EVENT_KINDS
from guestctl.relay.hub import Hub, Subscription
from guestctl.relay.log import LogEntry

#: The port of Redis.
PORT = 6379
#: Seconds that a connection, and an answer of Redis, may take.
PATIENCE = 5.0
#: Seconds between two attempts: the first pause and the longest one.
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 5.0
#: Seconds without an event after which the connection is tested.
QUIET = 5.0
#: The environment variable with the password.
PASSWORD = "GUESTCTL_REDIS_PASSWORD"
_HINT = "give redis://HOST[:PORT]/STREAM, or rediss:// for TLS"
_STREAM_ID = re.compile(r"([0-9]+)-([0-9]+)")


@immutable
class RedisStream:
    """The stream to which events are appended. `user` is None for the default user."""

    host: str
    port: int
    tls: bool
    user: str | None
    name: str
    password: Secret | None = None

    @classmethod
    def read(cls, address: str, environ: Mapping[str, str], session: str, *, only: bool) -> RedisStream:
        """Return the stream of a session for `redis://[USER@]HOST[:PORT]/STREAM`.

        `{session}` in STREAM stands for the name of the session. It is required unless this is the `only` session.
        Raises UsageError.
        """
        parts = urlsplit(address)
        try:
            port = parts.port
        except ValueError:
            port = 0
        stream = unquote(parts.path[1:])
        if parts.scheme not in ("redis", "rediss") or not parts.hostname or port == 0 or parts.query or parts.fragment:
            raise UsageError(f'--publish: "{_without_password(address)}" is not an address of Redis', hint=_HINT)
        if not stream or "/" in stream:
            raise UsageError("--publish: the address names no stream", hint=_HINT)
        if parts.password is not None:
            raise UsageError(
                "--publish: the address contains a password, which other users can see",
                hint=f"set {PASSWORD} instead",
            )
        if not only and "{session}" not in stream:
            raise UsageError(
                "--publish: several sessions cannot share one stream",
                hint="put {session} into the name: redis://HOST/chat-{session}",
            )
        password = environ.get(PASSWORD)
        return cls(
            parts.hostname,
            port or PORT,
            parts.scheme == "rediss",
            None if parts.username is None else unquote(parts.username),
            stream.replace("{session}", session),
            Secret(password) if password else None,
        )

    @property
    def place(self) -> str:
        """The place of the server, for messages."""
        return f"{self.host}:{self.port}"


class StreamAhead(Exception):
    """The stream has entries that the log does not have, so no event can follow them."""


class Publisher:
    """Appends the events of one session to its stream.

    `retain` is about how many entries the stream has, at least. `notice` is called with each change that an operator
    should know. Raises UsageError if the client for Redis is not installed.
    """

    def __init__(self, hub: Hub, stream: RedisStream, *, retain: int, notice: Callable[[str], None]) -> None:
        #: `connecting`, `up`, `down` (Redis does not answer, or refuses) or `refused` (see `StreamAhead`).
        self.state = "connecting"
        #: The number of entries appended by this process.
        self.appended = 0
        #: The number of the newest event that is in the stream, None while it is unknown.
        self.position: int | None = None
        self._hub = hub
        self._stream = stream
        self._retain = retain
        self._notice = notice
        self._redis = _client()
        self._stopping = threading.Event()
        self._reader: Subscription | None = None
        self._failure = ""
        self._thread = threading.Thread(target=self._run, name=f"publish {hub.session}", daemon=True)

    @property
    def session(self) -> str:
        return self._hub.session

    @property
    def lag(self) -> int:
        """The number of events of the log that are not in the stream yet, as far as known."""
        return self._hub.log.last - (self.position or 0)

    def start(self) -> None:
        """Start to append. Returns at once."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Append what the log has, within some seconds, and stop. Call it after the hub has ended."""
        if not self._thread.is_alive():
            return
        if self.state != "up":
            self._stopping.set()
        self._thread.join(seconds)
        self._stopping.set()
        if (reader := self._reader) is not None:
            reader.wake()
        self._thread.join(seconds)

    # --- in the thread ---

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while not self._stopping.is_set():
            before = self.appended
            try:
                self._publish()
                return  # the stream of events has ended
            except StreamAhead as ahead:
                self.state = "refused"
                self._notice(f"{ahead}; nothing more is published")
                return
            except (self._redis.RedisError, OSError) as error:
                self._failed(error)
            except UsageError as failure:  # the log cannot be read
                self._notice(f"publishing to Redis at {self._stream.place} ends: {failure.message}")
                self.state = "down"
                return
            pause = FIRST_PAUSE if self.appended > before else min(2 * pause, LONGEST_PAUSE)
            self._stopping.wait(pause)

    def _failed(self, error: Exception) -> None:
        self.state = "down"
        reason = _reason(error)
        if self._stream.password is not None:
            reason = reason.replace(self._stream.password.reveal(), "***")
        if not self._failure:
            self._notice(f"cannot publish to Redis at {self._stream.place}: {reason}; the log has the events")
        self._failure = reason

    def _publish(self) -> None:
        """Append events over one connection until the events end. Raises the errors of Redis, and StreamAhead."""
        with closing(self._connected()) as redis, closing(self._subscribed(redis)) as reader:
            while not self._stopping.is_set():
                entries = reader.take()
                reader.ready()  # this reader never counts as slow: it reads older events from the log
                if reader.ended is not None:
                    return
                for entry in entries:
                    if self._stopping.is_set():
                        return
                    self._append(redis, entry)
                if not entries:
                    self._caught_up()
                    if not reader.wait(QUIET):
                        redis.ping()

    def _caught_up(self) -> None:
        self.position = self._hub.log.last if self._reader is None else self._reader.position
        self.state = "up"
        if self._failure:
            self._failure = ""
            self._notice(f"Redis at {self._stream.place} has all events again")

    def _append(self, redis: Any, entry: LogEntry) -> None:
        # A gap whose end is unknown comes before the first event of this log.
        id_ = f"{self._hub.log.epoch}-0" if entry.id is None else str(entry.id)
        fields = {b"kind": entry.kind.encode(), b"record": entry.body}
        # One command at a time: of several, Redis could refuse the first and accept the second.
        redis.xadd(self._stream.name, fields, id=id_, maxlen=self._retain, approximate=True)
        self.appended += 1
        self.position = 0 if entry.id is None else entry.id.number

    def _subscribed(self, redis: Any) -> Subscription:
        """Return a reader that continues after the newest entry of the stream."""
        log, newest = self._hub.log, self._newest(redis)
        after = f"{log.epoch}-0"
        if newest is not None:
            epoch, number = newest
            if (epoch, number) > (int(log.epoch), log.last):
                raise StreamAhead(
                    f'the stream "{self._stream.name}" of Redis at {self._stream.place} ends with the id '
                    f"{epoch}-{number}, which comes after {log.id(log.last)}, the newest one of this relay's log"
                )
            after = f"{epoch}-{number}"
        self._reader = self._hub.subscribe(after, frozenset(EVENT_KINDS), protocol="redis", tolerant=True)
        return self._reader

    def _newest(self, redis: Any) -> tuple[int, int] | None:
        """Return the greatest id that the stream ever had, also of a deleted entry; None without a stream."""
        if not redis.exists(self._stream.name):
            return None
        found = _STREAM_ID.fullmatch(_text(redis.xinfo_stream(self._stream.name)["last-generated-id"]))
        assert found is not None
        return int(found[1]), int(found[2])

    def _connected(self) -> Any:
        """Return a client with one connection. If it breaks, the client fails instead of opening another one.

        The client's own repetition would continue after entries that a restarted Redis has lost.
        """
        opened: list[object] = []

        def once(connection: Any) -> None:
            if opened:
                raise self._redis.ConnectionError("the connection broke")
            opened.append(connection)
            connection.on_connect()

        from redis.backoff import NoBackoff
        from redis.retry import Retry

        stream = self._stream
        return self._redis.Redis(
            host=stream.host,
            port=stream.port,
            username=stream.user,
            password=None if stream.password is None else stream.password.reveal(),
            ssl=stream.tls,
            protocol=2,
            socket_timeout=PATIENCE,
            socket_connect_timeout=PATIENCE,
            single_connection_client=True,
            retry=Retry(NoBackoff(), 0),
            redis_connect_func=once,
        )


class PublisherMetrics:
    """The metrics of publishers, a collector for `Metrics.registry`."""

    def __init__(self, publishers: Sequence[Publisher]) -> None:
        self._publishers = publishers

    def collect(self) -> Iterator[Any]:
        """Yield the metrics with their present values."""
        up = GaugeMetricFamily("guestctl_relay_publish_up", "Whether Redis has all events.", labels=["session"])
        lag = GaugeMetricFamily(
            "guestctl_relay_publish_lag_events", "Events that are not in the Redis stream yet.", labels=["session"]
        )
        appended = CounterMetricFamily(
            "guestctl_relay_published", "Entries appended to the Redis stream.", labels=["session"]
        )
        for one in self._publishers:
            up.add_metric([one.session], one.state == "up")
            lag.add_metric([one.session], one.lag)
            appended.add_metric([one.session], one.appended)
        yield from (up, lag, appended)


def _client() -> Any:
    try:
        import redis
    except ImportError:
        raise UsageError(
            "--publish needs the client for Redis, which is not installed",
            hint="install it: `pip install 'guestctl[redis]'`",
        ) from None
    return redis


def _reason(error: BaseException) -> str:
    """Return why Redis cannot be used, in one line."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted ({cause.verify_message}); SSL_CERT_FILE names a file of authorities"
        cause = cause.__cause__ or cause.__context__
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _without_password(address: str) -> str:
    return re.sub(r"//([^/@:]*):[^/@]*@", r"//\1:***@", address)
