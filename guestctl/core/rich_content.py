"""Reads the content items of a message other than its text, as values (web-messaging.md §6.4).

Knows: the JSON form of each kind of item. Must not know: who sent it, which options can be picked and how an
answer is sent (the dialects know). Reading is tolerant: a malformed member counts as absent, and an item of an
unknown kind is `Other`. Every string is remote text, unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from guestctl.core.values import immutable, objects, text_of
from guestctl.core.wire import number


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
    for item in objects(content):
        known = [(key, inner) for key, inner in item.items() if key in _READERS and isinstance(inner, Mapping)]
        for key, inner in known:
            yield from _READERS[key](inner)
        if not known:
            kind = item.get("contentType")
            yield Other(kind if isinstance(kind, str) else None)


def card_actions(card: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the actions of a card or a generic template in the form of a card's: type, text, url, payload.

    A generic template has its buttons as `components`, each with a title and `actions`; these are a list as on a card,
    or one object with `url` or `textback`.
    """
    found = list(_actions(card.get("actions"), ""))
    for component in objects(card.get("components")):
        title = text_of(component, "title") or text_of(component, "text")
        found.extend(_actions(component.get("actions") or {}, title))
    return found


def _actions(actions: Any, title: str) -> Iterator[dict[str, Any]]:
    if isinstance(actions, Mapping):
        url, payload = text_of(actions, "url"), text_of(actions, "textback")
        if title or url or payload:
            yield {"text": title or payload, **({"type": "Link", "url": url} if url else {"payload": payload})}
        return
    for action in objects(actions):
        yield action if text_of(action, "text") or not title else {**action, "text": title}


def _card(card: Mapping[str, Any]) -> Card:
    actions = [*card_actions(card), *objects([card.get("defaultAction")])]
    media = [(kind, text_of(card, kind)) for kind in ("image", "video") if text_of(card, kind)]
    links = [(text_of(action, "text"), url) for action in actions if (url := _text_or_none(action, "url")) is not None]
    return Card(text_of(card, "title"), text_of(card, "description"), tuple(media), tuple(links), len(actions))


def _date_picker(picker: Mapping[str, Any]) -> DatePicker:
    bounds = text_of(picker, "dateMinimum"), text_of(picker, "dateMaximum")
    slots = [(text_of(slot, "dateTime"), slot.get("duration")) for slot in objects(picker.get("availableTimes"))]
    return DatePicker(text_of(picker, "title"), text_of(picker, "subtitle"), *bounds, tuple(slots))


def _list_picker(picker: Mapping[str, Any]) -> ListPicker:
    heading = _object(picker, "receivedMessage")
    sections = [
        Section(text_of(section, "title"), section.get("multipleSelection") is True, _entries(section, "subtitle"))
        for section in objects(picker.get("sections"))
    ]
    return ListPicker(text_of(heading, "title"), text_of(heading, "subtitle"), tuple(sections))


def _entries(holder: Mapping[str, Any], more: str) -> tuple[Entry, ...]:
    return tuple(Entry(text_of(entry, "title"), text_of(entry, more)) for entry in objects(holder.get("items")))


def _form(form: Mapping[str, Any]) -> Form:
    heading = _object(form, "introduction")
    answers = [
        (text_of(answer, "id"), text_of(_object(_object(answer, "component"), "buttonResponse"), "text"))
        for answer in objects(form.get("response"))
    ]
    return Form(
        text_of(heading, "title"),
        text_of(heading, "subtitle"),
        text_of(heading, "buttonText"),
        tuple(_page(page) for page in objects(form.get("formPages"))),
        tuple(answers) if "response" in form else None,
    )


def _page(page: Mapping[str, Any]) -> FormPage:
    fields = [
        _field(kind, field)
        for component in objects(page.get("pageComponents"))
        for kind, field in sorted(component.items())
        if isinstance(field, Mapping)
    ]
    return FormPage(text_of(page, "title"), text_of(page, "subtitle"), tuple(fields))


def _field(kind: str, field: Mapping[str, Any]) -> Field:
    return Field(
        kind,
        str(field.get("id", "")),
        field.get("isRequired") is True,
        text_of(field, "title"),
        text_of(field, "subtitle"),
        text_of(field, "placeholderText"),
        _PICKERS[kind](field) if kind in _PICKERS else None,
        _entries(field, "value"),
    )


def _place(place: Mapping[str, Any]) -> Location:
    found = (number(place.get("latitude")), number(place.get("longitude")))
    numbers = tuple(n for n in found if n is not None)
    return Location(text_of(place, "text"), text_of(place, "address"), _text_or_none(place, "url"), numbers)


_PICKERS: Mapping[str, Callable[[Mapping[str, Any]], DatePicker | ListPicker]] = {
    "datePicker": _date_picker,
    "listPicker": _list_picker,
}
_READERS: Mapping[str, Callable[[Mapping[str, Any]], Iterable[Item]]] = {
    "attachment": lambda _: (),
    "quickReply": lambda _: (QuickReplies(None, 1),),
    "quickReplyV2": lambda group: (QuickReplies(text_of(group, "title"), len(list(objects(group.get("actions"))))),),
    "buttonResponse": lambda answer: (Picked(text_of(answer, "text") or text_of(answer, "payload")),),
    "card": lambda card: (_card(card),),
    "generic": lambda card: (_card(card),),
    "carousel": lambda carousel: map(_card, objects(carousel.get("cards"))),
    "datePicker": lambda picker: (_date_picker(picker),),
    "listPicker": lambda picker: (_list_picker(picker),),
    "form": lambda form: (_form(form),),
    "location": lambda place: (_place(place),),
    "text": lambda text: (Text(text_of(text, "body")),),
}


def _text_or_none(source: Mapping[str, Any], key: str) -> str | None:
    value = source.get(key)
    return value if isinstance(value, str) else None


def _object(source: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = source.get(key)
    return value if isinstance(value, Mapping) else {}
