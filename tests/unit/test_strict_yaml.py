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
        ("x: 1\na: &n 1", "f.yaml:2: anchor &n"),
        ("a: *n", "f.yaml:1: alias *n"),
        ("a:\n  <<: {b: 1}", "f.yaml:2: merge key"),
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
    ("text", "in_c", "in_python"),
    [
        ("x: 1\na: 'open", "2: found unexpected end of stream", None),
        ("a: 1\n\tb: 1\nc: 2", "2: a tab; YAML is indented with spaces", None),
        ("\ta: 1\nb", "1: a tab; YAML is indented with spaces", None),
        ("x: 1\na: \ud800", "1: surrogates not allowed", "1: special characters are not allowed"),
        ('x: 1\na: "\\UFFFFFFFF"', "2: found invalid Unicode character escape code", "2: not YAML"),
        ("a: b\x85\x85- c", "3: did not find expected key", "3: expected <block end>, but found '-'"),
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
    assert caught.value.hint == "Check the file's name and permissions."


PRINTABLE = st.characters(categories=["L", "N", "P", "S", "Zs"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.text(PRINTABLE, max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abcdefgh<~", max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
@settings(max_examples=150)
def test_json_is_yaml(value: Any) -> None:
    assert parse(json.dumps(value, ensure_ascii=False), "f.yaml").plain() == value


@given(st.text(st.sampled_from("ab:-?#&*!|>'\"%@`{}[],~<\\/\n\t 0.eux\x00\x85\ufeff\ud800\U0001f600"), max_size=60))
@settings(max_examples=1000)
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
@settings(max_examples=300)
def test_any_file_raises_only_usage_errors(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    problem = str(path)
    try:
        read(path).plain()
    except UsageError as error:
        problem = error.message
    assert problem.startswith(str(path))
