"""Messages and events of web-messaging, in both directions.

Knows: §5.4, §5.5, §6 and §11 of web-messaging.md. Must not know: how a session is configured, REST, the server library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from guestctl.core.clock import epoch_of, rfc3339
from guestctl.sandbox.apis.web_messaging.files import FileStore
from guestctl.sandbox.apis.web_messaging.frames import (
    FEATURE_OFF,
    SIGN_IN_AGAIN,
    Frame,
    GuestError,
    body_of,
    button,
    custom_attributes,
    envelope,
    form,
    label,
    media_type,
    part,
    string_map,
)
from guestctl.sandbox.apis.web_messaging.session_state import SessionRegistry, WebMessagingSocket
from guestctl.sandbox.bot.bots import payload_of, wrong_answers
from guestctl.sandbox.interfaces import decode
from guestctl.sandbox.service_state import (
    Conversation,
    Item,
    Role,
    Service,
    StoredMessage,
    attributes_size,
)


class MessageExchange:
    """Accepts the messages of guests and sends those of bot, agent and system."""

    def __init__(
        self, service: Service, files: FileStore, sessions: SessionRegistry, *, deduplicates: bool = False
    ) -> None:
        self._service = service
        self._files = files
        self._sessions = sessions
        self._deduplicates = deduplicates

    def on_message(self, socket: WebMessagingSocket, frame: Frame, tracing: str | None) -> None:
        """Handle `onMessage`: a message or an event of the guest (§5.4, §5.5). Raises GuestError."""
        conversation = self._sessions.require(socket, frame, tracing)
        service = self._service
        if not service.fast and not self._sessions.token_state(socket.deployment, socket.token).messages.take():
            socket.rate_limited("Message rate too high for this session", tracing, "send")
            return
        message = frame.get("message")
        if not isinstance(message, dict):
            raise GuestError(4020, "message is missing")
        kind = message.get("type")
        if kind == "Event" or (kind is None and message.get("events")):
            self._event(socket, conversation, frame, message, tracing)
            return
        if kind not in (None, "Text", "Structured"):
            raise GuestError(400, f'message.type "{str(kind)[:40]}" is not one a guest may send')
        self.require_writable(conversation)
        text = message.get("text")
        content = message.get("content", [])
        if not isinstance(text, (str, type(None))) or not isinstance(content, list):
            raise GuestError(400, "message.text is not a string or message.content not a list")
        if not content and not (text and text.strip()):
            raise GuestError(400, "message has no text, no content and no events")
        if text and len(text) > conversation.deployment.text_limit:
            raise GuestError(4011, f"Message is longer than {conversation.deployment.text_limit} characters")
        metadata = self.metadata(conversation, string_map(message.get("metadata"), "message.metadata"))
        if self._answer_repeat(socket, conversation, metadata.get("customMessageId"), tracing):
            return
        attributes = self._attributes(conversation, frame, message)
        stored = [self._content_item(conversation, item) for item in content]
        files = [item["attachment"]["id"] for item in stored if item["contentType"] == "Attachment"]
        if len(files) > 1:
            raise GuestError(400, "At most one attachment in a message")
        self._accept(conversation, attributes, files)
        answers = payload_of(stored) if stored else None
        if answers is not None:
            self._check_answers(conversation, stored)
        service.receive(
            conversation,
            text or None,
            key=metadata.get("customMessageId") or tracing,
            kind="structured" if kind == "Structured" else "text",
            content=stored,
            metadata=metadata,
            attributes=attributes,
            payload=answers,
            prompt=None if text else label(stored),
            cause=(tracing, socket.peer.request.base),
        )

    def _answer_repeat(
        self, socket: WebMessagingSocket, conversation: Conversation, key: str | None, tracing: str | None
    ) -> bool:
        """Answer a message whose client key is already stored with the first message; return whether it was one.

        Only a sandbox with `--deduplicates yes` does so: no source states that the service does.
        """
        first = conversation.by_key.get(key) if self._deduplicates and key is not None else None
        if first is None:
            return False
        body = self.body(conversation, first, socket.peer.request.base)
        socket.reply("StructuredMessage", body, tracing, type="message", route="send")
        return True

    def require_writable(self, conversation: Conversation) -> None:
        """Raise GuestError if the guest may not send in this conversation."""
        if conversation.state == "read-only":
            raise GuestError(409, "Session is read-only, no new messages allowed")
        deployment = conversation.deployment
        if deployment.sign_in and not deployment.session_upgrade and "person" not in conversation.notes:
            raise GuestError(403, SIGN_IN_AGAIN)

    def metadata(self, conversation: Conversation, given: Mapping[str, str]) -> Mapping[str, str]:
        """Return the metadata of a message, marked when the guest has signed in."""
        return {**given, "authenticated": "true"} if "person" in conversation.notes else given

    def _attributes(self, conversation: Conversation, frame: Frame, message: Frame) -> Mapping[str, str]:
        """Return the custom attributes of both places. The legacy place is reported, and ignored when strict."""
        inner, legacy = custom_attributes(message), custom_attributes(frame)
        if legacy:
            self.complain(conversation, "customAttributes in the deprecated place (channel next to message)")
        attributes = inner if conversation.deployment.strict_attributes else {**legacy, **inner}
        limit = conversation.deployment.attributes_limit
        if attributes_size(attributes) > limit:
            raise GuestError(4013, f"Custom Attributes in channel metadata is larger than {limit} bytes")
        return attributes

    def _accept(self, conversation: Conversation, attributes: Mapping[str, str], files: Sequence[str] = ()) -> None:
        """Perform the side effects of a message. Call it last: afterwards nothing may refuse the message."""
        conversation.attributes.update(attributes)
        for identifier in files:
            self._files.send(conversation, identifier)

    def _content_item(self, conversation: Conversation, item: Any) -> dict[str, Any]:
        kind = item.get("contentType") if isinstance(item, dict) else None
        if kind == "ButtonResponse":
            return {"contentType": kind, "buttonResponse": button(item.get("buttonResponse"))}
        if kind == "Form":
            return {"contentType": kind, "form": form(item.get("form"))}
        if kind == "Attachment":
            body = item.get("attachment")
            attachment = self._files.usable(conversation, body.get("id") if isinstance(body, dict) else None)
            return {
                "contentType": kind,
                "attachment": {
                    "id": attachment.id,
                    "filename": attachment.name,
                    "fileSize": attachment.size,
                    "mediaType": media_type(attachment.type),
                    "mime": attachment.type,
                },
            }
        raise GuestError(400, f'content item "{str(kind)[:40]}" is not one a guest may send')

    def _check_answers(self, conversation: Conversation, content: Sequence[Item]) -> None:
        offered = [(m.id, m.content) for m in conversation.messages[-200:] if m.content and m.direction == "outbound"]
        for problem in wrong_answers(content, offered):
            self.complain(conversation, problem)

    def complain(self, conversation: Conversation, text: str) -> None:
        """Add a mistake of this client, or a deprecated form, to the report of its session."""
        self._service.complain(conversation, text)

    def _event(
        self, socket: WebMessagingSocket, conversation: Conversation, frame: Frame, message: Frame, tracing: str | None
    ) -> None:
        events = message.get("events")
        if not isinstance(events, list) or len(events) != 1 or not isinstance(events[0], dict):
            raise GuestError(400, "message.events is not a list of one event")
        event = events[0]
        if event.get("eventType") == "Typing":
            if not conversation.deployment.typing:
                raise GuestError(403, FEATURE_OFF)
            self.require_writable(conversation)
            if part(event, "typing").get("type") not in ("On", "Off"):
                raise GuestError(400, "typing.type is neither On nor Off")
            return
        if event.get("eventType") != "Presence":
            raise GuestError(403, FEATURE_OFF)
        presence = part(event, "presence").get("type")
        given = self.metadata(conversation, string_map(message.get("metadata"), "message.metadata"))
        cause = (tracing, socket.peer.request.base)
        if presence == "Clear":
            if not conversation.deployment.clear:
                raise GuestError(403, "Presence events Conversation Clear are not supported")
            self.presence(conversation, "guest", "Clear", metadata=given, key=tracing, cause=cause)
            self._clear(conversation)
        elif presence == "Join":
            self.require_writable(conversation)
            attributes = self._attributes(conversation, frame, message)
            self._accept(conversation, attributes)
            self.presence(
                conversation, "guest", "Join", metadata=given, attributes=attributes, key=tracing, cause=cause
            )
            if not conversation.notes.get("joined"):
                conversation.notes["joined"] = True
                self._service.save(conversation)
                self._service.greet(conversation)
        elif presence == "Disconnect":
            self.require_writable(conversation)
            self.presence(conversation, "guest", "Disconnect", metadata=given, key=tracing, cause=cause)
            self.ended(conversation, "system")
        else:
            raise GuestError(400, f'presence "{str(presence)[:40]}" is not one a guest may send')

    def presence(
        self, conversation: Conversation, role: Role, type: str, *, metadata: Mapping[str, str] | None = None,
        attributes: Mapping[str, str] | None = None, name: str | None = None, key: str | None = None, cause: Any = None,
    ) -> None:  # fmt: skip
        events = [{"eventType": "Presence", "presence": {"type": type}}]
        self._service.append(
            conversation,
            role,
            "event",
            events=events,
            metadata=metadata,
            attributes=attributes,
            name=name,
            key=key,
            cause=cause,
        )

    def _clear(self, conversation: Conversation) -> None:
        self._service.close(conversation, "cleared")
        self._service.tokens.revoke(*[g for g in self._service.tokens.of(conversation.id) if g.kind == "history"])
        conversation.broadcast(envelope("SessionClearedEvent", {}, type="message"))
        self._sessions.close_others(None, conversation)

    # -- what the service reports (see service_state.ApiCallbacks)

    def message_stored(self, conversation: Conversation, message: StoredMessage, cause: Any) -> None:
        if not conversation.observers:
            return
        # Without a request that caused it, the addresses of files are those that the oldest socket uses.
        tracing, base = cause or (None, conversation.observers[0].request.base)
        body = self.body(conversation, message, base)
        conversation.broadcast(
            envelope("StructuredMessage", body, tracing, type="message"),
            "send" if message.direction == "inbound" else None,
        )

    def typing(self, conversation: Conversation, role: Role, name: str | None, millis: int) -> None:
        event = {"eventType": "Typing", "typing": {"type": "On", "duration": millis}}
        stamp = self._service.next_millis(conversation)
        transient = StoredMessage(
            self._service.new_id(), 0, stamp, rfc3339(stamp / 1000), "outbound", role, "event", name, events=(event,)
        )
        frame = envelope("StructuredMessage", self.body(conversation, transient, ""), type="message")
        conversation.broadcast(frame, "typing")

    def ended(self, conversation: Conversation, role: Role) -> None:
        if conversation.state != "active":
            return
        policy = conversation.deployment.disconnect
        if policy == "ReadOnly":
            self._service.close(conversation, "read-only")
        else:  # the guest may send again, in a new conversation under the same session (§10.6)
            self._service.reset_bot(conversation)
        if policy != "off":
            metadata = {"readOnly": "true"} if policy == "ReadOnly" else {}
            self.presence(conversation, role, "Disconnect", metadata=self.metadata(conversation, metadata))

    def expired(self, conversation: Conversation) -> None:
        conversation.broadcast(envelope("SessionExpiredEvent", {}, type="message"))

    def pushed(self, conversation: Conversation, frame: str) -> None:
        """Send a frame as it is. An outbound message in it is also stored, once (§11.5).

        A message without a time gets the current one.
        """
        try:
            pushed = decode(frame)
        except ValueError:
            pushed = None  # tests push broken frames on purpose
        body = pushed.get("body") if isinstance(pushed, dict) else None
        if _is_storable(body):
            assert isinstance(body, dict)
            heading = body.get("channel", {})
            if body["id"] not in conversation.positions:
                self._service.send(
                    conversation,
                    body.get("text"),
                    role="bot" if body.get("originatingEntity") == "Bot" else "agent",
                    name=heading.get("from", {}).get("nickname"),
                    content=body.get("content", ()),
                    message_id=body["id"],
                    metadata=body.get("metadata"),
                    time=heading.get("time"),
                    notify=False,
                )
        conversation.broadcast(frame)

    def body(self, conversation: Conversation, message: StoredMessage, base: str) -> dict[str, Any]:
        return body_of(message, lambda item: self._files.shown(conversation, item, base))


def _is_storable(body: Any) -> bool:
    """Return whether the body of a pushed frame is an outbound message that history can show."""
    if (
        not isinstance(body, dict)
        or body.get("direction") != "Outbound"
        or body.get("type") not in ("Text", "Structured")
    ):
        return False
    content, metadata, heading = body.get("content", []), body.get("metadata", {}), body.get("channel", {})
    sender = heading.get("from", {}) if isinstance(heading, dict) else None
    return (
        isinstance(body.get("id"), str)
        and isinstance(body.get("text", ""), str)
        and isinstance(sender, dict)
        and isinstance(sender.get("nickname", ""), str)
        and ("time" not in heading or _is_time(heading["time"]))
        and isinstance(metadata, dict)
        and all(isinstance(value, str) for value in metadata.values())
        and isinstance(content, list)
        and all(isinstance(item, dict) and isinstance(item.get("contentType"), str) for item in content)
        and all(isinstance(item.get("attachment", {}), dict) for item in content)
    )


def _is_time(value: Any) -> bool:
    try:
        return isinstance(value, str) and epoch_of(value) > 0
    except (ValueError, OverflowError):
        return False
