"""What a message holds besides its text, as lines for a person: cards, pickers, forms, files, links.

Knows: the message record and the content items in it (web-messaging-v1.md §6.4). Must not know:
widths, colour, streams. Every string is remote: it comes out visible and on one line. The number
before an option is its place in the record's `options`, whatever the content says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from guestctl.clock import epoch_of
from guestctl.records import Record
from guestctl.terminal import visible

#: How far in, and the text.
Line: TypeAlias = tuple[int, str]

_WEB = frozenset({"http", "https", "mailto", "tel"})
_FIELDS = {"input": "text", "datePicker": "a date", "listPicker": "a choice", "wheelPicker": "one of"}


def lines(record: Record) -> list[Line]:
    """Everything but the text and the files, in the order of the content; options left over come last."""
    page = _Page(record)
    for item in _objects(record.get("content")):
        page.item(item)
    while page.left:
        page.option(0)
    return page.lines


def address(url: str) -> str:
    """A link in angle brackets, its true host beside it when that does not meet the eye; never clickable text."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return f"<{visible(url)}> (not an address)"
    if parts.scheme.lower() not in _WEB:
        return f"<{visible(url)}> (not a web address)"
    if "@" in parts.netloc or not host.isascii():
        return f"<{visible(url)}> (leads to {_ascii(host)})"
    return f"<{visible(url)}>"


def moment(time: str, seconds: Any = None) -> str:
    """A time in local time, and its end when it lasts; what is no time as it is."""
    try:
        start = datetime.fromtimestamp(epoch_of(time))
        end = start + timedelta(seconds=seconds) if isinstance(seconds, (int, float)) and seconds > 0 else None
    except (ValueError, OverflowError, OSError):
        return visible(time)
    begin = f"{start:%a %Y-%m-%d %H:%M}"
    if end is None:
        return begin
    return f"{begin}–{end:%H:%M}" if end.date() == start.date() else f"{begin} to {end:%a %Y-%m-%d %H:%M}"


