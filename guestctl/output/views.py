"""Renders records for a terminal: chat lines, cards and tables.

Knows: the members of records and the properties of one terminal; that times are local, with the time of day in
a chat and with the offset from UTC elsewhere. Must not know: streams, machine formats, where records come from.

Every string of a record is treated as hostile (reliability.md §8.3, §8.4). Its control characters are escaped,
it is folded here, and it is never read as markup. So no message can pose as another record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from guestctl.core.clock import epoch_of
from guestctl.core.humanize import format_duration, format_size
from guestctl.core.model import OVER
from guestctl.output.records import Record
from guestctl.output.rich_content_lines import lines as rich_content_lines
from guestctl.output.terminal import Terminal, block, cells, fold, folded_rows, visible

_LONGEST_NAME = 40
#: Spaces between two columns.
_GAP = 2
#: Width of a column of prose whose long words may be broken.
_NARROWEST_PROSE = 16
_STYLES = {"dim": "2", "bold": "1", "guest": "36", "service": "32", "warn": "33", "bad": "31"}

#: Record kind -> the columns of its list: header and member.
_COLUMNS: dict[str, tuple[tuple[str, str], ...]] = {
    "session": (
        ("NAME", "name"),
        ("IN USE", "current"),
        ("STATE", "state"),
        ("API", "api"),
        ("PROFILE", "profile"),
        ("CREATED", "created_at"),
        ("EXPIRES", "expires_at"),
    ),
    "profile": (("NAME", "name"), ("DEFAULT", "default"), ("API", "api"), ("ADDRESS", "address")),
    "sandbox-session": (
        ("ID", "id"),
        ("API", "api"),
        ("STATE", "state"),
        ("MESSAGES", "messages"),
        ("SOCKETS", "sockets"),
        ("REFRESHES", "refreshes"),
    ),
    "explanation": (("CODE", "code"), ("TYPE", "type"), ("MEANING", "meaning"), ("EXIT", "exit"), ("API", "apis")),
    "schema": (("KIND", "name"), ("DESCRIPTION", "title")),
}

#: Headers of columns in which a long word may be broken.
_PROSE = ("MEANING", "API")


class View:
    """Renders records for one terminal. `now` returns epoch seconds, for dates and the time left.

    `markdown` returns whether agents and bots write Markdown; it is called only for a text that may contain some.
    Without colour, Markdown is shown as it was written.
    """

    def __init__(
        self, terminal: Terminal, now: Callable[[], float], markdown: Callable[[], bool] = lambda: False
    ) -> None:
        self._terminal = terminal
        self._now = now
        self._markdown = markdown

    # --- streams ---

    def line(self, record: Record) -> str:
        """Render one record of a stream: a message as a chat line, anything else as a remark."""
        if record.get("kind") == "message":
            return self._chat(record)
        return self._remark(record)

    def _chat(self, record: Record) -> str:
        guest = record["direction"] == "inbound"
        stamp, name = self._stamp(record["time"]), _speaker(record)
        indent = len(stamp) + 3
        head = f"{self._paint(stamp, 'dim')} {'>' if guest else '<'} "
        style = "guest" if guest else "service"
        body = None if guest else self._marked_up(name, record["text"], indent, style)
        if body is None:
            body = block(f"{name}: {record['text']}", indent, self._terminal.width)
            # The name gets its colour after folding, because style codes have no width. A name that was folded itself
            # gets none.
            if body.startswith(f"{name}:"):
                body = self._paint(f"{name}:", style) + body.removeprefix(f"{name}:")
        lines = [head + body, *self._content(record, indent)]
        if record.get("delivery", "accepted") != "accepted":
            lines.append(" " * indent + f"({record['delivery'].replace('_', ' ')})")
        return "\n".join(lines)

    def content(self, record: Record) -> str:
        """Render what a message has next to its text: cards, choices, forms and files."""
        return "\n".join(self._content(record, 0))

    def _content(self, record: Record, indent: int) -> list[str]:
        lines = [self._indented(text, indent + 2 * level) for level, text in rich_content_lines(record)]
        return lines + [self._indented(_file(attachment), indent) for attachment in record["attachments"]]

    def _indented(self, text: str, indent: int) -> str:
        """Render a separate line; its continuation rows are indented further."""
        width = self._terminal.width
        indent = indent if width is None else min(indent, width // 2)
        return " " * indent + self._folded(text, indent, further=4)

    def _marked_up(self, name: str, text: str, indent: int, style: str) -> str | None:
        """Render Markdown as styled lines; None if the text has none, or without colour."""
        if not self._terminal.colour:
            return None
        from guestctl.output.markdown import spans

        lines = spans(text)
        if not lines or not self._markdown():
            return None
        lines[0].insert(0, (" ", ""))
        lines[0].insert(0, (f"{name}:", _STYLES[style]))
        width = self._terminal.width
        room = None if width is None else max(10, width - indent)
        rows = [row for line in lines for row in _fold_spans(line, room)]
        return ("\n" + " " * indent).join(
            "".join(f"\x1b[{codes}m{piece}\x1b[0m" if codes else piece for piece, codes in row) for row in rows
        )

    def _remark(self, record: Record) -> str:
        words = _REMARKS.get(str(record.get("kind")), _plain)(record)
        stamp = self._stamp(record.get("time"))
        mark = "!" if record.get("kind") == "gap" else "*"
        style = "warn" if mark == "!" else "dim"
        return self._paint(f"{stamp} {mark} {self._folded(words, len(stamp) + 3)}", style)

    # --- single results ---

    def card(self, record: Record, more: Mapping[str, Any] | None = None) -> str:
        """Render one result with one member on each line; times have their distance from now."""
        rows = [(name, value) for name, value in _flat({**record, **(more or {})}) if name != "kind"]
        over = record.get("kind") == "session" and record.get("state") in OVER
        widest = max((len(name) for name, _ in rows), default=0)
        return "\n".join(
            f"{self._paint(name.ljust(widest), 'dim')}  "
            + block(self._member(name, value, over), widest + 2, self._terminal.width)
            for name, value in rows
        )

    def _member(self, name: str, value: Any, over: bool) -> str:
        if value is None or value in ("", [], {}):
            return "-"
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, (list, tuple)):
            return "\n".join(self._entry(item) for item in value)
        if name.endswith("_at") and isinstance(value, str):
            return f"{when(value)}{self._distance(value, ends=name.endswith('expires_at'), over=over)}"
        return str(value)

    def _entry(self, item: Any) -> str:
        if isinstance(item, Mapping):
            return self._chat(dict(item)) if item.get("kind") == "message" else _plain(item)
        return str(item)

    def labelled(self, label: str, text: str, style: str | None = None) -> str:
        """Render a label and a text; the text's continuation lines are indented under its first."""
        shown = self._paint(label, style) if style else label
        return shown + block(text, len(label), self._terminal.width)

    # --- lists ---

    def table(self, records: Sequence[Record]) -> str:
        """Render a list as aligned columns. Cells are folded on a terminal and never truncated (see `layout`)."""
        if not records:
            return ""
        columns = _COLUMNS.get(str(records[0].get("kind"))) or tuple(
            (key.upper().replace("_", " "), key) for key in records[0] if key != "kind"
        )
        rows = [[_cell(record.get(path), path) for _, path in columns] for record in records]
        return layout([header for header, _ in columns], rows, self._terminal, prose=_PROSE)

    # --- pieces ---

    def _folded(self, text: str, indent: int, further: int = 0) -> str:
        width = self._terminal.width
        room = None if width is None else max(10, width - indent - further)
        return ("\n" + " " * (indent + further)).join(folded_rows(text, room))

    def _paint(self, text: str, style: str) -> str:
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if self._terminal.colour else text

    def _stamp(self, time: str | None) -> str:
        """Return the local time of day, with the date if it is not today."""
        moment = _local(time)
        if moment is None:
            return "--:--:--"
        today = datetime.fromtimestamp(self._now()).date()
        return f"{moment:%H:%M:%S}" if moment.date() == today else f"{moment:%Y-%m-%d %H:%M:%S}"

    def _distance(self, time: str, *, ends: bool, over: bool) -> str:
        """Return the distance from now in brackets. `ends`: the time is an expiry. `over`: the session has ended."""
        try:
            seconds = epoch_of(time) - self._now()
        except (ValueError, OverflowError):
            return " (?)"
        if seconds > 0:
            return "" if ends and over else f" (in {format_duration(seconds)})"
        return f" ({'expired ' if ends else ''}{format_duration(-seconds)} ago)"


