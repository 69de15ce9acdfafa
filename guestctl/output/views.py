"""Draws records for people: the columns of a conversation, tables of one record, lists.

Knows: the members of records, which columns show them, and when a time is relative. `drawing` draws the columns.
Must not know: streams, machine formats, where records come from.

Every string of a record is treated as hostile (reliability.md §8.3, §8.4). Its control characters are escaped, it is
broken into lines inside its column, and it is never read as markup. So no message can pose as another record.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.text import Text

from guestctl.core.model import OVER
from guestctl.output.columns import Column
from guestctl.output.drawing import STYLES, Canvas, folded, styled
from guestctl.output.event_texts import cell, event_text, is_time, mark, plain, speaker
from guestctl.output.records import Record
from guestctl.output.rich_content_lines import file_lines
from guestctl.output.rich_content_lines import lines as rich_content_lines
from guestctl.output.terminal import Terminal
from guestctl.output.times import distance, relative, stamp, when

#: Columns of a time with its date and its offset from UTC, on one line and on two lines.
_FULL_TIME, _FOLDED_TIME = 25, 14
#: Narrower terminals show the text of a message below its sender.
_NARROWEST_COLUMNS = 40
#: Columns of the delivery, or of the source of a message.
_NOTE = 8
_NUMBER = re.compile(r" *\[[0-9]+\]")

#: Record kind -> the columns of its list, and the member that each shows. The width of a time is that of `relative`.
#: The sessions of a list all belong to the same profile and API.
_LISTS: dict[str, tuple[tuple[Column, str], ...]] = {
    "session": (
        (Column("NAME", 11, 40), "name"),
        (Column("USE", 3), "current"),
        (Column("STATE", 10), "state"),
        (Column("CREATED", 10), "created_at"),
        (Column("EXPIRES", 10), "expires_at"),
    ),
    "profile": (
        (Column("NAME", 12, 16), "name"),
        (Column("DEFAULT", 7), "default"),
        (Column("API", 13, 26, breaks=True), "api"),
        (Column("ADDRESS", 20, 999, breaks=True), "address"),
    ),
    "sandbox-session": (
        (Column("ID", 36), "id"),
        (Column("API", 13, 26, breaks=True), "api"),
        (Column("STATE", 9), "state"),
        (Column("MESSAGES", 8), "messages"),
        (Column("SOCKETS", 7), "sockets"),
        (Column("REFRESHES", 9), "refreshes"),
    ),
    "explanation": (
        (Column("CODE", 27), "code"),
        (Column("TYPE", 7, 12), "type"),
        (Column("MEANING", 18, 60, breaks=True), "meaning"),
        (Column("EXIT", 4), "exit"),
        (Column("API", 16, 999, breaks=True), "apis"),
    ),
    "schema": ((Column("KIND", 18), "name"), (Column("DESCRIPTION", 20, 999), "title")),
    "activity": (
        (Column("TIME", 12), "timestamp"),
        (Column("EVENT", 20, 28), "event"),
        (Column("DETAILS", 20, 999, breaks=True), "details"),
    ),
}


class View:
    """Draws records for one terminal. `now` returns epoch seconds, for dates and the time left.

    `markdown` returns whether agents and bots write Markdown; it is called only for a text that may contain some.
    Without colour, Markdown is shown as it was written. With `full_times` every time has its date and its offset.
    """

    def __init__(
        self,
        terminal: Terminal,
        now: Callable[[], float],
        markdown: Callable[[], bool] = lambda: False,
        *,
        full_times: bool = False,
    ) -> None:
        self._colour = terminal.colour
        self._canvas = Canvas(terminal)
        self._now = now
        self._markdown = markdown
        self._full_times = full_times

    # --- conversations ---

    def header(self) -> str:
        """Draw the header of the columns of a conversation. Where the terminal has no room for columns, it is empty."""
        return "" if self._stacked else self._canvas.table(self._columns(noted=False), [], header=True)

    def line(self, record: Record, *, usual: frozenset[str] = frozenset({"live"})) -> str:
        """Draw one record of a conversation: time, sender, text, and its delivery or its source.

        A source that is among `usual` is not shown.
        """
        note = _note(record, usual)
        columns = self._columns(noted=note is not None)
        width = self._canvas.width - 2 if self._stacked else columns[3].least
        cells = [self._stamp(record.get("time")), styled(mark(record)), _from(record), self._text(record, width)]
        if self._stacked:
            return self._below(cells, note)
        return self._canvas.table(columns, [[*cells, *([note] if note else [])]])

    def content(self, record: Record) -> str:
        """Draw what a message has next to its text: cards, choices, forms and files."""
        return "\n".join(self._canvas.text(line) for line in _content(record, self._canvas.width))

    @property
    def _stacked(self) -> bool:
        return self._canvas.width < _NARROWEST_COLUMNS

    def _columns(self, *, noted: bool) -> list[Column]:
        width = self._canvas.width
        time = self._full_time if self._full_times else 12 if width >= 80 else 8
        columns = [
            Column("TIME", time),
            Column("", 1, gap=1),
            Column("FROM", max(10, min(20, width // 8)), breaks=True),
        ]
        notes = [Column("", _NOTE)] if noted else []
        used = sum(column.least + column.gap for column in (*columns, *notes))
        return [*columns, Column("TEXT", max(1, width - used), breaks=True), *notes]

    @property
    def _full_time(self) -> int:
        """The columns of a time with its date."""
        return _FULL_TIME if self._canvas.width >= 110 else _FOLDED_TIME

    def _below(self, cells: Sequence[Text], note: Text | None) -> str:
        """Draw a record for a narrow terminal: its text is below its sender."""
        time, mark, sender, text = cells
        if note:
            sender = Text.assemble(sender, " (", note, ")", no_wrap=True)
        width = self._canvas.width
        head = [Column("", 8), Column("", 1, gap=1), Column("", width - 12, breaks=True)]
        body = [Column("", 0), Column("", width - 2, breaks=True)]
        drawn = [self._canvas.table(head, [[time, mark, sender]]), self._canvas.table(body, [[Text(), text]])]
        return "\n".join(drawn)

    def _text(self, record: Record, width: int) -> Text:
        if record.get("kind") != "message":
            return styled(event_text(record), _style(record))
        text = None if record["direction"] == "inbound" else self._marked_up(record["text"])
        lines = [styled(record["text"]) if text is None else text] if record["text"] else []
        return Text("\n", no_wrap=True).join([*lines, *_content(record, width)])

    def _marked_up(self, text: str) -> Text | None:
        """Return Markdown as styled lines; None if the text has none, or without colour."""
        if not self._colour:
            return None
        from guestctl.output.markdown import spans

        lines = spans(text)
        if not lines or not self._markdown():
            return None
        return Text("\n", no_wrap=True).join(Text.assemble(*line) for line in lines)

    # --- single results ---

    def card(self, record: Record, more: Mapping[str, Any] | None = None) -> str:
        """Draw one result as a table of two columns; times have their distance from now.

        A member that is a list of objects becomes a table of its own.
        """
        over = record.get("kind") == "session" and record.get("state") in OVER
        rows, tables = [], []
        for name, value in _flat({**record, **(more or {})}):
            if isinstance(value, (list, tuple)) and any(isinstance(item, Mapping) for item in value):
                tables.append(self._nested(name, value))
            elif name != "kind":
                rows.append((name, styled(self._member(name, value, over))))
        return "\n\n".join([self._canvas.pairs(rows), *tables])

    def _member(self, name: str, value: Any, over: bool) -> str:
        if value is None or value in ("", [], {}):
            return "-"
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, (list, tuple)):
            return "\n".join(map(str, value))
        if name.endswith("_at") and isinstance(value, str):
            return when(value) + distance(value, self._now(), ends=name.endswith("expires_at"), over=over)
        return str(value)

    def _nested(self, name: str, items: Sequence[Any]) -> str:
        columns = _LISTS.get(name)
        if columns is None:
            return "\n".join(self._canvas.text(styled(plain(item)), hanging=2) for item in items)
        return self._list(columns, items)

    def columns(self, columns: Sequence[Column], cells: Sequence[tuple[str, str]]) -> str:
        """Draw one row: texts with their styles."""
        return self._canvas.table(columns, [[styled(text, style) for text, style in cells]])

    def parts(self, parts: Sequence[tuple[str, str]], *, hanging: int) -> str:
        """Draw one line: texts with their styles. Lines that continue it are indented by `hanging`."""
        return self._canvas.text(Text.assemble(*(styled(*part) for part in parts), no_wrap=True), hanging=hanging)

    # --- lists ---

    def table(self, records: Sequence[Record]) -> str:
        """Draw a list, as a table or, if its kind has no columns, as one table for each record."""
        known = _LISTS.get(str(records[0].get("kind")))
        if known is None:
            return "\n\n".join(map(self.card, records))
        return self._list(known, records)

    def _list(self, known: Sequence[tuple[Column, str]], records: Sequence[Record]) -> str:
        columns = [self._list_column(*one) for one in known]
        rows = [[styled(self._list_cell(record.get(member), member)) for _, member in known] for record in records]
        return self._canvas.table(columns, rows, header=True)

    def _list_column(self, column: Column, member: str) -> Column:
        return Column(column.header, self._full_time) if self._full_times and is_time(member) else column

    def _list_cell(self, value: Any, member: str) -> str:
        if not (isinstance(value, str) and is_time(member)) or self._full_times:
            return cell(value, member)
        return stamp(value, self._now()) if member == "timestamp" else relative(value, self._now())

    def grid(self, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> str:
        """Draw a table that is not a list of records."""
        return self._canvas.table(columns, [[styled(cell) for cell in row] for row in rows], header=True)

    def _stamp(self, time: str | None) -> Text:
        return styled(when(time) if self._full_times and time else stamp(time, self._now()), "dim")


def _content(record: Record, width: int) -> list[Text]:
    """Return the lines for what a message has next to its text, with the number of each choice in a style."""
    lines = []
    for level, text in [*rich_content_lines(record), *((0, line) for line in file_lines(record))]:
        indent = 2 * level
        line = styled(" " * indent + text)
        numbered = _NUMBER.match(line.plain)
        if numbered:
            line.stylize(STYLES["guest"], indent, numbered.end())
        lines += folded(line, width, hanging=min(indent + 4, width // 2))
    return lines


def _from(record: Record) -> Text:
    if record.get("kind") == "message":
        return styled(speaker(record), "guest" if record["direction"] == "inbound" else "service")
    return styled(speaker(record) if record.get("from") else "", _style(record))


def _style(record: Record) -> str:
    return "warn" if record.get("kind") == "gap" else "dim"


def _note(record: Record, usual: frozenset[str]) -> Text | None:
    """Return the delivery of a message that was sent, or the source of a record where it differs."""
    delivery, source = record.get("delivery"), record.get("source")
    if delivery is not None:
        return styled(str(delivery).replace("_", " "), "service" if delivery == "accepted" else "warn")
    return styled(source, "dim") if source is not None and source not in usual else None


def _flat(record: Mapping[str, Any], above: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in record.items():
        if isinstance(value, Mapping) and value:
            found += _flat(value, f"{above}{name}.")
        else:
            found.append((f"{above}{name}", value))
    return found
