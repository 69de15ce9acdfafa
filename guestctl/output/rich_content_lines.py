"""Renders the content of a message other than its text as lines: cards, pickers, forms, links.

Knows: the message record. Must not know: the JSON of content items, widths, colour, streams. Every string is
remote: it is escaped and put on one line. The number before an option is its position in the record's
`options`, regardless of the content.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta, tzinfo
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from guestctl.core.clock import epoch_of
from guestctl.core.humanize import format_size
from guestctl.core.rich_content import (
    Card,
    DatePicker,
    Field,
    Form,
    Item,
    ListPicker,
    Location,
    Other,
    Picked,
    QuickReplies,
    Text,
    read,
)
from guestctl.output.records import Record
from guestctl.output.terminal import visible

#: The indentation level, and the text.
IndentedLine: TypeAlias = tuple[int, str]

_WEB = frozenset({"http", "https", "mailto", "tel"})
_FIELDS = {"input": "text", "datePicker": "a date", "listPicker": "a choice", "wheelPicker": "one of"}


def lines(record: Record, zone: tzinfo | None = None) -> list[IndentedLine]:
    """Return the lines for everything but the text and the files, in the order of the content.

    Options that no content item shows come last. Times are local, or in `zone`, which is then named.
    """
    found = _Lines(record, zone)
    for item in read(record.get("content")):
        found.item(item)
    while found.left:
        found.option(0)
    return found.lines


def file_lines(record: Record) -> list[str]:
    """Return one line for each attached file: its kind, name, size and id."""
    return [_file(attachment) for attachment in record["attachments"]]


def plain(record: Record) -> str:
    """Return what a message has next to its text, as indented lines."""
    return "\n".join([*("  " * level + text for level, text in lines(record)), *file_lines(record)])


def _file(attachment: Mapping[str, Any]) -> str:
    parts = [attachment["name"] or attachment["mime"] or "unnamed", format_size(attachment["size"])]
    kind = {"Image": "image", "Video": "video", "Audio": "audio"}.get(attachment["media_type"] or "", "file")
    named = [*parts, *([attachment["id"]] if attachment["id"] else [])]
    return f"({kind}) " + ", ".join(visible(part) for part in named)


def address(url: str) -> str:
    """Return a link in angle brackets, followed by its real host if the address disguises it."""
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


def moment(time: str, seconds: Any = None, zone: tzinfo | None = None) -> str:
    """Return a local time, or one in a named zone, with its end if it has a duration in seconds.

    A text that is not a time is returned as it is.
    """
    try:
        start = datetime.fromtimestamp(epoch_of(time), zone)
        end = start + timedelta(seconds=seconds) if isinstance(seconds, (int, float)) and seconds > 0 else None
    except (ValueError, OverflowError, OSError):
        return visible(time)
    span = f"{start:%a %Y-%m-%d %H:%M}"
    if end is not None:
        span += f"–{end:%H:%M}" if end.date() == start.date() else f" to {end:%a %Y-%m-%d %H:%M}"
    return span if zone is None else f"{span} {zone}"


class _Lines:
    def __init__(self, record: Record, zone: tzinfo | None) -> None:
        self.lines: list[IndentedLine] = []
        self._zone = zone
        self.left: list[Mapping[str, Any]] = list(record["options"])
        self._count = 0
        self._has_text = bool(record["text"])

    def add(self, level: int, *parts: str) -> None:
        text = " – ".join(visible(part) for part in parts if part)
        if text:
            self.lines.append((level, text))

    def option(self, level: int, more: str = "", *, text: str | None = None) -> None:
        """Add a line for the next of the record's options, if there is one left."""
        if not self.left:
            return
        found = self.left.pop(0)
        self._count += 1
        link = f" {address(found['url'])}" if found["url"] else ""
        self.add(level, f"[{self._count}] {found['text'] if text is None else text}{link}", more)

    def _moment(self, time: str, seconds: Any = None) -> str:
        return moment(time, seconds, self._zone)

    def item(self, item: Item) -> None:
        match item:
            case QuickReplies():
                self.add(0, item.title or "")
                for _ in range(item.count):
                    self.option(0 if item.title is None else 1)
            case Card():
                self._card(item)
            case DatePicker():
                self._date_picker(item)
            case ListPicker():
                self._list_picker(item)
            case Form():
                self._form(item)
            case Picked():
                self.add(0, "" if self._has_text else f"(picked) {item.text}")
            case Location():
                where = " ".join(map(str, item.coordinates))
                self.add(0, f"(place) {item.text}".rstrip(), item.address, where)
                self.add(1, "" if item.url is None else address(item.url))
            case Text():
                self.add(0, item.body)
            case Other():
                self.add(0, f"(cannot show {item.kind or 'content of an unknown kind'})")

    # --- one kind each ---

    def _card(self, card: Card) -> None:
        self.add(0, card.title, card.description)
        for kind, url in card.media:
            self.add(1, f"({kind}) {_file_name(url)} {address(url)}".replace("  ", " "))
        for _ in range(card.count):
            if self.left and self.left[0]["group"] == (card.title or None):
                self.option(1)

    def _date_picker(self, picker: DatePicker) -> None:
        self.add(0, picker.title, picker.subtitle)
        slots = [seconds for time, seconds in picker.slots if time]
        for seconds in slots:
            self.option(1, text=self._moment(self.left[0]["payload"], seconds) if self.left else None)
        if not slots:
            self.add(1, f"({_any_date(picker)})")

    def _list_picker(self, picker: ListPicker) -> None:
        self.add(0, picker.title, picker.subtitle)
        for section in picker.sections:
            own, several = section.title != picker.title, "pick one or more" if section.several else ""
            self.add(1, section.title if own else "", several)
            for entry in section.entries:
                self.option(2 if own or several else 1, entry.more)

    def _form(self, form: Form) -> None:
        for name, text in form.answers or ():
            self.add(0, f"(form) {name}: {text}")
        if form.answers:
            return
        self.add(0, f"(form) {form.title}".rstrip(), form.subtitle)
        for page in form.pages:
            heading = [page.title if page.title != form.title else "", page.subtitle]
            self.add(1, *heading)
            for field in page.fields:
                if field.kind in _FIELDS:
                    self._field(field, 2 if any(heading) else 1)

    def _field(self, field: Field, level: int) -> None:
        title = field.title
        wanted = _FIELDS[field.kind] + (", required" if field.required else "")
        match field.picker:
            case DatePicker() as picker:
                slots = [self._moment(time) for time, _ in picker.slots]
                wanted = f"one of: {', '.join(slots)}" if slots else _any_date(picker)
            case ListPicker() as picker:
                title = title or picker.title
                offered = ", ".join(entry.title for section in picker.sections for entry in section.entries)
                wanted = f"{'one or more' if any(one.several for one in picker.sections) else 'one'} of: {offered}"
            case None if field.kind == "wheelPicker":
                wanted += ": " + ", ".join(entry.title for entry in field.entries)
        self.add(level, f"{field.id}: {title} ({wanted})" if title not in ("", field.id) else f"{field.id}: ({wanted})")


def _any_date(picker: DatePicker) -> str:
    bounds = (("from", picker.earliest[:10]), ("to", picker.latest[:10]))
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
