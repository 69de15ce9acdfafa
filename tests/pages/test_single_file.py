"""One HTML file of modules and data: whatever the data contains, it stays data, and the policy allows one script."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from typing import Any

import pytest

from guestctl.pages import assets, single_file

HOSTILE = [
    "</script><script>alert(1)</script>",
    "</SCRIPT >",
    "<!-- <script>",
    "]]>",
    "\u2028\u2029",
    "\ud800 alone",
    "\U0001f600 pair",
    "\x00\x01\x1b[31m\x7f\x9f",
    "\ufeff\ufffe\uffff",
    "\r\n \r \n",
    "\\u003c/script> \\\\ \"'`${x}",
    "&lt;/script&gt; &amp;",
    "\u202e txt",
]


class _Scripts(HTMLParser):
    """The script elements of a page, as HTML defines their end."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[dict[str, str | None], str]] = []
        self.tags: list[str] = []
        self.policy = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        named = dict(attrs)
        if tag == "script":
            self.found.append((named, ""))
        if named.get("http-equiv") == "Content-Security-Policy":
            self.policy = named["content"] or ""

    def handle_data(self, data: str) -> None:
        if self.found and self.tags[-1] == "script":
            self.found[-1] = self.found[-1][0], self.found[-1][1] + data

    def handle_endtag(self, tag: str) -> None:
        self.tags.append("/" + tag)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_data_stays_data(text: str) -> None:
    value = {"text": text, text: [text, {"deep": text}]}
    page = single_file.document(text, "show();", value, plain=text)
    scripts = _Scripts(page.decode()).found
    assert [attributes.get("type") for attributes, _ in scripts] == ["application/json", "module"]
    assert json.loads(scripts[0][1]) == json.loads(json.dumps(value))
    assert scripts[1][1] == "show();"
    assert not re.search("[\x00-\x08\x0b-\x1f\ud800-\udfff\u2028\u2029]", scripts[0][1])


def test_every_code_point_survives() -> None:
    text = "".join(map(chr, range(0x110000)))
    page = single_file.document("all", "", text)
    assert json.loads(_Scripts(page.decode()).found[0][1]) == json.loads(json.dumps(text))


def test_the_policy_allows_the_script_by_its_hash_and_nothing_else() -> None:
    page = _Scripts(single_file.document("t", "show('<b>');", {}).decode())
    digest = b64encode(sha256(page.found[1][1].encode()).digest()).decode()
    policy = dict(part.strip().split(" ", 1) for part in page.policy.split(";"))
    assert policy == {
        "default-src": "'none'",
        "script-src": f"'sha256-{digest}'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    assert not {"link", "img", "style", "iframe", "base"} & set(page.tags)


def test_the_title_and_the_plain_text_are_escaped() -> None:
    page = single_file.document("<b>&\x00", "", {}, plain="<img src=x onerror=y>\x1b").decode()
    assert "<title>&lt;b&gt;&amp;\ufffd</title>" in page
    assert "<pre>&lt;img src=x onerror=y&gt;\ufffd</pre></noscript>" in page


def test_long_texts_are_shortened_with_a_note() -> None:
    long = "x" * (single_file.TEXT_LIMIT + 1)
    value: Any = single_file.with_short_texts({"a": [long, long[:-1], 3, None, True]})
    assert value == {"a": [long[:-1] + "\n… [shortened: 16,385 characters in all]", long[:-1], 3, None, True]}


MODULES = {
    "main.js": (
        'import { twice as two, Box } from "./lib.js";\nimport * as lib from "./lib.js";\nshow(two(2), Box, lib.N);\n'
    ),
    "lib.js": (
        'import {\n  helper,\n} from "./deep.js";\nexport const N = 1;\n'
        "export function twice(x) {\n  return helper(x) * 2;\n}\nexport class Box {}\nconst own = 1;\n"
    ),
    "deep.js": "const own = 2;\nexport async function later() {}\nexport function helper(x) {\n  return x + own;\n}\n",
}


def test_modules_become_one_script_in_the_order_of_their_imports() -> None:
    script = single_file.joined("main.js", MODULES.__getitem__)
    assert re.findall(r"^const (module_\w+) = ", script, re.M) == ["module_deep_js", "module_lib_js", "module_main_js"]
    assert not re.search(r"^(import|export)\b", script, re.M)
    assert "const { twice: two, Box } = module_lib_js;" in script
    assert "const lib = module_lib_js;" in script
    assert "return { later, helper };" in script


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("export default 1;", "unsupported: export default 1;"),
        ("export { x };", "unsupported: export { x };"),
        ('import x from "./y.js";', "unsupported: import x"),
        ('import { x } from "https://cdn.example/x.js";', "unsupported: import"),
        ('import "./m.js";', "unsupported: import"),
        ('import { x } from "./m.js";', "m.js imports itself: m.js > m.js"),
        ('show("</script>");', "end of a script element"),
        ('show("<!--");', "comment of HTML"),
    ],
)
def test_other_modules_are_refused(text: str, why: str) -> None:
    with pytest.raises(single_file.UnusableModule, match=re.escape(why)):
        single_file.joined("m.js", {"m.js": text}.__getitem__)


@pytest.mark.parametrize("entry", ["report.js", "viewer.js", "load_report.js"])
def test_the_entries_of_the_package_can_be_joined(entry: str) -> None:
    script = single_file.joined(entry, lambda name: assets.asset(name).body.decode())
    assert "adoptedStyleSheets" in script
