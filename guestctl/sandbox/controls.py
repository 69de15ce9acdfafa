"""Controls of a running sandbox: answering as the agent, and arming faults.

Knows: what an agent and a tester can do, and how that is reported. Must not know: who asks, HTTP, the wire of any API.
Every method must be called in the sandbox's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from guestctl.sandbox.bot.bots import choices
from guestctl.sandbox.fault_switches import FaultSwitches
from guestctl.sandbox.service_state import AgentFiles, Conversation

if TYPE_CHECKING:
    from guestctl.sandbox.server import Sandbox

TYPING = 5000  # milliseconds that the guest sees the agent as typing
TEXT_ONLY = "{api} has messages with text only"


class SandboxControls(FaultSwitches):
    """What a person can do to a sandbox besides being its guest. `refused` makes the exception with a reason."""

    can = ("agent", "faults", "guest")

    def __init__(self, sandbox: Sandbox, refused: Callable[[str], Exception] = ValueError) -> None:
        super().__init__(lambda: sandbox.faults, refused)
        self._sandbox = sandbox

    @property
    def guest(self) -> dict[str, str]:
        """The address of the socket and the deployment, for a guest of `web-messaging`."""
        return {"socket_url": self._sandbox.socket_url, "deployment_id": self._sandbox.deployment_id}

    def sessions(self) -> dict[str, dict[str, Any]]:
        """Return `api`, `state`, `sockets`, `messages`, `requests` and `started` of every session, by its id."""
        return {id: found.summary() for id, found in self._sandbox.service.conversations.items()}

    def send_text(self, session: str, text: str) -> None:
        """Send a text as the agent."""
        self._sandbox.service.send(self._live(session), text, role="agent")

    def send_content(self, session: str, text: str | None, content: Sequence[Mapping[str, Any]]) -> None:
        """Send content items as the agent, such as quick replies and cards (web-messaging.md §6.4)."""
        conversation = self._live(session)
        self._files(conversation)
        for item in content:
            kind = item.get("contentType")
            if not isinstance(kind, str) or not isinstance(item.get(kind[:1].lower() + kind[1:]), Mapping):
                raise self._refused("each item has a contentType, and a member of that name")
        try:
            choices(content)
        except (AttributeError, TypeError, KeyError):
            raise self._refused("an item has not the documented members") from None
        self._sandbox.service.send(conversation, text, role="agent", content=content)

    def send_file(self, session: str, name: str, content_type: str, content: bytes) -> None:
        """Send a file as the agent. The guest gets an address to download it from."""
        conversation = self._live(session)
        item = self._files(conversation).offer(conversation, name, content_type, content)
        self._sandbox.service.send(conversation, None, role="agent", content=[item])

    def show_typing(self, session: str) -> None:
        """Show the agent as typing, on APIs that have such a frame."""
        conversation = self._live(session)
        self._sandbox.service.apis[conversation.api].typing(conversation, "agent", None, TYPING)

    def end(self, session: str) -> None:
        """End the conversation as the agent."""
        conversation = self._live(session)
        self._sandbox.service.apis[conversation.api].ended(conversation, "agent")

    def _live(self, session: str) -> Conversation:
        found = self._sandbox.service.conversations.get(session)
        if found is None:
            raise self._refused("there is no session with this id")
        if not self._sandbox.service.live(found):
            raise self._refused(f"the conversation has ended ({found.state})")
        return found

    def _files(self, conversation: Conversation) -> AgentFiles:
        files = self._sandbox.service.apis[conversation.api].agent_files
        if files is None:
            raise self._refused(TEXT_ONLY.format(api=conversation.api))
        return files
