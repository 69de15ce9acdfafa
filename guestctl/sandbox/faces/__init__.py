"""The dialects a sandbox speaks, one module each.

Knows: which faces there are. Must not know: anything about them. The sandbox's own list; the
client's registry is never consulted.
"""

from __future__ import annotations

from guestctl.sandbox.faces.conversation_guests import ConversationGuests
from guestctl.sandbox.faces.external_contacts import ExternalContacts
from guestctl.sandbox.faces.guest_sessions import GuestSessions
from guestctl.sandbox.faces.guests import Guests
from guestctl.sandbox.faces.messaging_conversations import MessagingConversations
from guestctl.sandbox.faces.web_messaging import WebMessaging
from guestctl.sandbox.faces.webmessaging_conversations import WebmessagingConversations
from guestctl.sandbox.faults import Faults
from guestctl.sandbox.options import SandboxOptions
from guestctl.sandbox.surface import Face
from guestctl.sandbox.world import World

FACES = (
    WebMessaging,
    GuestSessions,
    ExternalContacts,
    ConversationGuests,
    MessagingConversations,
    Guests,
    WebmessagingConversations,
)


def build(world: World, faults: Faults, options: SandboxOptions) -> list[Face]:
    """Every face over one world. Where two serve the same path, the first is asked."""
    return [face(world, faults, options) for face in FACES]
