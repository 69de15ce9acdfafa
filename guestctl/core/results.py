"""What the verbs of `Client` return besides messages and sessions.

Knows: the model. Must not know: how any of it came about.
"""

from __future__ import annotations

from collections.abc import Mapping

from guestctl.core.model import Delivery, Message, Session
from guestctl.core.values import Json, immutable


@immutable
class Sent:
    """What became of a send. `message` is the service's copy, None when there is none; `earlier`: those
    accepted before it, when several files made several messages."""

    key: str
    delivery: Delivery
    text: str = ""
    message: Message | None = None
    reply: Message | None = None
    earlier: tuple[Message, ...] = ()


@immutable
class Resumed:
    """A re-attached session and what was said since the last line seen."""

    session: Session
    missed: tuple[Message, ...]


@immutable
class Activity:
    """One line of a session's activity log; `at` in epoch seconds."""

    at: float
    event: str
    details: Mapping[str, Json]


@immutable
class Report:
    """A session's duration in milliseconds and its activity log."""

    session: Session
    duration_ms: int
    log: tuple[Activity, ...]
