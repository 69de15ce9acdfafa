"""The results of `Client` methods other than messages and sessions.

Knows: the model. Must not know: how a result is produced.
"""

from __future__ import annotations

from collections.abc import Mapping

from guestctl.core.model import Delivery, Gap, Message, Session, Unknown
from guestctl.core.values import Json, immutable


@immutable
class Sent:
    """The outcome of a send.

    `key` is the client key. `message` is the service's copy, None if the service returned none. `reply` is the first
    message of the awaited reply, and `following` has the others. If several files made several messages, this is the
    outcome of the last one, and `earlier` has the messages that were accepted before it.
    """

    key: str
    delivery: Delivery
    text: str = ""
    message: Message | None = None
    reply: Message | None = None
    following: tuple[Message, ...] = ()
    earlier: tuple[Message, ...] = ()


@immutable
class Resumed:
    """A resumed session, and the messages since the last one shown.

    `missed` has an `Unknown` for each entry that cannot be read, and a `Gap` if there were too many messages to read.
    """

    session: Session
    missed: tuple[Message | Unknown | Gap, ...]


@immutable
class Activity:
    """One line of a session's activity log. `at` is in epoch seconds."""

    at: float
    event: str
    details: Mapping[str, Json]


@immutable
class Report:
    """A session's duration in milliseconds and its activity log."""

    session: Session
    duration_ms: int
    log: tuple[Activity, ...]
