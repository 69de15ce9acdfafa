"""Custom attributes: how large they may be, and which message carries those of a new session.

Knows: web-messaging.md §5.4 and §9. Must not know: frames other than by the attributes they carry.

No frame that opens a session has a field for attributes. The session therefore notes them as pending, and its
first guest message, or its Presence Join, carries them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from guestctl.core.errors import Refused
from guestctl.core.model import NewSession, Outgoing, Session
from guestctl.core.wire import utf8

#: `maxCustomDataBytes` if the service has not sent its own limit (§9).
DEFAULT_LIMIT = 2048

#: The note of a session that has attributes which no message has carried yet.
_PENDING = "pending_attributes"
#: The note of a session that began with a Presence Join (§5.4).
_JOINED = "joined"


def begin_with(new: NewSession, session: Session) -> Session:
    """Return the session as newly opened: without notes, except for pending attributes (§5.4, §10.11)."""
    return replace(session, notes={_PENDING: dict(new.attributes)} if new.attributes else {})


def pending(session: Session) -> dict[str, str]:
    """Return the attributes of the session that no message has carried yet."""
    found = session.notes.get(_PENDING)
    return dict(found) if isinstance(found, dict) else {}


def carried_by(session: Session, message: Outgoing) -> dict[str, str]:
    """Return the attributes to send with the message: the session's pending ones and the message's own."""
    return {**pending(session), **message.attributes}


def without_pending(session: Session) -> Session:
    """Return the session after a message or a Presence Join has carried its attributes."""
    if _PENDING not in session.notes:
        return session
    return replace(session, notes={key: value for key, value in session.notes.items() if key != _PENDING})


def joined(session: Session) -> Session:
    """Return the session after its Presence Join."""
    begun = without_pending(session)
    return replace(begun, notes={**begun.notes, _JOINED: True})


def has_joined(session: Session) -> bool:
    """Return whether the session began with a Presence Join."""
    return _JOINED in session.notes


def check_size(session: Session, attributes: Mapping[str, str]) -> None:
    """Raise Refused for attributes that exceed the service's limit. Keys and values count, in bytes of UTF-8."""
    limit = session.limits.attribute_bytes or DEFAULT_LIMIT
    size = sum(len(utf8(key)) + len(utf8(value)) for key, value in attributes.items())
    if size > limit:
        raise Refused(
            f"attributes take {size} bytes, the limit is {limit}",
            code="service.attributes",
            api=session.api,
            service_code=4013,
        )
