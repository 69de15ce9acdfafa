"""The strict YAML reader: what it accepts, what it refuses, and the line in its errors."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from guestctl.core.errors import UsageError
from guestctl.core.strict_yaml import MAX_BYTES, MAX_DEPTH, Located, parse, read
from tests.properties import examples


def refused(text: str) -> str:
    with pytest.raises(UsageError) as caught:
        parse(text, "f.yaml")
    assert caught.value.code == "config.file"
    return caught.value.message


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("null", None),
        ("~", None),
        ("", None),
        ("true", True),
        ("false", False),
        ("0", 0),
        ("-12", -12),
        ("-1.5", -1.5),
        ("1.5e3", 1500.0),
        ("1e2", 100.0),
        ("9" * 100, 10**100 - 1),
        ("no", "no"),
        ("on", "on"),
        ("True", "True"),
        ("0123", "0123"),
        ("0x1f", "0x1f"),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2026-03-04", "2026-03-04"),
        (".inf", ".inf"),
        ("+1", "+1"),
        ("'12'", "12"),
        ('"null"', "null"),
        ("٣", "٣"),
    ],
)
def test_scalars_follow_the_json_schema(written: str, meant: object) -> None:
    found = parse(f"a: {written}", "f.yaml").plain()["a"]
    assert found == meant
    assert type(found) is type(meant)


def test_a_scalar_is_also_available_as_written() -> None:
    root = parse("id: 1e5\nwhen: 2026-03-04", "f.yaml")
    assert isinstance(root.value, dict)
    assert root.value["id"].text == "1e5"
    assert root.value["id"].value == 100000.0


@pytest.mark.parametrize("text", ["", "# about\n", "\n\n"])
def test_an_empty_document_is_null(text: str) -> None:
    assert parse(text, "f.yaml") == Located(None, 1, "")


def test_members_have_the_line_of_their_key() -> None:
    root = parse("# about\na: 1\nb:\n  c:\n    - x\n    -\n      - y\n", "f.yaml")
    assert isinstance(root.value, dict)
    b = root.value["b"]
    assert isinstance(b.value, dict)
    items = b.value["c"].value
    assert isinstance(items, list)
    assert (root.value["a"].line, b.line, b.value["c"].line) == (2, 3, 4)
    assert [item.line for item in items] == [5, 7]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3", 'f.yaml:3: key "a" is already set in line 1'),
        ("a: *n", "f.yaml:1: alias *n: there is no anchor &n above it"),
        ("a: *n\nb: &n 1", "f.yaml:1: alias *n: there is no anchor &n above it"),
        ("x: 1\na: &n [*n]", "f.yaml:2: alias *n: it stands inside its own anchor"),
        ("a: &n {b:\n  {c: *n}}", "f.yaml:2: alias *n: it stands inside its own anchor"),
        ("x: &n\n  <<: *n", "f.yaml:2: alias *n: it stands inside its own anchor"),
        ("a:\n  <<: 1", "f.yaml:2: merge key <<: it takes a mapping or a list of mappings"),
        ("a:\n  <<:", "f.yaml:2: merge key <<: it takes a mapping or a list of mappings"),
        ("a:\n  <<: [{b: 1}, 2]", "f.yaml:2: merge key <<: it takes a mapping or a list of mappings"),
        ("x: &n {a: 1}\ny:\n  <<: *n\n  b: 1\n  b: 2", 'f.yaml:5: key "b" is already set in line 4'),
        ("a: &n !!str 1", "f.yaml:1: tag tag:yaml.org,2002:str"),
        ("a: &n [b]\nc:\n  ? *n\n  : d", "f.yaml:3: a key must be plain text"),
        ("a: !!str 1", "f.yaml:1: tag tag:yaml.org,2002:str"),
        ("!!python/object/apply:os.system [x]", "f.yaml:1: tag"),
        ("a: 1\n---\nb: 2", "f.yaml:2: a second document"),
        ("a:\n  ? [b]\n  : c", "f.yaml:2: a key must be plain text"),
        ("a: 1e999", "f.yaml:1: 1e999 is too large"),
        ("a: " + "9" * 101, "f.yaml:1: a number of more than 100 digits"),
        ("a: 'open", "f.yaml:1: "),
        ("a: b: c", "f.yaml:1: mapping values are not allowed"),
        ("a: \x00", "f.yaml:1: "),
        ('a: "\\ud800"', "f.yaml:1: "),
        ('a: "\\UFFFFFFFF"', "f.yaml:1: "),
        ("a: !<%ff> b", "f.yaml:1: "),
        ("a: \ud800", "f.yaml:1: "),
        ("[" * (MAX_DEPTH + 1), f"f.yaml:1: nested deeper than {MAX_DEPTH} levels"),
        ("[" * 100_000, "f.yaml:1: "),
        ("{a: " * 5_000, "f.yaml:1: "),
        ("x" * (MAX_BYTES + 1), "f.yaml:1: larger than 256 KiB"),
    ],
)
def test_refused_documents_are_reported_with_their_line(text: str, said: str) -> None:
    assert refused(text).startswith(said)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("a: &n 1\nb: *n", {"a": 1, "b": 1}),
        ("a: &n No\nb: [*n, *n]", {"a": "No", "b": ["No", "No"]}),
        ("a: &n\nb: *n", {"a": None, "b": None}),
        ("a: &n {x: [1]}\nb: *n", {"a": {"x": [1]}, "b": {"x": [1]}}),
        ("a: &n 1\nb: &n 2\nc: *n", {"a": 1, "b": 2, "c": 2}),
        ("a: &n [&m 1, *m]\nb: [*n, *m]", {"a": [1, 1], "b": [[1, 1], 1]}),
        ("&k key: 1\nb: {*k : 2}", {"key": 1, "b": {"key": 2}}),
        ("a:\n  <<: {b: 1}", {"a": {"b": 1}}),
        ("a: &n {x: 1, y: 2}\nb: {<<: *n, y: 3, z: 4}", {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3, "z": 4}}),
        ("a: &n {x: 1, y: 2}\nb: {y: 3, <<: *n}", {"a": {"x": 1, "y": 2}, "b": {"y": 3, "x": 1}}),
        (
            "a: &n {x: 1}\nb: &m {x: 2, y: 2}\nc: {<<: [*n, *m]}",
            {"a": {"x": 1}, "b": {"x": 2, "y": 2}, "c": {"x": 1, "y": 2}},
        ),
        ("a: &n {x: 1}\nb: {<<: *n, <<: {x: 2, y: 2}}", {"a": {"x": 1}, "b": {"x": 1, "y": 2}}),
        (
            "a: &n {x: 1}\nb: &m {<<: *n, y: 2}\nc: {<<: *m}",
            {"a": {"x": 1}, "b": {"x": 1, "y": 2}, "c": {"x": 1, "y": 2}},
        ),
        ("a: {<<: []}", {"a": {}}),
    ],
)
@pytest.mark.parametrize("c_parser", [True, False])
def test_aliases_and_merge_keys_are_read_as_if_written_out(
    monkeypatch: pytest.MonkeyPatch, text: str, meant: dict[str, object], c_parser: bool
) -> None:
    if not c_parser:
        monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    found = parse(text, "f.yaml").plain()
    assert found == meant
    assert isinstance(found, dict)
    assert {key: list(value) for key, value in found.items() if isinstance(value, dict)} == {
        key: list(value) for key, value in meant.items() if isinstance(value, dict)
    }


def test_an_alias_has_its_own_line_and_its_content_the_line_where_it_was_written() -> None:
    root = parse("a: &n\n  x: 1\nb:\n  - *n\nc:\n  <<: *n\n", "f.yaml")
    assert isinstance(root.value, dict)
    b, c = root.value["b"].value, root.value["c"].value
    assert isinstance(b, list)
    assert isinstance(c, dict)
    assert b[0].line == 4
    assert b[0].value["x"].line == c["x"].line == 2


def bomb(first: str, follow: str, levels: int) -> str:
    """Return a document whose every line uses the line above it several times."""
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{n}: &a{n} " + follow.replace("@", f"*a{n - 1}") for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        bomb("lol", "[" + ",".join("@" * 10) + "]", 10),
        bomb("[]", "[" + ",".join("@" * 9) + "]", 18),
        bomb("{}", "{a: @, b: @, c: @, d: @}", 15),
        bomb("{k: v}", "{<<: {a: @, b: @, c: @, d: @, e: @}}", 10),
        bomb("x", "{<<: [{a: @}, {b: @}, {c: @}, {d: @}, {e: @}, {f: @}]}", 9),
        "a: &n " + "x" * 100_000 + "\nb: [*n, *n, *n]",
        "a: &n " + "x" * 1000 + "\nb: [" + ", ".join(["*n"] * 300) + "]",
        "a: &n {" + "x" * 1000 + ": 1}\nb: [" + ", ".join(["{<<: *n}"] * 300) + "]",
    ],
)
def test_aliases_that_multiply_are_refused_at_once(text: str) -> None:
    assert "aliases repeat more than 256 KiB" in refused(text)


def test_aliases_below_the_limit_are_read() -> None:
    found = parse("a: &n " + "x" * 1000 + "\nb: [" + ", ".join(["*n"] * 250) + "]", "f.yaml").plain()
    assert isinstance(found, dict)
    assert found["b"] == ["x" * 1000] * 250


def test_levels_count_through_aliases() -> None:
    half = MAX_DEPTH // 2
    deep = f"a: &n {'[' * half}{']' * half}\nb: "
    assert parse(f"{deep}{'[' * (half - 1)}*n{']' * (half - 1)}", "f.yaml").plain() is not None
    assert "nested deeper than 20 levels" in refused(f"{deep}{'[' * half}*n{']' * half}")
    chain = "\n".join(["a0: &a0 []", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 30))])
    assert "nested deeper than 20 levels" in refused(chain)


@pytest.mark.parametrize("c_parser", [True, False])
@pytest.mark.parametrize(
    ("text", "meant"),
    [
        (r'{"a": "\ud83d\ude00"}', "\U0001f600"),
        (r'{"a": "x\uD83D\uDE00\ud83c\udffby"}', "x\U0001f600\U0001f3fby"),
        (r'{"a": "\\\ud83d\ude00"}', "\\\U0001f600"),
        (r'{"a": "\\ud83d"}', r"\ud83d"),
        (r"a: \ud83d\ude00", r"\ud83d\ude00"),
        (r"a: '\ud83d\uDE00'", r"\ud83d\uDE00"),
        ("a: |-\n  \\ud83d\\ude00", r"\ud83d\ude00"),
        ('a: "\ue000\\ud83d\\ude00"', "\ue000\U0001f600"),
        ("a: \ue000 # \\ud83d\\ude00", "\ue000"),
    ],
)
def test_escaped_surrogate_pairs_are_one_character_in_double_quotes(
    monkeypatch: pytest.MonkeyPatch, text: str, meant: str, c_parser: bool
) -> None:
    if not c_parser:
        monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    root = parse(text, "f.yaml")
    assert root.plain() == {"a": meant}
    assert isinstance(root.value, dict)
    assert root.value["a"].text == meant


def test_keys_may_have_escaped_surrogate_pairs() -> None:
    assert parse(r'{"\ud83d\ude00": 1}', "f.yaml").plain() == {"\U0001f600": 1}
    assert refused('{"\\ud83d\\ude00": 1,\n"\U0001f600": 2}').startswith("f.yaml:2: key ")


@pytest.mark.parametrize("text", [r'"\ude00\ud83d"', r'"\ud83d \ude00"', r'"\ud83d\\ude00"', r'"\\\ude00"'])
def test_half_a_surrogate_pair_is_refused(text: str) -> None:
    refused(text)


@pytest.mark.parametrize(
    ("text", "in_c", "in_python"),
    [
        ("x: 1\na: 'open", "2: found unexpected end of stream", None),
        ("a: 1\n\tb: 1\nc: 2", "2: a tab; YAML is indented with spaces", None),
        ("\ta: 1\nb", "1: a tab; YAML is indented with spaces", None),
        ("x: 1\na: \ud800", "1: surrogates not allowed", "1: special characters are not allowed"),
        ('x: 1\na: "\\UFFFFFFFF"', "2: found invalid Unicode character escape code", "2: not YAML"),
        ("a: b\x85\x85- c", "3: did not find expected key", '3: expected <block end>, but found "-"'),
    ],
)
def test_parser_errors_are_reported_with_their_line(
    monkeypatch: pytest.MonkeyPatch, text: str, in_c: str, in_python: str | None
) -> None:
    if hasattr(yaml, "CSafeLoader"):
        assert refused(text) == f"f.yaml:{in_c}"
    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    assert refused(text) == f"f.yaml:{in_python or in_c}"


def test_twenty_levels_are_the_maximum() -> None:
    for start, end in (("[", "]"), ("{a: ", "}")):
        assert parse(start * MAX_DEPTH + end * MAX_DEPTH, "f.yaml").plain() is not None
        assert refused(start * (MAX_DEPTH + 1)) == f"f.yaml:1: nested deeper than {MAX_DEPTH} levels"


def test_a_quoted_merge_sign_is_an_ordinary_key() -> None:
    assert parse('"<<": 1', "f.yaml").plain() == {"<<": 1}


def test_the_c_parser_gives_the_same_results(monkeypatch: pytest.MonkeyPatch) -> None:
    text = 'a: [1, no, {b: "x"}]\nc: |\n  two\n  lines\nd: "\\ud800"'
    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    assert refused(text) == "f.yaml:5: an escape is half of a surrogate pair, which is not a character"
    assert "surrogate" in refused('"\\udfff"')
    good = text.rpartition("\n")[0]
    assert parse(good, "f.yaml").plain() == {"a": [1, "no", {"b": "x"}], "c": "two\nlines"}
    assert refused('a: "\\UFFFFFFFF"').startswith("f.yaml:1: ")


def test_files_are_read_with_and_without_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    assert read(path).plain() == {"a": 1, "b": 2}
    path.write_bytes(b"")
    assert read(path).plain() is None


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"\na: 1\nb: \xff\n\n\n", ":3: not UTF-8"), (b"#" * (MAX_BYTES + 1), ":1: larger than 256 KiB")],
)
def test_unreadable_files_are_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read(path)
    assert caught.value.message == f"{path}{said}"
    assert caught.value.code == "config.file"


def test_the_largest_file_is_read(tmp_path: Path) -> None:
    assert parse("#" * MAX_BYTES, "f.yaml").plain() is None
    path = tmp_path / "f.yaml"
    path.write_bytes(b"#" * MAX_BYTES)
    assert read(path).plain() is None


def test_a_giant_file_is_refused_without_reading_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Giant(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            assert size == MAX_BYTES + 1
            return b"#" * size

    monkeypatch.setattr("guestctl.core.strict_yaml.read_bytes", lambda path, size: Giant().read(size))
    with pytest.raises(UsageError, match="larger than 256 KiB"):
        read(Path("f.yaml"))


@pytest.mark.parametrize(
    ("name", "why"),
    [("none.yaml", "No such file or directory"), ("", "Is a directory"), ("a\0b", "embedded null byte")],
)
def test_a_missing_file_and_a_directory(tmp_path: Path, name: str, why: str) -> None:
    path = tmp_path / name
    with pytest.raises(UsageError) as caught:
        read(path)
    assert caught.value.code == "config.file"
    assert caught.value.message == f"{path}: {why}"
    assert caught.value.hint == "check the file's name and permissions"


PRINTABLE = st.characters(categories=["L", "N", "P", "S", "Zs"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.text(PRINTABLE, max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abcdefgh<~", max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
@settings(max_examples=examples(100))
def test_json_is_yaml(value: Any) -> None:
    for ascii_only in (False, True):
        assert parse(json.dumps(value, ensure_ascii=ascii_only), "f.yaml").plain() == value


@given(st.text(st.sampled_from("ab:-?#&*!|>'\"%@`{}[],~<\\/\n\t 0.eux\x00\x85\ufeff\ud800\U0001f600"), max_size=60))
@settings(max_examples=examples(500))
def test_any_text_raises_only_usage_errors(text: str) -> None:
    for loader in ("CSafeLoader", None):
        with pytest.MonkeyPatch.context() as patch:
            if loader is None:
                patch.delattr(yaml, "CSafeLoader", raising=False)
            problem = ""
            try:
                parse(text, "f.yaml").plain()
            except UsageError as error:
                problem = error.message
            assert not problem or problem.startswith("f.yaml:")


@given(st.binary(max_size=80))
@settings(max_examples=examples(150))
def test_any_file_raises_only_usage_errors(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    problem = str(path)
    try:
        read(path).plain()
    except UsageError as error:
        problem = error.message
    assert problem.startswith(str(path))
