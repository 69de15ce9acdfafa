"""What a message shows besides its text, its options and its files: cards, pickers and forms, as lines.

Knows: the words of the content items of web-messaging-v1.md §6.4. Must not know: who compares or
prints the lines. They are the same wherever they are made: times stay as they were sent, in no
local time, and a link is told without its query, which may be another one each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit


def shown(content: Iterable[Any]) -> Iterator[str]:
    """A line for each thing that has words of its own; an item of a kind unknown here is named."""
    for item in content:
        if not isinstance(item, Mapping):
            continue
        known = [(key, inner) for key, inner in item.items() if key in _READERS and isinstance(inner, Mapping)]
        for key, inner in known:
            yield from _READERS[key](inner)
        if not known and isinstance(item.get("contentType"), str):
            yield f"({item['contentType']})"


def _nothing(inner: Mapping[str, Any]) -> Iterator[str]:
    """Of options and files the message itself tells; the guest's own answers are its text."""
    return iter(())


def _quick_replies(group: Mapping[str, Any]) -> Iterator[str]:
    yield from _line("choice", group, "title")


def _card(card: Mapping[str, Any]) -> Iterator[str]:
    yield from _line("card", card, "title", "description")
    for action in (*_objects(card.get("actions")), *_objects([card.get("defaultAction")])):
        if isinstance(action.get("url"), str):
            yield f"(link) {_words(action, 'text')} {_address(action['url'])}"


def _carousel(carousel: Mapping[str, Any]) -> Iterator[str]:
    for card in _objects(carousel.get("cards")):
        yield from _card(card)


def _date_picker(picker: Mapping[str, Any]) -> Iterator[str]:
    yield from _line("date", picker, "title", "subtitle", "dateMinimum", "dateMaximum")


def _list_picker(picker: Mapping[str, Any]) -> Iterator[str]:
    heading = picker.get("receivedMessage")
    yield from _line("list", heading if isinstance(heading, Mapping) else {}, "title", "subtitle")
    for section in _objects(picker.get("sections")):
        several = ", several" if section.get("multipleSelection") is True else ""
        yield f"(section) {_words(section, 'title')}{several}"
        yield from (
            line for item in _objects(section.get("items")) for line in _line("item", item, "title", "subtitle")
        )


def _form(form: Mapping[str, Any]) -> Iterator[str]:
    if "response" in form:
        return
    heading = form.get("introduction")
    yield from _line("form", heading if isinstance(heading, Mapping) else {}, "title", "subtitle", "buttonText")
    for page in _objects(form.get("formPages")):
        yield from _line("page", page, "title", "subtitle")
        for component in _objects(page.get("pageComponents")):
            for kind, field in sorted(component.items()):
                if isinstance(field, Mapping):
                    yield from _field(kind, field)


def _field(kind: str, field: Mapping[str, Any]) -> Iterator[str]:
    words = [str(field.get("id", "")), kind, "required" if field.get("isRequired") is True else ""]
    words.append(_words(field, "title", "subtitle", "placeholderText") if kind == "input" else "")
    yield "(field) " + " – ".join(filter(None, words))
    if kind == "datePicker":
        yield from _date_picker(field)
        yield from (f"(item) {_words(slot, 'dateTime')}" for slot in _objects(field.get("availableTimes")))
    elif kind == "listPicker":
        yield from _list_picker(field)
    else:
        yield from (line for item in _objects(field.get("items")) for line in _line("item", item, "title", "value"))


def _text(text: Mapping[str, Any]) -> Iterator[str]:
    yield from _line("text", text, "body")


def _location(location: Mapping[str, Any]) -> Iterator[str]:
    yield from _line("place", location, "text", "address")


_READERS: Mapping[str, Callable[[Mapping[str, Any]], Iterator[str]]] = {
    "quickReply": _nothing,
    "attachment": _nothing,
    "buttonResponse": _nothing,
    "quickReplyV2": _quick_replies,
    "card": _card,
    "generic": _card,
    "carousel": _carousel,
    "datePicker": _date_picker,
    "listPicker": _list_picker,
    "form": _form,
    "text": _text,
    "location": _location,
}


def _line(kind: str, source: Mapping[str, Any], *keys: str) -> Iterator[str]:
    words = _words(source, *keys)
    if words:
        yield f"({kind}) {words}"


def _words(source: Mapping[str, Any], *keys: str) -> str:
    return " – ".join(source[key] for key in keys if isinstance(source.get(key), str) and source[key])


def _objects(value: Any) -> Iterator[Mapping[str, Any]]:
    return (entry for entry in value if isinstance(entry, Mapping)) if isinstance(value, (list, tuple)) else iter(())


def _address(url: str) -> str:
    try:
        return urlsplit(url)._replace(query="", fragment="").geturl()
    except ValueError:
        return url
