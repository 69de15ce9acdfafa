"""Renders a conversation as a document in Markdown, HTML or plain text, message by message.

Knows: the message and presence records. Must not know: streams, where records come from. Remote text is
escaped for the document's format and never becomes markup. Times are UTC.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import timezone
from typing import Literal, TypeAlias

from guestctl.core.humanize import format_size
from guestctl.output import rich_content_lines
from guestctl.output.records import Record
from guestctl.output.terminal import visible

Format: TypeAlias = Literal["md", "html", "txt"]
FORMATS: tuple[Format, ...] = ("md", "html", "txt")

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~&$^=:@\"'])")
_HTML_HEAD = (
    '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>Conversation</title>\n'
    "<style>body{font:16px/1.5 sans-serif;max-width:45em;margin:2em auto}"
    "article{margin:.8em 0}header{color:#555}p{margin:0;white-space:pre-wrap}"
    ".inbound header{color:#06c}.event{color:#777}</style></head>\n<body>\n"
)


def document(records: Iterable[Record], form: Format) -> Iterator[str]:
    """Yield the document in pieces, each ending with a newline, as the records arrive."""
    if form == "html":
        yield _HTML_HEAD
    for record in records:
        if record["kind"] == "message":
            yield _MESSAGE[form](record)
        elif record["kind"] == "presence":
            yield _EVENT[form](record)
    if form == "html":
        yield "</body>\n</html>\n"


def _sender_name(record: Record) -> str:
    sender = record["from"]
    name = sender["name"] or sender["role"] or ("guest" if record["direction"] == "inbound" else "service")
    return str(name)


def _rich_content(record: Record) -> list[rich_content_lines.IndentedLine]:
    return rich_content_lines.lines(record, timezone.utc)


def _files(record: Record) -> list[str]:
    return [
        f"{file['name'] or file['mime'] or 'unnamed'} ({format_size(file['size'])})" for file in record["attachments"]
    ]


def _md(text: str) -> str:
    """Return text escaped so that CommonMark shows it unchanged; line breaks are kept."""
    lines = (_MARKDOWN.sub(r"\\\1", line.strip()) for line in visible(text, lines=True).split("\n"))
    return "  \n".join(re.sub(r"^(\d+)\\?([.)])", r"\1\\\2", line) for line in lines)


def _html(text: str) -> str:
    from html import escape

    return escape(visible(text, lines=True), quote=True)


def _message_md(record: Record) -> str:
    parts = [f"**{_md(_sender_name(record))}** · {record['time'] or 'time unknown'}", ""]
    if record["text"]:
        parts += [_md(record["text"]), ""]
    parts += [f"{'  ' * level}- {_md(text)}" for level, text in _rich_content(record)]
    parts += [f"- file: {_md(file)}" for file in _files(record)]
    return "\n".join(parts).rstrip("\n") + "\n\n"


def _message_html(record: Record) -> str:
    items = [f'<li style="margin-left:{level}em">{_html(text)}</li>' for level, text in _rich_content(record)]
    items += [f"<li>file: {_html(file)}</li>" for file in _files(record)]
    listed = "<ul>" + "".join(items) + "</ul>" if items else ""
    return (
        f'<article class="{record["direction"]}"><header>{_html(_sender_name(record))} '
        f"<time>{_html(record['time'] or '')}</time></header><p>{_html(record['text'])}</p>{listed}</article>\n"
    )


def _message_txt(record: Record) -> str:
    lines = visible(record["text"], lines=True).split("\n")
    lines += ["  " * level + text for level, text in _rich_content(record)]
    lines += [f"(file) {visible(file)}" for file in _files(record)]
    head = f"{record['time'] or 'time unknown'} {visible(_sender_name(record))}: "
    return head + "\n    ".join(lines) + "\n"


def _event_md(record: Record) -> str:
    return f"*{_md(record['presence'])}* · {record['time']}\n\n"


def _event_html(record: Record) -> str:
    return f'<p class="event">{_html(record["presence"])} <time>{_html(record["time"])}</time></p>\n'


def _event_txt(record: Record) -> str:
    return f"{record['time']} * {visible(record['presence'])}\n"


_MESSAGE = {"md": _message_md, "html": _message_html, "txt": _message_txt}
_EVENT = {"md": _event_md, "html": _event_html, "txt": _event_txt}
