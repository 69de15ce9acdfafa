"""The content items of bot replies, built from the short forms of a bot script.

Knows: the content items of web-messaging.md §6.4 exactly as they are on the wire, with every field
that §6.4 marks * or †. Must not know: rules, templates, files, frames, sessions, the clock.

quickReplies: [LABEL | {text, payload, image}, ...], or {title, replies: [...]} for one item with a title
card: {title, description, image, video, actions: [LABEL | {text, payload} | {text, url}, ...], defaultAction}
carousel: [card, ...]
datePicker: {title, subtitle, image, times: [ISO | {at, duration}, ...], min, max, format, id}
listPicker: {title, subtitle, id, reply: {title, subtitle}, multiple, items: [TITLE | {id, title, subtitle,
    image}, ...]} or, for several sections, sections: [{title, multiple, items}, ...]
form: {id, title, subtitle, image, button, summary, received, reply, fields: [field, ...]} or, for several
    pages, pages: [{title, subtitle, fields}, ...]; field: {id, type: text|multiline|date|list|wheel, title,
    subtitle, required, placeholder, keyboard, autocomplete} and the keys of a date or list picker
attachment: URL or {url, name, type, size, text, id}
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from guestctl.core.clock import epoch_of, rfc3339
from guestctl.core.yaml_fields import YamlField
from guestctl.sandbox.bot.bots import Content

ContentItem = dict[str, Any]

#: The keys of each short form, and of the mappings inside it.
SHORT_FORMS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "quickReplies": (("text", "payload", "image"), ("title", "replies")),
    "card": (("title", "description", "image", "video", "actions", "defaultAction"), ("text", "payload", "url")),
    "datePicker": (("title", "subtitle", "image", "times", "min", "max", "format", "id"), ("at", "duration")),
    "listPicker": (
        ("title", "subtitle", "id", "reply", "multiple", "items", "sections"),
        ("title", "multiple", "items"),
        ("id", "title", "subtitle", "image"),
    ),
    "form": (
        ("id", "title", "subtitle", "image", "button", "summary", "received", "reply", "fields", "pages"),
        ("title", "subtitle", "fields"),
        ("id", "type", "title", "subtitle", "required", "placeholder", "keyboard", "autocomplete"),
    ),
    "attachment": (("url", "name", "type", "size", "text", "id"),),
}
_KEYBOARDS = ("Default", "Decimal", "Email", "Number", "NumberPunctuation", "Phone", "URL", "Websearch")
_DATE_FORMATS = ("dayMonthYear", "monthDayYear", "yearMonthDay")
_FIELD_TYPES = ("text", "multiline", "date", "list", "wheel")
_MEDIA = {"image": "Image", "audio": "Audio", "video": "Video"}
_LONGEST_SLOT = 31 * 86_400.0  # seconds


def content_items(key: str, field: YamlField) -> Content:
    """Return the content items of one short form. Raises UsageError for a wrong value."""
    return tuple(_BUILDERS[key](field))


def _quick_replies(field: YamlField) -> list[ContentItem]:
    if field.is_mapping:
        keys = field.mapping(SHORT_FORMS["quickReplies"][1])
        group = {
            "title": field.required(keys, "title").text(),
            "actions": [item["quickReply"] for item in _quick_replies(field.required(keys, "replies"))],
        }
        return [{"contentType": "QuickReplyV2", "quickReplyV2": group}]
    items: list[ContentItem] = []
    for entry in field.items():
        keys = _short_or_mapping(entry, "text", SHORT_FORMS["quickReplies"][0])
        text = entry.required(keys, "text").text()
        reply = {"text": text, "payload": keys["payload"].text() if "payload" in keys else text}
        reply |= {"action": "Message", **_optional_texts(keys, {"image": "image"})}
        items.append({"contentType": "QuickReply", "quickReply": reply})
    return items


def _card(field: YamlField) -> ContentItem:
    keys = field.mapping(SHORT_FORMS["card"][0])
    card: ContentItem = {
        "title": field.required(keys, "title").text(),
        "description": keys["description"].text() if "description" in keys else "",
        "actions": [_card_action(entry) for entry in keys["actions"].items()] if "actions" in keys else [],
    }
    if "defaultAction" in keys:
        card["defaultAction"] = _card_action(keys["defaultAction"])
    return card | _optional_texts(keys, {"image": "image", "video": "video"})


def _card_action(field: YamlField) -> ContentItem:
    keys = _short_or_mapping(field, "text", SHORT_FORMS["card"][1])
    text = field.required(keys, "text").text()
    if "url" in keys:
        if "payload" in keys:
            raise field.error("an action has a `url` (a link) or a `payload` (a button), not both")
        return {"type": "Link", "text": text, "url": keys["url"].text()}
    return {"type": "Postback", "text": text, "payload": keys["payload"].text() if "payload" in keys else text}


def _carousel(field: YamlField) -> list[ContentItem]:
    cards = [_card(entry) for entry in field.items()]
    return [{"contentType": "Carousel", "carousel": {"cards": cards}}]


def _date_picker(field: YamlField, also: tuple[str, ...] = ()) -> ContentItem:
    keys = field.mapping((*SHORT_FORMS["datePicker"][0], *also))
    picker: ContentItem = {"title": field.required(keys, "title").text()}
    picker |= _optional_texts(keys, {"subtitle": "subtitle", "image": "imageUrl", "id": "id"})
    if "times" in keys:
        picker["availableTimes"] = [_slot(entry) for entry in keys["times"].items()]
    for key, wire in (("min", "dateMinimum"), ("max", "dateMaximum")):
        if key in keys:
            picker[wire] = _moment(keys[key])
    if "format" in keys:
        picker["dateDisplayFormat"] = keys["format"].choice(_DATE_FORMATS)
    return picker


def _slot(field: YamlField) -> ContentItem:
    keys = _short_or_mapping(field, "at", SHORT_FORMS["datePicker"][1])
    duration = keys["duration"].duration(_LONGEST_SLOT, zero=True) if "duration" in keys else 3600.0
    return {"dateTime": _moment(field.required(keys, "at")), "duration": round(duration)}


def _list_picker(field: YamlField, also: tuple[str, ...] = ()) -> ContentItem:
    keys = field.mapping((*SHORT_FORMS["listPicker"][0], *also))
    title = field.required(keys, "title").text()
    received = {"title": title, **_optional_texts(keys, {"subtitle": "subtitle"})}
    reply = {"title": title, "subtitle": title}
    if "reply" in keys:
        texts = _short_or_mapping(keys["reply"], "subtitle", ("title", "subtitle"))
        reply |= _optional_texts(texts, {"title": "title", "subtitle": "subtitle"})
    picker = {"sections": _sections(field, keys, title), "receivedMessage": received, "replyMessage": reply}
    return picker | _optional_texts(keys, {"id": "id"})


def _sections(field: YamlField, keys: Mapping[str, YamlField], title: str) -> list[ContentItem]:
    if ("items" in keys) == ("sections" in keys):
        raise field.error("give `items`, or `sections` with their own items")
    if "items" in keys:
        return [_section(title, keys)]
    if "multiple" in keys:
        raise keys["multiple"].error("put `multiple` into each of the `sections`")
    sections = []
    for entry in keys["sections"].items():
        inner = entry.mapping(SHORT_FORMS["listPicker"][1])
        entry.required(inner, "items")
        sections.append(_section(entry.required(inner, "title").text(), inner))
    return sections


def _section(title: str, keys: Mapping[str, YamlField]) -> ContentItem:
    multiple = "multiple" in keys and keys["multiple"].flag()
    return {"title": title, "multipleSelection": multiple, "items": _entries(keys["items"])}


def _entries(field: YamlField, extra: str | None = None) -> list[ContentItem]:
    """Return the entries of a list or wheel picker."""
    items: list[ContentItem] = []
    allowed = ("id", "title", extra) if extra else SHORT_FORMS["listPicker"][2]
    for entry in field.items():
        keys = _short_or_mapping(entry, "title", allowed)
        title = entry.required(keys, "title").text()
        item = {"id": keys["id"].text() if "id" in keys else _slug(title), "title": title}
        item |= _optional_texts(keys, {"subtitle": "subtitle", "image": "imageUrl", "value": "value"})
        if any(item["id"] == other["id"] for other in items):
            raise entry.error(f'a second item with the id "{item["id"]}"; give each item its own `id`')
        items.append(item)
    return items


def _form(field: YamlField) -> list[ContentItem]:
    keys = field.mapping(SHORT_FORMS["form"][0])
    title = field.required(keys, "title").text()
    introduction = {"title": title, "buttonText": keys["button"].text() if "button" in keys else "Start"}
    introduction |= _optional_texts(keys, {"subtitle": "subtitle", "image": "imageUrl"})
    form = {
        "cannedResponseId": keys["id"].text() if "id" in keys else str(uuid5(NAMESPACE_URL, f"form:{title}")),
        "introduction": introduction,
        "formPages": _pages(field, keys, title),
        "showSummary": "summary" in keys and keys["summary"].flag(),
        "receivedMessage": {"title": keys["received"].text() if "received" in keys else title},
        "replyMessage": {"title": keys["reply"].text() if "reply" in keys else title},
    }
    return [{"contentType": "Form", "form": form}]


def _pages(field: YamlField, keys: Mapping[str, YamlField], title: str) -> list[ContentItem]:
    if ("fields" in keys) == ("pages" in keys):
        raise field.error("give `fields`, or `pages` with their own fields")
    seen: set[str] = set()
    if "fields" in keys:
        return [_page(title, "", keys["fields"], seen)]
    pages = []
    for entry in keys["pages"].items():
        page = entry.mapping(SHORT_FORMS["form"][1])
        subtitle = page["subtitle"].text() if "subtitle" in page else ""
        name = entry.required(page, "title").text()
        pages.append(_page(name, subtitle, entry.required(page, "fields"), seen))
    return pages


def _page(title: str, subtitle: str, fields: YamlField, seen: set[str]) -> ContentItem:
    components = [_form_field(entry, seen) for entry in fields.items()]
    return {"title": title, "subtitle": subtitle, "pageComponents": components}


def _form_field(field: YamlField, seen: set[str]) -> ContentItem:
    """Return one form component. `seen` collects the ids of the form."""
    given = field.members()
    kind = given["type"].choice(_FIELD_TYPES) if "type" in given else "text"
    identifier = field.required(given, "id").text()
    if identifier in seen:
        raise field.error(f'a second field with the id "{identifier}"')
    seen.add(identifier)
    if kind == "date":
        return {"formComponentType": "DatePicker", "datePicker": _date_picker(field, ("type",))}
    if kind == "list":
        return {"formComponentType": "ListPicker", "listPicker": _list_picker(field, ("type",))}
    if kind == "wheel":
        keys = field.mapping(("id", "type", "items"))
        items = _entries(field.required(keys, "items"), "value")
        return {"formComponentType": "WheelPicker", "wheelPicker": {"id": identifier, "items": items}}
    keys = field.mapping(SHORT_FORMS["form"][2])
    component = {
        "id": identifier,
        "isRequired": "required" in keys and keys["required"].flag(),
        "isMultipleLine": kind == "multiline",
        "keyboardType": keys["keyboard"].choice(_KEYBOARDS) if "keyboard" in keys else "Default",
    }
    names = {"title": "title", "subtitle": "subtitle", "placeholder": "placeholderText"}
    component |= _optional_texts(keys, names | {"autocomplete": "autoCompleteType"})
    return {"formComponentType": "Input", "input": component}


def _attachment(field: YamlField) -> list[ContentItem]:
    from mimetypes import guess_type
    from urllib.parse import unquote, urlsplit

    keys = _short_or_mapping(field, "url", SHORT_FORMS["attachment"][0])
    url = field.required(keys, "url").text()
    try:
        path = urlsplit(url).path
    except ValueError:
        raise field.error("not a URL") from None
    name = keys["name"].text() if "name" in keys else unquote(path.rpartition("/")[2])
    if not name:
        raise field.error("the URL has no file name; add `name`")
    mime = keys["type"].text() if "type" in keys else guess_type(name)[0]
    attachment: ContentItem = {
        "id": keys["id"].text() if "id" in keys else str(uuid5(NAMESPACE_URL, f"{url} {name}")),
        "mediaType": _MEDIA.get((mime or "").partition("/")[0], "File"),
        "url": url,
        "filename": name,
    }
    if mime:
        attachment["mime"] = mime
    if "size" in keys:
        attachment["fileSize"] = keys["size"].whole_number(0, 1 << 40)
    attachment |= _optional_texts(keys, {"text": "text"})
    return [{"contentType": "Attachment", "attachment": attachment}]


_BUILDERS: Mapping[str, Callable[[YamlField], list[ContentItem]]] = {
    "quickReplies": _quick_replies,
    "card": lambda field: [{"contentType": "Card", "card": _card(field)}],
    "carousel": _carousel,
    "datePicker": lambda field: [{"contentType": "DatePicker", "datePicker": _date_picker(field)}],
    "listPicker": lambda field: [{"contentType": "ListPicker", "listPicker": _list_picker(field)}],
    "form": _form,
    "attachment": _attachment,
}


def _short_or_mapping(field: YamlField, key: str, allowed: Sequence[str]) -> dict[str, YamlField]:
    """Return the members of a mapping; a plain value stands for its main key."""
    return field.mapping(allowed) if field.is_mapping else {key: field}


def _optional_texts(keys: Mapping[str, YamlField], names: Mapping[str, str]) -> ContentItem:
    """Return the texts of the keys that are there. `names`: key of the script -> key on the wire."""
    return {wire: keys[key].text() for key, wire in names.items() if key in keys}


def _moment(field: YamlField) -> str:
    text = field.text()
    try:
        return rfc3339(epoch_of(text))
    except (ValueError, OverflowError, OSError):
        raise field.error("must be a time such as 2026-03-09T08:00:00Z") from None


def _slug(title: str) -> str:
    return re.sub(r"\W+", "-", title.lower()).strip("-") or "item"