class _Page:
    def __init__(self, record: Record) -> None:
        self.lines: list[Line] = []
        self.left: list[Mapping[str, Any]] = list(record["options"])
        self._count = 0
        self._spoken = bool(record["text"])

    def say(self, level: int, *parts: str) -> None:
        text = " – ".join(part for part in parts if part)
        if text:
            self.lines.append((level, text))

    def option(self, level: int, more: str = "", *, text: str | None = None) -> None:
        """The next of the record's options."""
        found = self.left.pop(0)
        self._count += 1
        label = visible(found["text"]) if text is None else text
        link = f" {address(found['url'])}" if found["url"] else ""
        self.say(level, f"[{self._count}] {label}{link}", more)

    def item(self, item: Mapping[str, Any]) -> None:
        draw: dict[str, Callable[[Mapping[str, Any]], None]] = {
            "quickReply": self._quick_reply,
            "quickReplyV2": self._quick_replies,
            "card": self._card,
            "generic": self._card,
            "carousel": self._carousel,
            "datePicker": self._date_picker,
            "listPicker": self._list_picker,
            "form": self._form,
            "buttonResponse": self._picked,
            "location": self._location,
            "text": self._text,
            "attachment": lambda inner: None,  # drawn from the record's `attachments`
        }
        known = [(key, inner) for key, inner in item.items() if key in draw and isinstance(inner, Mapping)]
        for key, inner in known:
            draw[key](inner)
        if not known:
            kind = _said(item, "contentType")
            self.say(0, f"({kind}, which cannot be shown here)" if kind else "(something that cannot be shown here)")

    # --- one kind each ---

    def _quick_reply(self, reply: Mapping[str, Any]) -> None:
        if self.left:
            self.option(0)

    def _quick_replies(self, group: Mapping[str, Any]) -> None:
        self.say(0, _said(group, "title"))
        for _ in _objects(group.get("actions")):
            if self.left:
                self.option(1)

    def _card(self, card: Mapping[str, Any]) -> None:
        title = card.get("title")
        self.say(0, _said(card, "title"), _said(card, "description"))
        for kind in ("image", "video"):
            url = card.get(kind)
            if isinstance(url, str) and url:
                self.say(1, f"({kind}) {_file_name(url)} {address(url)}".replace("  ", " "))
        most = len(list(_objects([*_list(card.get("actions")), card.get("defaultAction")])))
        for _ in range(most):
            if self.left and self.left[0]["group"] == (title or None):
                self.option(1)

    def _carousel(self, carousel: Mapping[str, Any]) -> None:
        for card in _objects(carousel.get("cards")):
            self._card(card)

    def _date_picker(self, picker: Mapping[str, Any]) -> None:
        self.say(0, _said(picker, "title"), _said(picker, "subtitle"))
        slots = [slot for slot in _objects(picker.get("availableTimes")) if _said(slot, "dateTime")]
        for slot in slots:
            if self.left:
                self.option(1, text=moment(self.left[0]["payload"], slot.get("duration")))
        if not slots:
            self.say(1, f"({_any_date(picker)})")

    def _list_picker(self, picker: Mapping[str, Any]) -> None:
        received = picker.get("receivedMessage")
        heading = received if isinstance(received, Mapping) else {}
        self.say(0, _said(heading, "title"), _said(heading, "subtitle"))
        for section in _objects(picker.get("sections")):
            title, level = _said(section, "title"), 1
            several = "several can be picked" if section.get("multipleSelection") is True else ""
            if title != _said(heading, "title") or several:
                self.say(1, title if title != _said(heading, "title") else "", several)
                level = 2
            for entry in _objects(section.get("items")):
                if self.left:
                    self.option(level, _said(entry, "subtitle"))

    def _form(self, form: Mapping[str, Any]) -> None:
        answers = list(_objects(form.get("response")))
        if answers:
            for answer in answers:
                button = _at(answer, "component", "buttonResponse")
                self.say(0, f"(form) {_said(answer, 'id')}: {_said(button, 'text')}")
            return
        introduction = _at(form, "introduction")
        self.say(0, f"(form) {_said(introduction, 'title')}".rstrip(), _said(introduction, "subtitle"))
        for page in _objects(form.get("formPages")):
            title, subtitle = _said(page, "title"), _said(page, "subtitle")
            heading = [title if title != _said(introduction, "title") else "", subtitle]
            self.say(1, *heading)
            for component in _objects(page.get("pageComponents")):
                for key in _FIELDS:
                    if isinstance(component.get(key), Mapping):
                        self._field(key, component[key], 2 if any(heading) else 1)

    def _field(self, key: str, field: Mapping[str, Any], level: int) -> None:
        heading = _at(field, "receivedMessage")
        named = visible(str(field.get("id", "")))
        title = _said(field, "title") or _said(heading, "title")
        wanted = _FIELDS[key] + (", needed" if field.get("isRequired") is True else "")
        if key == "wheelPicker":
            wanted += ": " + ", ".join(_said(entry, "title") for entry in _objects(field.get("items")))
        elif key == "listPicker":
            sections = list(_objects(field.get("sections")))
            several = any(section.get("multipleSelection") is True for section in sections)
            offered = ", ".join(_said(entry, "title") for one in sections for entry in _objects(one.get("items")))
            wanted = f"{'some' if several else 'one'} of: {offered}"
        elif key == "datePicker":
            slots = [moment(_said(slot, "dateTime")) for slot in _objects(field.get("availableTimes"))]
            wanted = f"one of: {', '.join(slots)}" if slots else _any_date(field)
        self.say(level, f"{named}: {title} ({wanted})" if title not in ("", named) else f"{named}: ({wanted})")

    def _picked(self, response: Mapping[str, Any]) -> None:
        if not self._spoken:
            self.say(0, f"(picked) {_said(response, 'text') or _said(response, 'payload')}")

    def _location(self, location: Mapping[str, Any]) -> None:
        where = " ".join(str(location[key]) for key in ("latitude", "longitude") if _number(location.get(key)))
        self.say(0, f"(place) {_said(location, 'text')}".rstrip(), _said(location, "address"), where)
        if isinstance(location.get("url"), str):
            self.say(1, address(location["url"]))

    def _text(self, text: Mapping[str, Any]) -> None:
        self.say(0, _said(text, "body"))


def _any_date(picker: Mapping[str, Any]) -> str:
    bounds = [(word, _said(picker, key)[:10]) for word, key in (("from", "dateMinimum"), ("to", "dateMaximum"))]
    return "any date" + "".join(f" {word} {bound}" for word, bound in bounds if bound)


def _file_name(url: str) -> str:
    try:
        return visible(urlsplit(url).path.rpartition("/")[2])
    except ValueError:
        return ""


def _ascii(host: str) -> str:
    try:
        return visible(host.encode("idna").decode("ascii"))
    except UnicodeError:
        return visible(host)


def _said(source: Mapping[str, Any], key: str) -> str:
    value = source.get(key)
    return visible(value) if isinstance(value, str) else ""


def _at(source: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    for step in path:
        inner = source.get(step)
        if not isinstance(inner, Mapping):
            return {}
        source = inner
    return source


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else ()


def _objects(value: Any) -> Iterator[Mapping[str, Any]]:
    return (entry for entry in _list(value) if isinstance(entry, Mapping))


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
