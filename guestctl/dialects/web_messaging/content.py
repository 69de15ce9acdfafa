"""Rich content of web-messaging messages: options, attachments, and the content of an answer.

Knows: the content items of web-messaging.md §6.4 and the answers of §5.4. Must not know: frames, sessions, terminals,
how a person may name an option (`answers`). Reading is tolerant: an item that cannot be read is skipped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from guestctl.core.model import Attachment, Option, Outgoing, Secret
from guestctl.core.values import Json, objects, text_of
from guestctl.core.wire import count


def read_options(content: Iterable[Json]) -> tuple[Option, ...]:
    """Return all options in these content items, in the order shown."""
    found: list[Option] = []
    for item in content:
        if not isinstance(item, dict):
            continue
        for key, read in _READERS.items():
            inner = item.get(key)
            if isinstance(inner, dict):
                found.extend(read(inner))
    return tuple(found)


def _quick_reply(reply: dict[str, Json]) -> Iterator[Option]:
    text = text_of(reply, "text")
    yield Option(text, text_of(reply, "payload") or text, "QuickReply")


def _quick_replies(group: dict[str, Json]) -> Iterator[Option]:
    for action in objects(group.get("actions")):
        yield from _quick_reply(action)


def _card(card: dict[str, Json]) -> Iterator[Option]:
    """Return a card's actions, then its default action (a click on the card) if that is not one of them."""
    from guestctl.core.rich_content import card_actions

    title = text_of(card, "title") or None
    seen = set()
    default = card.get("defaultAction")
    for action in [*card_actions(card), *objects([default])]:
        text, url = text_of(action, "text") or title or "", text_of(action, "url")
        if text_of(action, "type") == "Link":
            option = Option(text, url, "Link", url=url or None, group=title)
        else:
            option = Option(text, text_of(action, "payload") or text, "Button", group=title)
        if action is not default or (option.kind, option.payload) not in seen:
            seen.add((option.kind, option.payload))
            yield option


def _carousel(carousel: dict[str, Json]) -> Iterator[Option]:
    for card in objects(carousel.get("cards")):
        yield from _card(card)


def date_slots(picker: Mapping[str, Json]) -> Iterator[Option]:
    """Return the fixed times of a date picker. A picker without fixed times accepts any date."""
    for slot in objects(picker.get("availableTimes")):
        when = text_of(slot, "dateTime")
        if when:
            yield Option(when, when, "DatePicker", group=text_of(picker, "title") or None)


def list_items(picker: Mapping[str, Json]) -> Iterator[Option]:
    """Return the items of a list picker, section by section."""
    for section in objects(picker.get("sections")):
        for entry in objects(section.get("items")):
            yield Option(
                text_of(entry, "title"), text_of(entry, "id"), "ListPicker", group=text_of(section, "title") or None
            )


_READERS = {
    "quickReply": _quick_reply,
    "quickReplyV2": _quick_replies,
    "card": _card,
    "carousel": _carousel,
    "datePicker": date_slots,
    "listPicker": list_items,
    "generic": _card,
}


def read_attachments(content: Iterable[Json]) -> tuple[Attachment, ...]:
    """Return the files in these content items."""
    found: list[Attachment] = []
    for item in content:
        inner = item.get("attachment") if isinstance(item, dict) else None
        if not isinstance(inner, dict):
            continue
        url = text_of(inner, "url")
        found.append(
            Attachment(
                id=text_of(inner, "id") or None,
                name=text_of(inner, "filename") or None,
                mime=text_of(inner, "mime") or None,
                size=count(inner.get("fileSize")),
                media_type=text_of(inner, "mediaType") or None,
                url=Secret(url) if url else None,
            )
        )
    return tuple(found)


def write_message(message: Outgoing) -> dict[str, Json]:
    """Return the `message` member of `onMessage` for a guest message (web-messaging.md §5.4)."""
    body: dict[str, Json] = {"type": "Text", "text": message.text}
    if message.form is not None:
        body.update(type="Structured", content=[{"contentType": "Form", "form": dict(message.form)}])
    elif message.picks:
        body.update(_answer(message))
    elif message.attachment_id is not None:
        body["content"] = [{"contentType": "Attachment", "attachment": {"id": message.attachment_id}}]
    metadata = {"customMessageId": message.key}
    if message.picks_from is not None and (message.form is not None or message.picks[0].kind in _PARENTED):
        metadata["parentMessageId"] = message.picks_from
    body["metadata"] = metadata
    if message.attributes:
        body["channel"] = {"metadata": {"customAttributes": dict(message.attributes)}}
    return body


_PARENTED = frozenset({"DatePicker", "ListPicker"})


def _answer(message: Outgoing) -> dict[str, Json]:
    content = []
    for option in message.picks:
        response = {"type": option.kind, "text": option.text, "payload": option.payload}
        if message.picks_from is not None:
            response["originatingMessageId"] = message.picks_from
        content.append({"contentType": "ButtonResponse", "buttonResponse": response})
    answer: dict[str, Json] = {"type": "Structured", "content": content}
    if not message.text:
        answer["text"] = ", ".join(option.text for option in message.picks)
    return answer
