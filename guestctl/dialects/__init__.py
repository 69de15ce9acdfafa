"""The registry of dialects: it maps an API's name to its class, which is imported on first use.

Knows: the names and the module of each class. Must not know: anything else about an API.
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
    """Return the dialect class of an API. Raises UsageError for an unknown name."""
    try:
        module, _, attribute = _MODULES[name].partition(":")
    except KeyError:
        hint = f"available APIs: {', '.join(NAMES)}"
        raise UsageError(f'unknown API "{name}"', code="config.profile", hint=hint) from None
    return cast("type[Dialect]", getattr(import_module(f"guestctl.dialects.{module}"), attribute))