def _fold_spans(spans: Sequence[tuple[str, str]], room: int | None) -> list[list[tuple[str, str]]]:
    """Fold styled pieces into rows of at most `room` columns."""
    rows: list[list[tuple[str, str]]] = []
    left = list(spans)
    for row in fold("".join(text for text, _ in spans), room):
        rows.append([])
        length = len(row)
        while left and length >= len(left[0][0]):
            length -= len(left[0][0])
            rows[-1].append(left.pop(0))
        if length:
            text, codes = left[0]
            rows[-1].append((text[:length], codes))
            left[0] = (text[length:], codes)
    return rows


def layout(headers: Sequence[str], rows: Sequence[Sequence[str]], terminal: Terminal, prose: Sequence[str] = ()) -> str:
    """Render aligned columns. The caller has escaped the texts with `visible`.

    Cells are folded between words. A terminal that is too narrow for that gets one block for each row. Only in columns
    whose header is in `prose` may a long word be broken instead.
    """
    widths: Sequence[int | None] = [None] * len(headers)
    if terminal.width is not None:
        found = _column_widths(headers, rows, terminal.width, prose)
        if found is None:
            return _blocks(headers, rows, terminal)
        widths = found
    from io import StringIO

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold" if terminal.colour else "", padding=(0, _GAP, 0, 0))
    for header, width in zip(headers, widths, strict=True):
        table.add_column(Text(header), overflow="fold", no_wrap=terminal.width is None, width=width)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    widest = sum(max(2 * len(cell) for cell in column) + 2 for column in zip(headers, *rows, strict=True))
    console = Console(
        file=StringIO(),
        width=terminal.width or widest,
        force_terminal=terminal.colour,
        color_system="standard" if terminal.colour else None,
        no_color=not terminal.colour,
        markup=False,
        emoji=False,
        highlight=False,
        legacy_windows=False,
    )
    with console.capture() as drawn:
        console.print(table)
    return "\n".join(line.rstrip() for line in drawn.get().rstrip("\n").split("\n"))


