"""Rich content of `web-messaging` messages, both ways: what can be picked, what is attached, how to answer.

Knows: the content items of web-messaging-v1.md §6.4 and the answers of §5.4. Must not know: frames,
sessions, terminals. Reading is tolerant: an item it cannot read contributes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from guestctl.errors import UsageError
from guestctl.model import Attachment, Json, Message, Option, Outgoing, Secret
from guestctl.values import immutable


def _objects(value: Json) -> Iterator[dict[str, Json]]:
    if isinstance(value, list):
        yield from (item for item in value if isinstance(item, dict))


def _text(source: Mapping[str, Json], key: str) -> str:
    value = source.get(key)
    return value if isinstance(value, str) else ""


def read_options(content: Iterable[Json]) -> tuple[Option, ...]:
    """Everything a guest can pick in these content items, in the order shown."""
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
    text = _text(reply, "text")
    yield Option(text, _text(reply, "payload") or text, "QuickReply")


def _quick_replies(group: dict[str, Json]) -> Iterator[Option]:
    for action in _objects(group.get("actions")):
        yield from _quick_reply(action)


def _card(card: dict[str, Json]) -> Iterator[Option]:
    title = _text(card, "title") or None
    for action in _objects(card.get("actions")):
        text = _text(action, "text")
        if _text(action, "type") == "Link":
            yield Option(text, _text(action, "url"), "Link", url=_text(action, "url") or None, group=title)
        else:
            yield Option(text, _text(action, "payload") or text, "Button", group=title)


def _carousel(carousel: dict[str, Json]) -> Iterator[Option]:
    for card in _objects(carousel.get("cards")):
        yield from _card(card)


def _date_picker(picker: dict[str, Json]) -> Iterator[Option]:
    for slot in _objects(picker.get("availableTimes")):
        when = _text(slot, "dateTime")
        if when:
            yield Option(when, when, "DatePicker", group=_text(picker, "title") or None)


def _list_picker(picker: dict[str, Json]) -> Iterator[Option]:
    for section in _objects(picker.get("sections")):
        for entry in _objects(section.get("items")):
            yield Option(_text(entry, "title"), _text(entry, "id"), "ListPicker", group=_text(section, "title") or None)


_READERS = {
    "quickReply": _quick_reply,
    "quickReplyV2": _quick_replies,
    "card": _card,
    "carousel": _carousel,
    "datePicker": _date_picker,
    "listPicker": _list_picker,
    "generic": _card,
}


def read_attachments(content: Iterable[Json]) -> tuple[Attachment, ...]:
    """The files in these content items."""
    found: list[Attachment] = []
    for item in content:
        inner = item.get("attachment") if isinstance(item, dict) else None
        if not isinstance(inner, dict):
            continue
        size = inner.get("fileSize")
        url = _text(inner, "url")
        found.append(
            Attachment(
                id=_text(inner, "id") or None,
                name=_text(inner, "filename") or None,
                mime=_text(inner, "mime") or None,
                size=size if isinstance(size, int) and not isinstance(size, bool) else None,
                media_type=_text(inner, "mediaType") or None,
                url=Secret(url) if url else None,
            )
        )
    return tuple(found)


def write_message(message: Outgoing) -> dict[str, Json]:
    """The `message` member of `onMessage` for what the guest wants to say (web-messaging-v1.md §5.4).

    Raises UsageError when picks of several kinds are mixed, or more than one of a kind that takes one.
    """
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


def write_form(message: Message, answers: Mapping[str, Json]) -> dict[str, Json] | None:
    """The submission of the form in `message` (§5.4); None when there is no form in it.

    `answers`: field id or title -> value; for lists the title or id of an item, or several of them.
    Raises UsageError for a field the form lacks, a required one not given, an item not offered.
    """
    form = next((item["form"] for item in message.content if isinstance(item, dict) and "form" in item), None)
    if not isinstance(form, dict):
        return None
    fields = list(_form_fields(form))
    known = {name for field in fields for name in (field.id, field.title) if name}
    for name in answers:
        if name not in known:
            raise UsageError(f"--form: the form has no field {name!r}; it has {', '.join(sorted(known))}")
    response = []
    for field in fields:
        value = answers.get(field.id, answers.get(field.title))
        if value is None:
            if field.required:
                raise UsageError(f"--form: the field {field.id!r} ({field.title or 'no title'}) is required")
            continue
        for chosen in value if isinstance(value, list) else [value]:
            text, payload = field.answer(str(chosen))
            button = {"type": "Form", "text": text, "payload": payload}
            response.append({"id": field.id, "component": {"contentType": "ButtonResponse", "buttonResponse": button}})
    submission: dict[str, Json] = {"originatingMessageId": message.id, "response": response}
    if "cannedResponseId" in form:
        submission["cannedResponseId"] = form["cannedResponseId"]
    return submission


@immutable
class FormField:
    """One field of a form; `items` is what a list or wheel offers, as title and id."""

    id: str
    title: str
    required: bool
    items: tuple[tuple[str, str], ...] | None = None

    def answer(self, value: str) -> tuple[str, str]:
        """Text and payload of an answer. Raises UsageError when it is not among the items."""
        if self.items is None:
            return value, value
        for title, identity in self.items:
            if value in (title, identity):
                return title, identity
        offered = ", ".join(repr(title) for title, _ in self.items)
        raise UsageError(f"--form: {self.id}: {value!r} is not offered; there is {offered}")


def _form_fields(form: Mapping[str, Json]) -> Iterator[FormField]:
    for page in _objects(form.get("formPages")):
        for component in _objects(page.get("pageComponents")):
            for kind in ("input", "datePicker", "listPicker", "wheelPicker"):
                inner = component.get(kind)
                if isinstance(inner, dict) and _text(inner, "id"):
                    title = _text(inner, "title") or _text(page, "title")
                    yield FormField(
                        _text(inner, "id"), title, inner.get("isRequired") is True, _form_items(kind, inner)
                    )


def _form_items(kind: str, inner: Mapping[str, Json]) -> tuple[tuple[str, str], ...] | None:
    if kind == "wheelPicker":
        return tuple((_text(item, "title"), _text(item, "id")) for item in _objects(inner.get("items")))
    if kind == "listPicker":
        return tuple((option.text, option.payload) for option in _list_picker(dict(inner)))
    return None


_PARENTED = frozenset({"DatePicker", "ListPicker"})


def _answer(message: Outgoing) -> dict[str, Json]:
    kinds = {option.kind for option in message.picks}
    if "Link" in kinds:
        raise UsageError("a link is opened in a browser, it sends nothing", code="usage.option")
    if len(kinds) > 1 or (len(message.picks) > 1 and kinds != {"ListPicker"}):
        raise UsageError("only items of one list can be picked together", code="usage.option")
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
