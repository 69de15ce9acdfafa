"""The APIs that a sandbox serves, one module each.

Knows: which APIs exist. Must not know: anything about them. This is the sandbox's own list; the client's registry is
never used.
"""

from __future__ import annotations

from guestctl.sandbox.apis.conversation_guests import ConversationGuests
from guestctl.sandbox.apis.external_contacts import ExternalContacts
from guestctl.sandbox.apis.guest_sessions import GuestSessions
from guestctl.sandbox.apis.guests import Guests
from guestctl.sandbox.apis.messaging_conversations import MessagingConversations
from guestctl.sandbox.apis.web_messaging import WebMessaging
from guestctl.sandbox.apis.webmessaging_conversations import WebmessagingConversations
from guestctl.sandbox.faults import Faults
from guestctl.sandbox.interfaces import Api
from guestctl.sandbox.service_state import Service
from guestctl.sandbox.settings import SandboxOptions

APIS = (
    WebMessaging,
    GuestSessions,
    ExternalContacts,
    ConversationGuests,
    MessagingConversations,
    Guests,
    WebmessagingConversations,
)


def build(service: Service, faults: Faults, options: SandboxOptions) -> list[Api]:
    """Return every API over one service. If two APIs have the same path, the first one serves it."""
    return [api(service, faults, options) for api in APIS]