def _column_widths(
    headers: Sequence[str], rows: Sequence[Sequence[str]], width: int, prose: Sequence[str]
) -> Sequence[int] | None:
    """Return widths that break no word, None if there are none. The longest cells get the columns that are left."""
    columns = list(zip(headers, *rows, strict=True))
    natural = [max(map(_width, column)) for column in columns]
    widths = [
        max([_width(header), *(_width(word) for cell in column for word in cell.split(" "))])
        for header, *column in columns
    ]
    left = width - _GAP * (len(columns) - 1) - sum(widths)
    for at, header in enumerate(headers):
        if left < 0 and header in prose:
            narrower = max(min(widths[at], _NARROWEST_PROSE), widths[at] + left)
            left += widths[at] - narrower
            widths[at] = narrower
    if left < 0:
        return None
    for _ in range(left):
        at = max(range(len(columns)), key=lambda at: natural[at] / max(1, widths[at]))
        if widths[at] >= natural[at]:
            break
        widths[at] += 1
    return widths


def _width(text: str) -> int:
    return sum(map(cells, text))


def _blocks(headers: Sequence[str], rows: Sequence[Sequence[str]], terminal: Terminal) -> str:
    """Render each row as lines of a header and a cell. An empty line separates two rows."""
    indent = max(map(len, headers)) + _GAP
    bold = "\x1b[1m{}\x1b[0m" if terminal.colour else "{}"
    return "\n\n".join(
        "\n".join(
            (bold.format(header.ljust(indent)) + block(cell, indent, terminal.width)).rstrip()
            for header, cell in zip(headers, row, strict=True)
        )
        for row in rows
    )


def when(time: str) -> str:
    """Return a time as local time with its offset from UTC. A text that is not a time is returned as it is."""
    moment = _local(time)
    return visible(time) if moment is None else moment.astimezone().isoformat(" ", "seconds")


