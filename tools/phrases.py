"""Finds phrases that readers have to decode: `python -m tools.phrases [PATH…]`.

Knows: the phrases, what to write instead, and where prose stands in the repository: Markdown, comments, docstrings,
string literals of the package, and test names. Must not know: what a text is about.

Each finding is printed with its file and line. The last lines count the findings per folder. Exit code 1 means that
there are findings. Without paths the whole repository is searched.
"""

from __future__ import annotations

import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent

#: A pattern, matched as whole words in any case -> what to write instead.
PHRASES = {
    "whence": "where … comes from",
    "thence|hence": "therefore, or a second sentence",
    "mend(s|ed|ing)?": "fix",
    "doubles|doubled (keys?|messages?)": "duplicates, duplicate keys",
    "of (ours|theirs|mine)": "our …, or name the owner",
    "a bug of": "internal error",
    "goes? behind": "comes after",
    "what (was|is) awaited|what is over": "the awaited reply, an expired session",
    "(is|are|was|were|be|been) told": "is reported, is printed",
    "is well": "is OK",
    "goes? with neither": "cannot be combined with",
    "stderr is talk": "diagnostics go to stderr",
    "at most so often": "the maximum number",
    "beside": "next to, with, compared with",
    "whoever|whomever|whosoever": "the caller, anyone who",
    "meanwhile": "at the same time, in between",
    "com(e|es|ing) to grief|came to grief": "crash, fail",
    "spoil(s|t|ed|ing)?": "invalid, corrupt",
    "to be had": "available",
    "anew|afresh": "again, from the start",
    "led astray|lead astray|gone astray": "misdirected, lost",
    "for want of": "without, because … is missing",
    "knocks?|knocked|knocking": "connects, retries",
    "untold": "unreported",
    "lest": "so that … not",
    "naught|nought": "nothing, zero",
    "wherein|whereby|whereupon|thereof|thereby|therein|herein": "an ordinary preposition and noun",
    "tells? (of|apart)": "reports, distinguishes",
    "told apart|is apart": "distinguished",
    "(holds?|held|keeps?|kept) (its|one's|his) peace": "sends nothing",
    "as long as it had": "for its own time limit",
    "good for nothing": "unusable",
    "not? (good|of use) any more": "no longer valid",
    "takes? (its|their) leave": "disconnects",
    "gives? (itself|themselves) up": "stops",
    "what stands (in|behind|before)": "the content of",
    "has (its|a|one) say": "sends",
    "so (many|much|long) (seconds|minutes|messages|at once|more|as there)": 'the number, or "for some seconds"',
    "turned away": "refused",
    "made to say": "sends",
    "hears? (of|from)": "is informed, receives",
    "befalls?|befell": "a fault of, happens to",
    "behind (its|the) (back|line)": "the admin endpoint, after the line",
    "hand(s|ed)? on": "pass, deliver",
    "no more than a name": "a name without a path",
}
_PATTERN = re.compile(
    "|".join(rf"(?P<p{number}>(?<![\w-])(?:{pattern})(?![\w-]))" for number, pattern in enumerate(PHRASES)),
    re.IGNORECASE,
)
_ADVICE = list(PHRASES.values())
_SKIPPED = {"phrases.py", "test_phrases.py"}


class Finding(NamedTuple):
    """A phrase in a file."""

    path: Path
    line: int
    phrase: str
    instead: str

    def __str__(self) -> str:
        return f'{self.path}:{self.line}: "{self.phrase}": {self.instead}'


class Passage(NamedTuple):
    """A run of prose and the line on which it starts."""

    line: int
    text: str


def passages(path: Path, text: str) -> Iterator[Passage]:
    """Return the prose of one file. Python files yield comments, strings and test names, others each paragraph."""
    if path.suffix == ".py":
        yield from _python(text, every_string="guestctl" in path.parts)
        return
    line = 1
    for paragraph in re.split(r"(\n\s*\n)", text):
        yield Passage(line, paragraph)
        line += paragraph.count("\n")


def _python(text: str, *, every_string: bool) -> Iterator[Passage]:
    comment: list[str] = []
    start = last = 0
    previous = ""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            if comment and token.start[0] != last + 1:
                yield Passage(start, "\n".join(comment))
                comment = []
            if not comment:
                start = token.start[0]
            comment.append(token.string.lstrip("#: "))
            last = token.start[0]
        elif token.type == tokenize.STRING or tokenize.tok_name[token.type] == "FSTRING_MIDDLE":
            if every_string or token.string.lstrip("rRbBuU").startswith('"""'):
                yield Passage(token.start[0], token.string)
        elif previous == "def" and token.string.startswith("test_"):
            yield Passage(token.start[0], token.string.replace("_", " "))
        previous = token.string
    if comment:
        yield Passage(start, "\n".join(comment))


def findings(path: Path, text: str) -> list[Finding]:
    """Return the phrases in the text of one file. Line breaks inside a phrase do not hide it."""
    found = []
    for line, prose in passages(path, text):
        flat = re.sub(r"\s", " ", prose)
        flat = re.sub(r"(?<= ) +", lambda match: "\0" * len(match[0]), flat)
        kept = [index for index, character in enumerate(flat) if character != "\0"]
        squeezed = flat.replace("\0", "")
        for match in _PATTERN.finditer(squeezed):
            at = line + prose.count("\n", 0, kept[match.start()])
            found.append(Finding(path, at, match[0], _ADVICE[int((match.lastgroup or "p0")[1:])]))
    return found


def files(paths: list[Path]) -> Iterator[Path]:
    """Return the files with prose below the paths, in order."""
    for path in paths:
        if path.is_file():
            yield path
            continue
        for found in sorted(path.rglob("*")):
            parts = found.relative_to(path).parts
            hidden = any(part.startswith(".") or part.endswith((".egg-info", "node_modules")) for part in parts)
            if found.suffix in {".py", ".md"} and not hidden and found.name not in _SKIPPED:
                yield found


def search(paths: list[Path]) -> list[Finding]:
    """Return the phrases in all files below the paths."""
    return [
        finding._replace(path=path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)
        for path in files(paths)
        for finding in findings(path, path.read_text(encoding="utf-8"))
    ]


def main(arguments: list[str]) -> int:
    """Print the findings and a count per folder. Return the exit code."""
    found = search([Path(argument).resolve() for argument in arguments] or [ROOT])
    for finding in found:
        print(finding)
    for folder, count in sorted(Counter(str(finding.path.parent) for finding in found).items()):
        print(f"{count:5} {folder}")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
