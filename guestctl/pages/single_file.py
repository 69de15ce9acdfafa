"""A page, its modules and its data as one HTML file, which opens from disk and needs no network.

Knows: ES modules as the pages of this package write them, Content-Security-Policy, how data survives in HTML. Must not
know: what a page shows, where the data comes from, secrets.

Browsers refuse `import` in a page from disk. So the modules become one inline script, in which each module is a
function that returns its exports. The policy of the page allows this script by its hash, and nothing else: no other
script, no style sheet, no image, no request.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Callable
from hashlib import sha256
from html import escape
from typing import Any

#: Longest text in the data, in characters. A longer one is shortened, and the page states its length.
TEXT_LIMIT = 16 << 10

_IMPORT = re.compile(
    r'^import\s+(?:\{(?P<names>[^}]*)\}|\*\s+as\s+(?P<all>\w+))\s+from\s+"\./(?P<file>[\w.-]+)";?$', re.M
)
_EXPORT = re.compile(r"^export\s+(?P<kind>(?:async\s+)?function\*?|class|const)\s+(?P<name>\w+)", re.M)
_OTHER = re.compile(r"^(?:import|export)\b.*$", re.M)
#: What would end a script element, or start a comment in one.
_ENDS_SCRIPT = re.compile(r"</script|<!--", re.I)
_SURROGATE = re.compile("[\ud800-\udfff]")


class UnusableModule(ValueError):
    """A module that cannot become part of one script."""


def joined(entry: str, read: Callable[[str], str]) -> str:
    """Return the module `entry`, and all that it imports, as one script. `read` returns the text of a module.

    A module may use `import {a, b as c} from "./x.js"` and `import * as x from "./x.js"`, and may export functions,
    classes and constants where it declares them. Raises UnusableModule for anything else, and for a circle of imports.
    """
    parts: list[str] = []
    done: set[str] = set()

    def add(name: str, importing: tuple[str, ...]) -> None:
        if name in importing:
            raise UnusableModule(f"{name} imports itself: {' > '.join((*importing, name))}")
        if name in done:
            return
        text = read(name)
        if _ENDS_SCRIPT.search(text):
            raise UnusableModule(f"{name} contains the end of a script element or a comment of HTML")
        for found in _IMPORT.finditer(text):
            add(found["file"], (*importing, name))
        done.add(name)
        parts.append(_as_function(name, text))

    add(entry, ())
    return "".join(parts)


def _as_function(name: str, text: str) -> str:
    exports = [found["name"] for found in _EXPORT.finditer(text)]
    body = _EXPORT.sub(lambda found: f"{found['kind']} {found['name']}", _IMPORT.sub(_binding, text))
    other = _OTHER.search(body)
    if other is not None:
        raise UnusableModule(f"{name}: unsupported: {other[0]}")
    return f"const {_variable(name)} = (() => {{\n{body.strip()}\nreturn {{ {', '.join(exports)} }};\n}})();\n"


def _binding(found: re.Match[str]) -> str:
    module = _variable(found["file"])
    if found["all"]:
        return f"const {found['all']} = {module};"
    names = [" ".join(name.split()) for name in found["names"].split(",") if name.strip()]
    return f"const {{ {', '.join(name.replace(' as ', ': ') for name in names)} }} = {module};"


def _variable(name: str) -> str:
    return "module_" + re.sub(r"\W", "_", name)


def data_json(value: Any) -> str:
    """Return a value as JSON that may stand in a script element of HTML, whatever its texts contain.

    `<` is escaped, so that no text ends the element; so are the line separators of JavaScript, and surrogates without
    a partner, which UTF-8 cannot express.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
    text = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def with_short_texts(value: Any, limit: int = TEXT_LIMIT) -> Any:
    """Return a copy of a JSON value whose texts have at most `limit` characters, and then a note of their length."""
    if isinstance(value, str):
        return value if len(value) <= limit else f"{value[:limit]}\n… [shortened: {len(value):,} characters in all]"
    if isinstance(value, dict):
        return {key: with_short_texts(member, limit) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [with_short_texts(member, limit) for member in value]
    return value


def document(title: str, script: str, data: Any, *, plain: str = "") -> bytes:
    """Return the HTML file. `plain` is shown where no script may run, as in the artifacts of some CI servers."""
    digest = b64encode(sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    policy += "; require-trusted-types-for 'script'; trusted-types 'none'"
    note = f"<p>This page needs JavaScript, and this browser runs none.</p>\n<pre>{_plain(plain)}</pre>"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">\n'
        '<meta name="referrer" content="no-referrer">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{_plain(title)}</title>\n</head>\n<body>\n<noscript>{note}</noscript>\n"
        f'<script type="application/json" id="data">{data_json(data)}</script>\n'
        f'<script type="module">{script}</script>\n</body>\n</html>\n'
    ).encode()


def _plain(text: str) -> str:
    """Return text for HTML. Characters that HTML does not allow are replaced."""
    return escape(re.sub("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", "\ufffd", text))