def _local(time: str | None) -> datetime | None:
    try:
        return None if time is None else datetime.fromtimestamp(epoch_of(time))
    except (ValueError, OverflowError, OSError):
        return None


def _speaker(record: Mapping[str, Any]) -> str:
    sender = record["from"]
    fallback = "guest" if record.get("direction") == "inbound" else "service"
    return visible(sender["name"] or sender["role"] or fallback)[:_LONGEST_NAME]


def _file(attachment: Mapping[str, Any]) -> str:
    parts = [attachment["name"] or attachment["mime"] or "unnamed", format_size(attachment["size"])]
    kind = {"Image": "image", "Video": "video", "Audio": "audio"}.get(attachment["media_type"] or "", "file")
    named = [*parts, *([attachment["id"]] if attachment["id"] else [])]
    return f"({kind}) " + ", ".join(visible(part) for part in named)


def _typing(record: Mapping[str, Any]) -> str:
    return f"{_speaker(record)} is typing"


def _presence(record: Mapping[str, Any]) -> str:
    ended = "; the conversation is read-only" if record["read_only"] else ""
    return f"presence: {visible(record['presence'])}{ended}"


def _participant_event(record: Mapping[str, Any]) -> str:
    reactions = record["details"].get("reactions")
    found = [_reaction(one) for one in reactions if isinstance(one, Mapping)] if isinstance(reactions, list) else []
    words = ", ".join(found) or record["status"] or "-"
    return f"{record['kind']}: {visible(words)}"


def _reaction(reaction: Mapping[str, Any]) -> str:
    return f"{reaction.get('reactionType')} {reaction.get('count')}"


def _service_error(record: Mapping[str, Any]) -> str:
    code = "" if record["code"] is None else f" ({record['code']})"
    return f"error: {visible(record['message'] + code)}"


def _session(record: Mapping[str, Any]) -> str:
    reason = f": {visible(record['reason'])}" if record.get("reason") else ""
    return f"session {record['change'].replace('_', ' ')}{reason}" if "change" in record else _plain(record)


def _connection(record: Mapping[str, Any]) -> str:
    words = record["state"].replace("_", " ")
    if record["state"] == "retrying" and record["delay"] is not None:
        words += f" in {record['delay']:.1f} s (attempt {record['attempt']})"
    if record["close_code"] is not None:
        words += f" (close {record['close_code']})"
    if record["recovered"]:
        words += f", {record['recovered']} recovered"
    return f"{words}: {visible(record['detail'])}" if record["detail"] else words


def _gap(record: Mapping[str, Any]) -> str:
    ends = (visible(record[end] or "?") for end in ("after", "before"))
    return f"gap between {' and '.join(ends)}: {visible(record['reason'])}"


def _unknown(record: Mapping[str, Any]) -> str:
    return f"unknown: {visible(record['label'])}"


_REMARKS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "typing": _typing,
    "presence": _presence,
    **dict.fromkeys(("receipt", "cobrowse", "video", "reactions"), _participant_event),
    "error": _service_error,
    "session": _session,
    "connection": _connection,
    "gap": _gap,
    "unknown": _unknown,
}


def _plain(record: Mapping[str, Any]) -> str:
    return "  ".join(_inline(value, name) for name, value in record.items() if name != "kind")


def _inline(value: Any, name: str = "") -> str:
    """Return a value in a sentence or a list, where `*` and nothing would not read as yes and no."""
    return ("yes" if value else "no") if isinstance(value, bool) else _cell(value, name)


def _cell(value: Any, name: str = "") -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, str) and (name.endswith("_at") or name == "timestamp"):
        return when(value)
    if isinstance(value, bool):
        return "*" if value else ""
    if isinstance(value, Mapping):
        return " ".join(f"{visible(str(name))}={_inline(member)}" for name, member in value.items()) or "-"
    if isinstance(value, (list, tuple)):
        return str(len(value)) if any(isinstance(item, Mapping) for item in value) else ", ".join(map(_cell, value))
    return visible(str(value))


def _flat(record: Mapping[str, Any], above: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in record.items():
        if isinstance(value, Mapping) and value:
            found += _flat(value, f"{above}{name}.")
        else:
            found.append((f"{above}{name}", value))
    return found
