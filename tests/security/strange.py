"""Make strange values from seeds: texts, JSON, and damaged copies of good documents.

Knows: which names mean something to some parser, and the published examples. Must not know: who reads
what is made here. Plain random numbers, because a property-testing library spends twenty times as long
on making a value as any parser does on reading it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import yaml

from tests.checks.scripts import BOT, PASSING

ROOT = Path(__file__).parent.parent.parent
#: Names that mean something somewhere, so that random objects get past the first look.
WORDS = tuple(
    """
    type class code body text message messages id messageId tracingId direction channel from to time timestamp
    events eventType presence content contentType attachment attachments url fileName mime mediaType quickReply
    card carousel listPicker datePicker form sections items title payload actions metadata correlationId token jwt
    expires expiresAt expirationDate entities pageNumber pageCount total data sender role participant guest
    session sessionId conversation conversationId connected newSession readOnly allowedMedia maxFileSize inbound
    sequence seq more cursor nextUri MESSAGE_RECEIVED ERROR handshake TypingIndicator StructuredMessage
    SessionResponse JwtResponse typing SessionExpiredEvent ConnectionClosedEvent TooManyRequestsErrorMessage
    retryAfter error status reason Text Event Structured Inbound Outbound Message Disconnect Join Presence
    nickname name firstName lastName availableTimes duration
    """.split()  # noqa: SIM905
)
ODD = (
    *(
        10**30,
        -1,
        0,
        1e308,
        1e400,
        -0.0,
        float("nan"),
        200,
        401,
        4029,
        "",
        "200",
        "\ud800",
        "\x00",
        "\x1b[2J",
        "\u202e",
    ),
    *(
        "2026-03-04T09:15:27.412Z",
        "2026-03-04T09:15:60Z",
        "0000-00-00T00:00:00Z",
        "9999999999999999",
        "é" * 300,
        "9" * 5000,
    ),
    *("http://[", "https://a.example:99999/", "//", "..", "${HOME}", "(((", "[[", "*a", "&a", "<<", "!!python/none"),
)
#: Where characters come from: mostly what parsers look for, then ever farther from it.
_ALPHABETS = (
    "abcxyzABC0123456789 -_.",
    "{}[]\",:'\\/=&?%#!*|>~`$@() \n\t",
    "".join(map(chr, range(256))),
    "éßŁя中🙂\u200b\u2028\u202e\ufeff\uffff\U0010ffff\x85",
)
_TRACE: list[dict[str, Any]] = [
    {"kind": "request", "method": "GET", "url": "http://127.0.0.1:9/api/v2/x/0b7d2c5e", "headers": {}, "body": None},
    {"kind": "response", "method": "GET", "url": "http://127.0.0.1:9/api/v2/x/0b7d2c5e", "status": 200, "headers": {}}
    | {"body": '{"entities": []}'},
    {"kind": "connect", "url": "ws://127.0.0.1:9/v1?deploymentId=d", "proxy": None},
    {"kind": "upgrade", "url": "ws://127.0.0.1:9/v1", "request_headers": {}, "status": 101, "headers": {}, "body": ""},
    {"kind": "frame_out", "text": '{"action": "onMessage", "message": {"type": "Text", "text": "hi"}}'},
    {"kind": "frame_in", "text": '{"type": "response", "class": "SessionResponse", "code": 200, "body": {}}'},
    {"kind": "close", "direction": "in", "code": 1001, "reason": "Going away"},
]
_TIME = "2026-03-04T09:15:27.412Z"
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, where PyYAML has it, is fast
#: A trace, one line an entry.
TRACE = "\n".join(json.dumps({"time": _TIME, "seconds": n, **e}) for n, e in enumerate(_TRACE))
_DOCUMENTS = ((ROOT / "profiles.example.yaml").read_text(encoding="utf-8"), PASSING, BOT, TRACE)


def _published() -> dict[str, list[str]]:
    """API -> the frames and bodies of its service in the examples, as good documents to damage."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "tests" / "wire").rglob("*.yaml")):
        content = yaml.load(path.read_text(encoding="utf-8"), _LOADER)  # noqa: S506
        samples = content.get("samples", {})
        for word in _said(content, heard=False):
            found.setdefault(path.parent.name, []).append(json.dumps(_filled(word, samples), default=str))
    return found


def _said(content: Any, heard: bool) -> Iterator[Any]:
    if isinstance(content, list):
        for inner in content:
            yield from _said(inner, heard)
    elif isinstance(content, dict):
        for name, inner in content.items():
            if name == "json" or (name == "frame" and heard):
                yield inner
            else:
                yield from _said(inner, name == "hears")


def _filled(word: Any, samples: Mapping[str, Any]) -> Any:
    """Return the value with a text in the place of every `$name`."""
    if isinstance(word, dict):
        return {name: _filled(inner, samples) for name, inner in word.items()}
    if isinstance(word, list):
        return [_filled(inner, samples) for inner in word]
    if isinstance(word, str) and word.startswith("$"):
        return samples.get(word[1:], _TIME if re.search("at|until|expires", word) else "x")
    return word


