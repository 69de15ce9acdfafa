"""The dialects a sandbox speaks, one module each.

Knows: which faces there are. Must not know: anything about them. The sandbox's own list; the
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
from guestctl.sandbox.settings import SandboxOptions
from guestctl.sandbox.world import Service

APIS = (
    WebMessaging,
    GuestSessions,
    ExternalContacts,
    ConversationGuests,
    MessagingConversations,
    Guests,
    WebmessagingConversations,
)


def build(world: Service, faults: Faults, options: SandboxOptions) -> list[Api]:
    """Every face over one world. Where two serve the same path, the first is asked."""
    return [face(world, faults, options) for face in APIS]
