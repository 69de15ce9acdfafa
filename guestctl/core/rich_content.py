"""Reads the content items of a message other than its text, as values (web-messaging.md §6.4).

Knows: the JSON form of each kind of item. Must not know: who sent it, which options can be picked and how an
answer is sent (the dialects know). Reading is tolerant: a malformed member counts as absent, and an item of an
unknown kind is `Other`. Every string is remote text, unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from guestctl.core.values import immutable


@immutable
class QuickReplies:
    """Quick replies. `title` is None for a single reply outside a group."""

    title: str | None
    count: int


@immutable
class Card:
    """A card. `media` are (kind, address), `links` are (text, address). `count` is the number of all actions."""

    title: str
    description: str
    media: tuple[tuple[str, str], ...]
    links: tuple[tuple[str, str], ...]
    count: int


@immutable
class DatePicker:
    """A date picker. `slots` are (time, duration); without slots, any date from `earliest` to `latest`."""

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
    """A form field. `kind` is the name on the wire: `input`, `wheelPicker`, or a kind that has a `picker`."""

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
    """A form. `answers` are (id, text) if the form was filled in, else None."""

    title: str
    subtitle: str
    button: str
    pages: tuple[FormPage, ...]
    answers: tuple[tuple[str, str], ...] | None


@immutable
class Picked:
    """The option that the guest picked."""

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
    """Yield every item in order, a carousel card by card. Files are omitted: the message lists them."""
    for item in _objects(content):
        known = [(key, inner) for key, inner in item.items() if key in _READERS and isinstance(inner, Mapping)]
        for key, inner in known:
            yield from _READERS[key](inner)
        if not known:
            kind = item.get("contentType")
            yield Other(kind if isinstance(kind, str) else None)


def _card(card: Mapping[str, Any]) -> Card:
    actions = [*_objects(card.get("actions")), *_objects([card.get("defaultAction")])]
    media = [(kind, _text(card, kind)) for kind in ("image", "video") if _text(card, kind)]
    links = [(_text(action, "text"), url) for action in actions if (url := _text_or_none(action, "url")) is not None]
    return Card(_text(card, "title"), _text(card, "description"), tuple(media), tuple(links), len(actions))


def _date_picker(picker: Mapping[str, Any]) -> DatePicker:
    bounds = _text(picker, "dateMinimum"), _text(picker, "dateMaximum")
    slots = [(_text(slot, "dateTime"), slot.get("duration")) for slot in _objects(picker.get("availableTimes"))]
    return DatePicker(_text(picker, "title"), _text(picker, "subtitle"), *bounds, tuple(slots))


def _list_picker(picker: Mapping[str, Any]) -> ListPicker:
    heading = _object(picker, "receivedMessage")
    sections = [
        Section(_text(section, "title"), section.get("multipleSelection") is True, _entries(section, "subtitle"))
        for section in _objects(picker.get("sections"))
    ]
    return ListPicker(_text(heading, "title"), _text(heading, "subtitle"), tuple(sections))


def _entries(holder: Mapping[str, Any], more: str) -> tuple[Entry, ...]:
    return tuple(Entry(_text(entry, "title"), _text(entry, more)) for entry in _objects(holder.get("items")))


def _form(form: Mapping[str, Any]) -> Form:
    heading = _object(form, "introduction")
    answers = [
        (_text(answer, "id"), _text(_object(_object(answer, "component"), "buttonResponse"), "text"))
        for answer in _objects(form.get("response"))
    ]
    return Form(
        _text(heading, "title"),
        _text(heading, "subtitle"),
        _text(heading, "buttonText"),
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
    return FormPage(_text(page, "title"), _text(page, "subtitle"), tuple(fields))


def _field(kind: str, field: Mapping[str, Any]) -> Field:
    return Field(
        kind,
        str(field.get("id", "")),
        field.get("isRequired") is True,
        _text(field, "title"),
        _text(field, "subtitle"),
        _text(field, "placeholderText"),
        _PICKERS[kind](field) if kind in _PICKERS else None,
        _entries(field, "value"),
    )


def _place(place: Mapping[str, Any]) -> Location:
    found = (place.get("latitude"), place.get("longitude"))
    numbers = tuple(n for n in found if isinstance(n, (int, float)) and not isinstance(n, bool))
    return Location(_text(place, "text"), _text(place, "address"), _text_or_none(place, "url"), numbers)


_PICKERS: Mapping[str, Callable[[Mapping[str, Any]], DatePicker | ListPicker]] = {
    "datePicker": _date_picker,
    "listPicker": _list_picker,
}
_READERS: Mapping[str, Callable[[Mapping[str, Any]], Iterable[Item]]] = {
    "attachment": lambda _: (),
    "quickReply": lambda _: (QuickReplies(None, 1),),
    "quickReplyV2": lambda group: (QuickReplies(_text(group, "title"), len(list(_objects(group.get("actions"))))),),
    "buttonResponse": lambda answer: (Picked(_text(answer, "text") or _text(answer, "payload")),),
    "card": lambda card: (_card(card),),
    "generic": lambda card: (_card(card),),
    "carousel": lambda carousel: map(_card, _objects(carousel.get("cards"))),
    "datePicker": lambda picker: (_date_picker(picker),),
    "listPicker": lambda picker: (_list_picker(picker),),
    "form": lambda form: (_form(form),),
    "location": lambda place: (_place(place),),
    "text": lambda text: (Text(_text(text, "body")),),
}


def _text_or_none(source: Mapping[str, Any], key: str) -> str | None:
    value = source.get(key)
    return value if isinstance(value, str) else None


def _text(source: Mapping[str, Any], key: str) -> str:
    return _text_or_none(source, key) or ""


def _object(source: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = source.get(key)
    return value if isinstance(value, Mapping) else {}


def _objects(value: Any) -> Iterator[Mapping[str, Any]]:
    return (entry for entry in value if isinstance(entry, Mapping)) if isinstance(value, (list, tuple)) else iter(())
