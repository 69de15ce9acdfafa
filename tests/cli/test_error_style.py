"""Every error has the same form: two parts, wrapped between words, values in double quotes, no full stop.

Knows: the command line, and the calls in the source that create errors. Must not know: what the commands do.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import guestctl
from guestctl.core import errors
from tests.cli.conftest import Front

SOURCE = Path(guestctl.__file__).parent

#: What a user may type wrongly, one of each kind.
WRONG = [
    "nonsense",
    "help nonsense",
    "session nonsense",
    "--nonsense",
    "-p",
    "ask",
    "ask hi --timeout soon",
    "ask hi --timeout 0",
    "ask hi -o xml",
    "ask hi --api nonsense",
    "ask hi -p nonsense",
    "ask hi --region nonsense",
    "ask hi -p shop --profiles nonsense.yaml",
    "send",
    "send hi --bogus",
    "send hi --wiat",
    "send hi --id nonsense",
    "send hi --attr nonsense",
    "send hi --form nonsense",
    "send hi --file nonsense",
    "send hi --pick nonsense",
    "send hi --expect (",
    "send hi --lines",
    "listen extra words",
    "listen --max",
    "listen --max 0",
    "listen --max many",
    "listen --quiet=yes",
    "listen --only nonsense",
    "history --since nonsense",
    "history --format pdf",
    "session use nonsense",
    "session forget nonsense",
    "session create --queue nonsense",
    "session create --as -x",
    "guest sync --provider a --email b",
    "download nonsense",
    "check",
    "check nonsense.yaml",
    "replay nonsense.trace",
    "explain nonsense",
    "schema nonsense",
    "completion nonsense",
    "profile add shop",
    "profile add shop --region nonsense --deployment-id x",
    "profile use nonsense",
    "profile show nonsense",
    "profile trust nonsense.yaml",
    "sandbox push",
    "sandbox fault nonsense",
    "sandbox serve --port 99999",
    "sandbox serve --fault nonsense",
    "sandbox serve --script nonsense.yaml",
    "sandbox serve --state nonsense/file",
    "sandbox serve --host nonsense.invalid",
    "sandbox exec",
    "sandbox exec -- nonsense-command",
    "sandbox disconnect --to nonsense",
]

#: Texts that the documents of an API state.
WORDS_OF_THE_SERVICE = {"Guest not found. Session may have expired."}

#: Functions and methods that make an error of a text and its place, of a problem, or of a hint.
MAKERS = {
    "error",
    "_error",
    "_error_at",
    "_field",
    "_wrong",
    "_bad",
    "_problem",
    "_refused",
    "YamlField",
    "PatternError",
}

#: Documents that are not YAML, or not a script: each with another error of the reader.
NOT_SCRIPTS = [
    "a: [1", "a: b: c", '"a', "- a\nb: c", "a: @x", "a: !x y", "{a: b", '"\\q"', '"\\ud83d"', "a:\n\tb: c",
    "? [a]\n: b", "%YAML 3.0\n---\na", "%FOO\n---\na", "a: ]", "a: {x, y: }}", "a: \x01", "a: 1e999", "*x : y",
    "<<: 3", "a: >9x", "--- a\n--- b", "a: 1\na: 2", "a: '", "a: &", "a: |x\n y", "{", "a: 'b' 'c'", "", "a",
    "scenarios: []",
]  # fmt: skip

#: The classes whose first argument becomes the message of an error.
ERRORS = {
    *(name for name, found in vars(errors).items() if isinstance(found, type) and issubclass(found, errors.Failure)),
    *("BotError", "CannotServe", "FaultError", "OptionError", "ScriptError", "StoreError", "TlsUnavailable"),
}


def parts(text: str) -> tuple[str, str]:
    """Return message and hint of an error on a terminal. It consists of these two parts and of nothing else."""
    found = re.fullmatch(r"error: (.*(?:\n {7}.*)*)\nhint:  (.*(?:\n {7}.*)*)\n", text)
    assert found, text
    return found[1].replace("\n       ", " "), found[2].replace("\n       ", " ")


def check_style(message: str, hint: str, place: str = "") -> None:
    for part in (message, hint):
        assert not re.match(r"[A-Z][a-z]+\b", part), (place, part)  # SessionResponse is the name of a frame
        assert not part.endswith("."), (place, part)
        prose = re.sub(r"`[^`]*`", "", part)
        assert not re.search(r"(?<!\w)'[^']*'", prose), (place, f"single quotes: {part}")
        assert '"guestctl ' not in prose, (place, f"a command is written in backticks: {part}")
        assert "Errno" not in part, (place, part)


@pytest.mark.parametrize("words", WRONG)
def test_an_error_has_two_parts_at_every_width(front: Front, words: str) -> None:
    argv = words.split()
    told = front(*argv, GUESTCTL_OUTPUT="json")
    for width in (40, 80):
        shown = front(*argv, tty=True, COLUMNS=str(width))
        message, hint = parts(shown.err)
        check_style(message, hint)
        assert all(len(line) <= width or len(line[7:].split()) == 1 for line in shown.err.splitlines()), shown.err
        if told.err.startswith("{"):
            assert (message, hint, shown.code) == (told.error["message"], told.error["hint"], told.error["exit"])
            assert told.code == shown.code


@pytest.mark.parametrize("content", NOT_SCRIPTS)
def test_an_error_in_a_script_has_the_style(alone: Front, content: str) -> None:
    script = alone.cwd / "s.yaml"
    script.write_text(content)
    failed = alone("check", str(script), tty=True, COLUMNS="400")
    message, hint = parts(failed.err)
    assert failed.code == 2
    assert message.startswith(f"{script}:")
    check_style(message.partition(": ")[2], hint)


@pytest.mark.parametrize("option", ["--region=x y", "--origin=x y", "--base-url=x", "--api=nonsense"])
def test_an_error_in_an_option_of_check_has_the_style(alone: Front, option: str) -> None:
    script = alone.cwd / "s.yaml"
    script.write_text("config: {deploymentId: d, region: mypurecloud.de}\nscenarios: {a: [{say: hi}]}")
    failed = alone("check", str(script), option, tty=True, COLUMNS="400")
    assert failed.code == 2
    check_style(*parts(failed.err))


def _texts() -> Iterator[tuple[str, str]]:
    """Yield each text of a hint and of an error in the source, and its place. A value in it is written as {}."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            given = [keyword.value for keyword in node.keywords if keyword.arg == "hint"]
            if name in ERRORS:
                given += node.args[:1]
            elif name in MAKERS and "sandbox" not in path.parts:  # the sandbox's own texts are a service's
                given += node.args
            for value in given:
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    yield f"{path.name}:{node.lineno}", value.value
                elif isinstance(value, ast.JoinedStr):
                    pieces = [part.value if isinstance(part, ast.Constant) else "{}" for part in value.values]
                    yield f"{path.name}:{node.lineno}", "".join(map(str, pieces))


def test_every_text_of_an_error_has_the_style() -> None:
    for place, text in _texts():
        if text not in WORDS_OF_THE_SERVICE:
            check_style(text, text, place)
