"""What a message holds besides its text, as values: the content items of web-messaging.md §6.4, read once.

Knows: how each kind of item is written. Must not know: who tells it to whom, what can be picked and
how that is answered (the dialect's). Reading is tolerant: what is not as it should be counts as
absent, an item of a kind unknown here is `Other`. Every string is remote, and as it came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from guestctl.core.values import immutable


@immutable
class QuickReplies:
    """`title` is None for a reply that stands by itself."""

    title: str | None
    count: int


@immutable
class Card:
    """`media`: kind and address of each. `links`: text and address. `count`: of all its actions."""

    title: str
    description: str
    media: tuple[tuple[str, str], ...]
    links: tuple[tuple[str, str], ...]
    count: int


@immutable
class DatePicker:
    """`slots`: time and duration of each; without any, every date from `earliest` to `latest`."""

    title: str
    subtitle: str
    earliest: str
    latest: str
    slots: tuple[tuple[str, object], ...]


@immutable
class Entry:
    title: str
    more: str


@immutable
class Section:
    title: str
    several: bool
    entries: tuple[Entry, ...]


@immutable
class ListPicker:
    title: str
    subtitle: str
    sections: tuple[Section, ...]


@immutable
class Field:
    """`kind` as it is written: `input`, `wheelPicker`, or one that has its `picker`."""

    kind: str
    id: str
    required: bool
    title: str
    subtitle: str
    placeholder: str
    picker: DatePicker | ListPicker | None
    entries: tuple[Entry, ...]


@immutable
class FormPage:
    title: str
    subtitle: str
    fields: tuple[Field, ...]


@immutable
class Form:
    """`answers`: id and text of each, when this is a form filled in; else None."""

    title: str
    subtitle: str
    button: str
    pages: tuple[FormPage, ...]
    answers: tuple[tuple[str, str], ...] | None


@immutable
class Picked:
    """What the guest answered."""

    text: str


@immutable
class Location:
    text: str
    address: str
    url: str | None
    coordinates: tuple[float, ...]


@immutable
class Text:
    body: str


@immutable
class Other:
    kind: str | None


Item: TypeAlias = QuickReplies | Card | DatePicker | ListPicker | Form | Picked | Location | Text | Other


def read(content: Any) -> Iterator[Item]:
    """Every item in its order, a carousel card by card. Files are not among them: the message has them."""
    for item in _objects(content):
        known = [(key, inner) for key, inner in item.items() if key in _READERS and isinstance(inner, Mapping)]
        for key, inner in known:
            yield from _READERS[key](inner)
        if not known:
            kind = item.get("contentType")
            yield Other(kind if isinstance(kind, str) else None)


def _card(card: Mapping[str, Any]) -> Card:
    actions = [*_objects(card.get("actions")), *_objects([card.get("defaultAction")])]
    media = [(kind, _said(card, kind)) for kind in ("image", "video") if _said(card, kind)]
    links = [(_said(action, "text"), url) for action in actions if (url := _given(action, "url")) is not None]
    return Card(_said(card, "title"), _said(card, "description"), tuple(media), tuple(links), len(actions))


def _date_picker(picker: Mapping[str, Any]) -> DatePicker:
    bounds = _said(picker, "dateMinimum"), _said(picker, "dateMaximum")
    slots = [(_said(slot, "dateTime"), slot.get("duration")) for slot in _objects(picker.get("availableTimes"))]
    return DatePicker(_said(picker, "title"), _said(picker, "subtitle"), *bounds, tuple(slots))


def _list_picker(picker: Mapping[str, Any]) -> ListPicker:
    heading = _object(picker, "receivedMessage")
    sections = [
        Section(_said(section, "title"), section.get("multipleSelection") is True, _entries(section, "subtitle"))
        for section in _objects(picker.get("sections"))
    ]
    return ListPicker(_said(heading, "title"), _said(heading, "subtitle"), tuple(sections))


def _entries(holder: Mapping[str, Any], more: str) -> tuple[Entry, ...]:
    return tuple(Entry(_said(entry, "title"), _said(entry, more)) for entry in _objects(holder.get("items")))


def _form(form: Mapping[str, Any]) -> Form:
    heading = _object(form, "introduction")
    answers = [
        (_said(answer, "id"), _said(_object(_object(answer, "component"), "buttonResponse"), "text"))
        for answer in _objects(form.get("response"))
    ]
    return Form(
        _said(heading, "title"),
        _said(heading, "subtitle"),
        _said(heading, "buttonText"),
        tuple(_page(page) for page in _objects(form.get("formPages"))),
        tuple(answers) if "response" in form else None,
    )


def _page(page: Mapping[str, Any]) -> FormPage:
    fields = [
        _field(kind, field)
        for component in _objects(page.get("pageComponents"))
        for kind, field in sorted(component.items())
        if isinstance(field, Mapping)
    ]
    return FormPage(_said(page, "title"), _said(page, "subtitle"), tuple(fields))


def _field(kind: str, field: Mapping[str, Any]) -> Field:
    return Field(
        kind,
        str(field.get("id", "")),
        field.get("isRequired") is True,
        _said(field, "title"),
        _said(field, "subtitle"),
        _said(field, "placeholderText"),
        _PICKERS[kind](field) if kind in _PICKERS else None,
        _entries(field, "value"),
    )


def _place(place: Mapping[str, Any]) -> Location:
    found = (place.get("latitude"), place.get("longitude"))
    numbers = tuple(n for n in found if isinstance(n, (int, float)) and not isinstance(n, bool))
    return Location(_said(place, "text"), _said(place, "address"), _given(place, "url"), numbers)


_PICKERS: Mapping[str, Callable[[Mapping[str, Any]], DatePicker | ListPicker]] = {
    "datePicker": _date_picker,
    "listPicker": _list_picker,
}
_READERS: Mapping[str, Callable[[Mapping[str, Any]], Iterable[Item]]] = {
    "attachment": lambda _: (),
    "quickReply": lambda _: (QuickReplies(None, 1),),
    "quickReplyV2": lambda group: (QuickReplies(_said(group, "title"), len(list(_objects(group.get("actions"))))),),
    "buttonResponse": lambda answer: (Picked(_said(answer, "text") or _said(answer, "payload")),),
    "card": lambda card: (_card(card),),
    "generic": lambda card: (_card(card),),
    "carousel": lambda carousel: map(_card, _objects(carousel.get("cards"))),
    "datePicker": lambda picker: (_date_picker(picker),),
    "listPicker": lambda picker: (_list_picker(picker),),
    "form": lambda form: (_form(form),),
    "location": lambda place: (_place(place),),
    "text": lambda text: (Text(_said(text, "body")),),
}


def _given(source: Mapping[str, Any], key: str) -> str | None:
    value = source.get(key)
    return value if isinstance(value, str) else None


def _said(source: Mapping[str, Any], key: str) -> str:
    return _given(source, key) or ""


def _object(source: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = source.get(key)
    return value if isinstance(value, Mapping) else {}


def _objects(value: Any) -> Iterator[Mapping[str, Any]]:
    return (entry for entry in value if isinstance(entry, Mapping)) if isinstance(value, (list, tuple)) else iter(())