PUBLISHED = _published()


def text(chance: Random, most: int = 20) -> str:
    """Return a text of up to `most` characters, more often a short one."""
    size = int(chance.random() ** 2 * (most + 1))
    if chance.random() < 0.5:
        return "".join(chance.choices(_ALPHABETS[int(chance.random() * 3)], k=size))
    return "".join(chance.choice(chance.choice(_ALPHABETS)) for _ in range(size))


def leaf(chance: Random) -> Any:
    kind = int(chance.random() * 8)
    if kind < 2:
        return chance.choice(ODD)
    if kind < 4:
        return chance.choice(WORDS)
    if kind == 4:
        return text(chance)
    if kind == 5:
        return chance.choice((None, True, False))
    if kind == 6:
        return chance.randrange(-10, 300) if chance.random() < 0.7 else chance.getrandbits(70)
    return chance.uniform(-1e3, 1e3)


def value(chance: Random, depth: int = 4) -> Any:
    kind = chance.random()
    if depth == 0 or kind < 0.5:
        return leaf(chance)
    if kind < 0.7:
        return [value(chance, depth - 1) for _ in range(int(chance.random() * 5))]
    return members(chance, depth - 1)


def members(chance: Random, depth: int = 3, words: tuple[str, ...] = WORDS) -> dict[str, Any]:
    """Return an object whose members mostly have known names."""
    return {
        chance.choice(words) if chance.random() < 0.9 else text(chance, 6): value(chance, depth)
        for _ in range(int(chance.random() * 9))
    }


def damaged(chance: Random, api: str) -> str:
    """Return a document of the service with some members replaced, removed or added."""
    found = json.loads(chance.choice(PUBLISHED[api]))
    for _ in range(chance.randrange(4)):
        at = found
        while isinstance(at, (dict, list)) and at:
            key: Any = chance.choice(list(at)) if isinstance(at, dict) else chance.randrange(len(at))
            if not isinstance(at[key], (dict, list)) or chance.random() < 0.4:
                _damage(chance, at, key)
                break
            at = at[key]
    # JSON has no infinity, but a number may be too large for a float.
    return json.dumps(found).replace("Infinity", "1e400")


def _damage(chance: Random, at: Any, key: Any) -> None:
    kind = chance.random()
    if kind < 0.6 or isinstance(at, list):
        at[key] = value(chance)
    elif kind < 0.85:
        del at[key]
    else:
        at[chance.choice(WORDS)] = value(chance)


def speech(chance: Random, api: str | None = None) -> str:
    """Return an answer of a service, mostly JSON and mostly nearly valid."""
    kind = chance.random()
    if kind < 0.6:
        return damaged(chance, api or chance.choice(tuple(PUBLISHED)))
    if kind < 0.8:
        return json.dumps(members(chance))
    if kind < 0.9:
        return json.dumps(value(chance))
    return text(chance, 200)


def file(chance: Random) -> bytes:
    """Return the content of a file: a damaged good file, an object in a known place, or anything."""
    kind = chance.random()
    if kind < 0.5:
        return _torn(chance, chance.choice(_DOCUMENTS))
    if kind < 0.85:
        inner = members(chance)
        outer: Any = chance.choice(
            (
                {"profiles": {"p": inner}, "default": "p"},
                {"config": inner, "scenarios": {"s": [inner, value(chance)]}},
                {"rules": [inner], "greeting": value(chance), "on": inner},
                value(chance),
            )
        )
        return json.dumps(outer).encode()
    return text(chance, 300).encode("utf-8", "replace") if kind < 0.93 else chance.randbytes(chance.randrange(300))


def _torn(chance: Random, document: str) -> bytes:
    """Remove, repeat or swap lines of a good document, or change the value after a colon."""
    lines = document.split("\n")
    for _ in range(1 + chance.randrange(3)):
        at = chance.randrange(len(lines))
        kind = chance.randrange(5)
        if kind == 0:
            del lines[at]
        elif kind == 1:
            lines.insert(at, chance.choice(lines))
        elif kind == 2:
            lines[at] = lines[at].replace(chance.choice(':-"[] '), text(chance, 3))
        elif kind == 3:
            name, colon, _ = lines[at].partition(": ")
            lines[at] = name + colon + (json.dumps(value(chance)) if chance.random() < 0.7 else text(chance))
        else:
            lines[at] = _damaged_line(chance, lines[at])
        lines = lines or [""]
    return "\n".join(lines).encode("utf-8", "replace")


def _damaged_line(chance: Random, line: str) -> str:
    """Damage one member of a JSON line; return any other line unchanged."""
    try:
        found = json.loads(line)
    except ValueError:
        return line
    if isinstance(found, dict) and found:
        _damage(chance, found, chance.choice(list(found)))
    return json.dumps(found)
