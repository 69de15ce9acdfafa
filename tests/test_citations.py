"""Each citation in code, examples and `explain` leads to a heading of a document that exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from guestctl.cli.commands.explanations import everything
from guestctl.dialects import NAMES

ROOT = Path(__file__).parent.parent
DOCUMENTS = {path.name: path for path in (ROOT / "docs").rglob("*.md")}
#: The documents that are cited by section or heading.
CITED = ("web-messaging.md", "other-apis.md", "contract.md", "reliability.md")
#: Documents that sources name and this repository does not have.
FOREIGN = ("ecosystem.md", "models.md", "users.md", "layout.md", "style.md", "dialects.md", "web-messaging-v1.md")

_DOCUMENT = re.compile(
    r"(?<![\w.-])(?<!\w/)(?:docs/(?:protocol/)?)?(" + "|".join(re.escape(name) for name in CITED) + r")\b"
)
_SECTION = re.compile(r"[\s,]*(?:and\s+)?§\s?(\d+(?:\.\d+)*)(?:,? row (\d+))?")
_ROW = re.compile(r"[\s,]*(?:and\s+)?([ACDNOPW]\d+)\b")
_QUOTED = re.compile(r"[\s,]*(?:and\s+)?[\"“]([^\"”]+)[\"”]")
_SOURCE = re.compile(r"[\s,]*sources? (\d{3})(?: and (\d{3}))?(?: \[(\w+)\])?")
_NAMED = re.compile(r",\s*`?(Shared rules|History page|Pushes|" + "|".join(NAMES) + r")\b`?")


class Citation(NamedTuple):
    """One reference to a place in a document."""

    where: str
    document: str
    place: str


def citations(where: str, text: str) -> Iterator[Citation]:
    """Yield every place that a text cites. A list such as `§5.4, §6.4` yields each of its places."""
    text = re.sub(r"\s*\n\s*(?:#:?\s*)?", " ", text).replace('\\"', '"')
    for found in _DOCUMENT.finditer(text):
        position = found.end()
        stated, real = Path(found[0]), DOCUMENTS[found[1]].relative_to(ROOT)
        yield Citation(where, found[1] if stated in {real, Path(real.name)} else str(stated), "")
        while True:
            section, row, quoted = (kind.match(text, position) for kind in (_SECTION, _ROW, _QUOTED))
            source, named = _SOURCE.match(text, position), _NAMED.match(text, position)
            if section is not None:
                yield Citation(where, found[1], f"§{section[1]}")
                if section[2]:
                    yield Citation(where, found[1], f"row {section[2]}")
            elif source is not None:
                for number in filter(None, source.groups()[:2]):
                    yield Citation(where, found[1], f"source {number}")
                if source[3]:
                    yield Citation(where, found[1], f"[{source[3]}]")
            elif named is not None:
                yield Citation(where, found[1], named[1])
            elif row is not None and found[1] == "reliability.md":
                yield Citation(where, found[1], row[1])
            elif quoted is not None and quoted[1] in headings(found[1]) | {"guest-sessions"}:
                yield Citation(where, found[1], quoted[1])
            else:
                break
            position = next(match for match in (section, source, named, row, quoted) if match is not None).end()


@cache
def content(document: str) -> str:
    return DOCUMENTS[document].read_text(encoding="utf-8")


@cache
def headings(document: str) -> frozenset[str]:
    """Return the headings of a document, and for `## 5.4 Name` also `§5.4`."""
    titles = re.findall(r"^#+ (.+)$", content(document), re.MULTILINE)
    numbers = (re.match(r"(\d+(?:\.\d+)*)\.? ", title) for title in titles)
    return frozenset(titles) | {f"§{number[1]}" for number in numbers if number is not None}


def resolves(citation: Citation) -> bool:
    """Return whether the place exists: a heading, a row of a table, or a source that is described."""
    if citation.document not in DOCUMENTS:
        return False
    place = citation.place
    if not place or place in headings(citation.document):
        return True
    if place.startswith("["):
        return place in content(citation.document)
    if place.startswith("row "):
        return f"\n| {place[4:]} |" in content(citation.document)
    row = rf"^\| {re.escape(place)}(?: \||,)|^\| [A-Z]\d+, {re.escape(place)} \|"
    return re.search(row, content(citation.document), re.MULTILINE) is not None or _in_a_range(place, citation.document)


def _in_a_range(place: str, document: str) -> bool:
    ranges = re.findall(r"^\| ([A-Z])(\d+)–[A-Z](\d+) \|", content(document), re.MULTILINE)
    return any(place[0] == kind and int(low) <= int(place[1:]) <= int(high) for kind, low, high in ranges)


def _files() -> Iterator[Path]:
    for folder in ("guestctl", "tests", "tools"):
        for path in sorted((ROOT / folder).rglob("*")):
            if "node_modules" in path.parts:
                continue
            if path.suffix in {".py", ".yaml", ".md"} and path.name not in {"test_citations.py", "test_examples.py"}:
                yield path


def test_every_citation_resolves() -> None:
    found = [each for path in _files() for each in citations(str(path.relative_to(ROOT)), path.read_text("utf-8"))]
    assert len(found) > 200
    assert not [f"{each.where}: {each.document} {each.place}" for each in found if not resolves(each)]


def test_no_file_cites_a_document_that_is_not_here() -> None:
    foreign = re.compile(r"(?<![\w/-])(" + "|".join(re.escape(name) for name in FOREIGN) + r")(?![\w-])")
    assert not [
        f"{path.relative_to(ROOT)}: {found[1]}"
        for path in _files()
        for found in foreign.finditer(path.read_text(encoding="utf-8"))
    ]


#: A section that is cited without its document, such as `(§5.4)`.
_BARE = re.compile(r"(?<!row )§(\d+(?:\.\d+)*)")
_OTHER_STANDARDS = re.compile(
    r"(?:RFC \d+|YAML [\d.]+|Trace Context|ECMA-48|UAX ?#?\d+|TAP \d+|HTML)[,;]? §[\d.]+(?:, §[\d.]+)*"
)


def test_a_section_without_a_document_is_one_of_the_web_messaging_page() -> None:
    folders = ("guestctl/sandbox", "guestctl/dialects/web_messaging", "guestctl/client.py")
    missing = []
    for path in _files():
        name = str(path.relative_to(ROOT))
        if not name.startswith(folders):
            continue
        text = re.sub(r"\s*\n\s*(?:#:?\s*)?", " ", path.read_text(encoding="utf-8"))
        text = _OTHER_STANDARDS.sub("", text)
        text = re.sub(r"(contract|reliability|other-apis)\.md,?(?:[, ]*(?:and )?§[\d.]+)+", "", text)
        missing += [
            f"{name}: §{number}"
            for number in _BARE.findall(text)
            if f"§{number.rstrip('.')}" not in headings("web-messaging.md")
        ]
    assert not missing


def test_every_source_of_explain_resolves() -> None:
    sources = {entry.source for entry in everything() if entry.source}
    assert len(sources) > 20
    for source in sources:
        found = list(citations("explain", source))
        assert found or source.startswith("RFC "), source
        assert all(map(resolves, found)), source
        assert len(found) > 1 or source in CITED or source.startswith("RFC "), f"{source} names no place"


def test_every_source_of_an_example_resolves() -> None:
    for path in sorted((ROOT / "tests" / "wire").rglob("*.yaml")):
        for source in re.findall(r"^ *source: (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE):
            found = list(citations(path.name, str(yaml.safe_load(source))))
            assert len(found) > 1 or source.startswith("captured"), f"{path.name}: {source}"
            assert all(map(resolves, found)), f"{path.name}: {source}"


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("web-messaging.md §5.4, §6.4)", ["", "§5.4", "§6.4"]),
        ("web-messaging.md, §12 row 3", ["", "§12", "row 3"]),
        ("reliability.md §2.3 and §3 ask", ["", "§2.3", "§3"]),
        ("docs/reliability.md A16)", ["", "A16"]),
        ("other-apis.md, guest-sessions, 409", ["", "guest-sessions"]),
        ("other-apis.md, `guests`, token", ["", "guests"]),
        ('other-apis.md, "History page", "Pushes")', ["", "History page", "Pushes"]),
        ("other-apis.md, source 000 [q])", ["", "source 000", "[q]"]),
        ("other-apis.md, sources 002 and 003)", ["", "source 002", "source 003"]),
        ("contract.md §4,\n    # §5)", ["", "§4", "§5"]),
    ],
)
def test_a_citation_is_read(text: str, places: list[str]) -> None:
    assert [each.place for each in citations("here", text)] == places


@pytest.mark.parametrize("place", ["§99", "row 99", "W99", "guest", "source 009", "[q9]"])
def test_a_place_that_does_not_exist_is_noticed(place: str) -> None:
    assert not any(resolves(Citation("here", document, place)) for document in CITED)
    assert not resolves(Citation("here", "absent.md", ""))
    assert not all(map(resolves, citations("here", "docs/protocol/contract.md §5")))
