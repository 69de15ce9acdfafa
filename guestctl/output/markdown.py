"""Renders a bot's or an agent's Markdown as styled lines, for a terminal with colour.

Knows: which Markdown a terminal can show. No text may control the terminal: every piece is escaped after
parsing, so that no HTML entity brings in a control character. Must not know: widths, streams, whether the
deployment has Markdown. markdown-it-py does the parsing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeAlias

from guestctl.output.rich_content_lines import address
from guestctl.output.terminal import visible

if TYPE_CHECKING:
    from markdown_it.token import Token

#: Visible text, and its style as rich writes it ("" for none).
Span: TypeAlias = tuple[str, str]

#: A text without a match has no Markdown.
_MARKED = re.compile(r"[*_`\[~#>\\&<]|^\s*(?:[-+]|\d+[.)])\s|^\s*[-=]{2,}\s*$", re.MULTILINE)
#: A longer text is shown unrendered.
_LONGEST = 20_000
_STYLES = {"strong": "bold", "em": "italic", "s": "strike", "link": "underline"}


def spans(text: str) -> list[list[Span]] | None:
    """Return the lines of a text, each as styled pieces; None if the text has no Markdown."""
    if len(text) > _LONGEST or not _MARKED.search(text):
        return None
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable("strikethrough")
    writer = _Writer(text)
    for token in parser.parse(text):
        writer.block(token)
    return writer.lines


class _Writer:
    def __init__(self, text: str) -> None:
        self.lines: list[list[Span]] = []
        self._source = text.split("\n")
        #: The text before each line, and the one that replaces it before the next line (a list's marker).
        self._margins: list[str] = []
        self._marker: str | None = None
        self._heading = False

    def block(self, token: Token) -> None:
        kind = token.type
        if token.map and kind != "inline" and self.lines and self.lines[-1]:
            # Keep the blank lines of the source, but never two in a row.
            self.lines += [] if self._source[token.map[0] - 1].strip() else [[]]
        if kind == "list_item_open":
            self._marker = f"{token.info}. " if token.info else "- "
            self._margins.append(" " * len(self._marker))
        elif kind == "blockquote_open":
            self._margins.append("| ")
        elif kind in {"list_item_close", "blockquote_close"}:
            self._margins.pop()
            self._marker = None
        elif kind in {"heading_open", "heading_close"}:
            self._heading = kind == "heading_open"
        elif kind in {"fence", "code_block"}:
            for code in token.content.rstrip("\n").split("\n"):
                self._line([(visible(code, lines=True), "")])
        elif kind == "hr":
            self._line([("----", "")])
        elif kind == "inline":
            for line in _inline(token.children or [], "bold" if self._heading else ""):
                self._line(line)

    def _line(self, pieces: list[Span]) -> None:
        margins = self._margins
        if self._marker is not None:
            margins, self._marker = [*margins[:-1], self._marker], None
        margin = "".join(margins)
        self.lines.append([(margin, ""), *pieces] if margin else pieces)


def _inline(tokens: list[Token], base: str) -> list[list[Span]]:
    lines: list[list[Span]] = [[]]
    on: list[str] = [base] if base else []
    links: list[tuple[str, int, int]] = []

    def put(text: str) -> None:
        if text:
            lines[-1].append((visible(text), " ".join(dict.fromkeys(on))))

    for token in tokens:
        name = token.type.removesuffix("_open").removesuffix("_close")
        if token.type in {"softbreak", "hardbreak"}:
            lines.append([])
        elif token.type == "code_inline":
            put(f"`{token.content}`")
        elif token.type == "image":
            put(f"(image) {token.content} ".replace("  ", " "))
            lines[-1].append((address(str(token.attrGet("src") or "")), ""))
        elif name in _STYLES and token.nesting == 1:
            on.append(_STYLES[name])
            if name == "link":
                links.append((str(token.attrGet("href") or ""), len(lines) - 1, len(lines[-1])))
        elif name in _STYLES and token.nesting == -1:
            on.remove(_STYLES[name])
            if name == "link" and links:
                href, line, piece = links.pop()
                words = "".join(text for text, _ in lines[line][piece:]) if line == len(lines) - 1 else ""
                if words != visible(href):
                    lines[-1].append((f" {address(href)}", ""))
        else:
            put(token.content)
    return lines
