"""The dialects a sandbox speaks, one module each.

Knows: which apis there are. Must not know: anything about them. The sandbox's own list; the
client's registry is never consulted.
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
    """Every api over one service. Where two serve the same path, the first is asked."""
    return [api(service, faults, options) for api in APIS]
