"""The registry: API name -> dialect class, loaded when first asked for. The only list of dialects.

Knows: the names and where each lives. Must not know: anything about any of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import cast

from guestctl.core.errors import UsageError
from guestctl.dialects.base import Dialect

_MODULES = {
    "web-messaging": "web_messaging.dialect:WebMessaging",
    "guest-sessions": "guest_sessions:GuestSessions",
    "external-contacts": "external_contacts:ExternalContacts",
    "conversation-guests": "conversation_guests:ConversationGuests",
    "messaging-conversations": "messaging_conversations:MessagingConversations",
    "guests": "guests:Guests",
    "webmessaging-conversations": "webmessaging_conversations:WebmessagingConversations",
}

NAMES: tuple[str, ...] = tuple(_MODULES)
DEFAULT = NAMES[0]


def dialect_class(name: str) -> type[Dialect]:
    """The class of one API family. Raises UsageError naming the valid ones."""
    try:
        module, _, attribute = _MODULES[name].partition(":")
    except KeyError:
        raise UsageError(f"unknown api {name!r}; it is one of {', '.join(NAMES)}", code="config.profile") from None
    return cast("type[Dialect]", getattr(import_module(f"guestctl.dialects.{module}"), attribute))
