"""What a message shows besides its text, its options and its files: cards, pickers and forms, as lines.

Knows: how a golden transcript tells them. Must not know: how they are written on the wire; who
compares or prints the lines. They are the same wherever they are made: times stay as they were
sent, in no local time, and a link is told without its query, which may be another one each time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

from guestctl.core.rich_content import (
    Card,
    DatePicker,
    Field,
    Form,
    Item,
    ListPicker,
    Location,
    Other,
    QuickReplies,
    Text,
    read,
)


def shown(content: Iterable[Any]) -> Iterator[str]:
    """A line for each thing that has words of its own; an item of a kind unknown here is named.

    Of options and files the message itself tells; the guest's own answers are its text."""
    return (line for item in read(content) for line in _item(item))


def _item(item: Item) -> Iterator[str]:
    match item:
        case QuickReplies():
            yield from _line("choice", item.title or "")
        case Card():
            yield from _line("card", item.title, item.description)
            yield from (f"(link) {text} {_address(url)}" for text, url in item.links)
        case DatePicker():
            yield from _line("date", item.title, item.subtitle, item.earliest, item.latest)
        case ListPicker():
            yield from _line("list", item.title, item.subtitle)
            for section in item.sections:
                yield f"(section) {section.title}{', several' if section.several else ''}"
                for entry in section.entries:
                    yield from _line("item", entry.title, entry.more)
        case Form(answers=None):
            yield from _line("form", item.title, item.subtitle, item.button)
            for page in item.pages:
                yield from _line("page", page.title, page.subtitle)
                for field in page.fields:
                    yield from _field(field)
        case Location():
            yield from _line("place", item.text, item.address)
        case Text():
            yield from _line("text", item.body)
        case Other(kind=str(kind)):
            yield f"({kind})"


def _field(field: Field) -> Iterator[str]:
    words = [field.title, field.subtitle, field.placeholder] if field.kind == "input" else []
    yield f"(field) {_joined(field.id, field.kind, 'required' if field.required else '', *words)}"
    if field.picker is None:
        for entry in field.entries:
            yield from _line("item", entry.title, entry.more)
    else:
        yield from _item(field.picker)
        if isinstance(field.picker, DatePicker):
            yield from (f"(item) {time}" for time, _ in field.picker.slots)


def _line(kind: str, *words: str) -> Iterator[str]:
    if any(words):
        yield f"({kind}) {_joined(*words)}"


def _joined(*words: str) -> str:
    return " – ".join(filter(None, words))


def _address(url: str) -> str:
    try:
        return urlsplit(url)._replace(query="", fragment="").geturl()
    except ValueError:
        return url
