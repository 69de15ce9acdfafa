"""Cards, pickers and forms of a message as lines of a golden transcript.

Knows: the lines that golden transcripts and reports have. Must not know: how content items are
written on the wire; who compares or prints the lines.

The lines are the same on every machine and in every run. Times stay as sent, not converted to local
time, and links have no query, because it may differ from run to run. That is why these lines are
not those of `output.rich_content_lines`, which are for people.
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


def content_lines(content: Iterable[Any]) -> Iterator[str]:
    """Yield a line for each part that has a text. An item of an unknown kind is shown by its kind.

    Options and files are not among them: the message lists them. The guest's answers are the
    message's text.
    """
    return (line for item in read(content) for line in _item_lines(item))


def _item_lines(item: Item) -> Iterator[str]:
    match item:
        case QuickReplies():
            yield from _line("choice", item.title or "")
        case Card():
            yield from _line("card", item.title, item.description)
            yield from (f"(link) {text} {_without_query(url)}" for text, url in item.links)
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
                    yield from _field_lines(field)
        case Location():
            yield from _line("place", item.text, item.address)
        case Text():
            yield from _line("text", item.body)
        case Other(kind=str(kind)):
            yield f"({kind})"


def _field_lines(field: Field) -> Iterator[str]:
    texts = [field.title, field.subtitle, field.placeholder] if field.kind == "input" else []
    yield f"(field) {_joined(field.id, field.kind, 'required' if field.required else '', *texts)}"
    if field.picker is None:
        for entry in field.entries:
            yield from _line("item", entry.title, entry.more)
    else:
        yield from _item_lines(field.picker)
        if isinstance(field.picker, DatePicker):
            yield from (f"(item) {time}" for time, _ in field.picker.slots)


def _line(kind: str, *texts: str) -> Iterator[str]:
    if any(texts):
        yield f"({kind}) {_joined(*texts)}"


def _joined(*texts: str) -> str:
    return " – ".join(filter(None, texts))


def _without_query(url: str) -> str:
    try:
        return urlsplit(url)._replace(query="", fragment="").geturl()
    except ValueError:
        return url
