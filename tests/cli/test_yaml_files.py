"""YAML and JSON files from the command line: anchors and merge keys, escapes of JSON, and bare `Yes` and `No`.

Knows: the command line and a real sandbox. Must not know: how YAML is read.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guestctl.sandbox.serve import running
from guestctl.sandbox.server import Sandbox
from guestctl.sandbox.settings import SandboxOptions
from tests.cli.conftest import Front, Result
from tests.cli.test_check import untimed

Sandboxed = Callable[[Sandbox], Front]


@pytest.fixture
def with_bot(sandboxed: Sandboxed, tmp_path: Path) -> Callable[..., Result]:
    """Run one command against a bot script, in a session that exists."""

    def run(script: str, *argv: str, name: str = "bot.yaml") -> Result:
        (tmp_path / name).write_text(script)
        with running(SandboxOptions(fast=True, script=tmp_path / name)) as sandbox:
            front = sandboxed(sandbox)
            front("session", "create", "--new")
            return front(*argv)

    return run


# --- anchors, aliases, merge keys ---

CHECK = """\
setup: &greet
  - say: &hello hello
  - &answer {expect: &what {contains: hello}}
scenarios:
  again: *greet
  merged:
    - {say: *hello}
    - {expect: {<<: *what, within: 5s}}
    - say: *hello
    - *answer
"""


def test_a_check_script_may_use_anchors_aliases_and_merge_keys(front: Front, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(CHECK)
    result = front("check", str(tmp_path / "s.yaml"))
    assert (result.code, untimed(result.out).splitlines()[-1]) == (0, "2 passed, 0 failed, 0 errors"), result


def test_a_bot_script_may_use_anchors_aliases_and_merge_keys(with_bot: Callable[..., Result]) -> None:
    script = """\
rules:
  - &polite
    equals: hello
    reply: &greeting Good day
    typing: true
  - {<<: *polite, equals: evening}
otherwise: *greeting
"""
    for text in ("hello", "evening", "anything"):
        assert with_bot(script, "ask", text).out == "Good day\n"


def test_profiles_may_use_anchors_aliases_and_merge_keys(front: Front, sandbox: Sandbox, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        f"profiles:\n  base: &base\n    base_url: {sandbox.url}\n    deployment_id: &id {sandbox.deployment_id}\n"
        "  first: {<<: *base, attributes: &more {plan: gold}}\n"
        "  second:\n    <<: [{name: Ann}, *base]\n    deployment_id: *id\n    attributes: {<<: *more, plan: silver}\n"
    )
    options = ("--profiles", str(file))
    assert front("-p", "second", *options, "ask", "hi").out == "echo: hi\n"
    shown = front("-p", "second", *options, "profile", "show", "-o", "json").out
    assert "silver" in shown
    assert "Ann" in shown
    before = file.read_text()
    assert front(*options, "profile", "add", "third", "--set", "region=mypurecloud.com").code == 0
    assert front(*options, "profile", "use", "first").code == 0
    after = file.read_text()
    assert [line for line in before.splitlines() if line not in after.splitlines()] == []
    assert front(*options, "ask", "hi", GUESTCTL_PROFILE="").out == "echo: hi\n"


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{one}: &{one} [{','.join([f'*{before}'] * 9)}]\n" for before, one in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (BOMB, "aliases repeat more than 256 KiB"),
        ("a: &a [*a]\n", "alias *a: it stands inside its own anchor"),
        ("a: *b\n", "alias *b: there is no anchor &b above it"),
        ("a:\n  <<: 1\n", "merge key <<: it takes a mapping or a list of mappings"),
    ],
)
def test_aliases_out_of_bounds_are_refused_in_every_file(front: Front, tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "f.yaml"
    file.write_text(text)
    for argv in (
        ("check", str(file)),
        ("--profiles", str(file), "-p", "a", "session", "list"),
        ("--profiles", str(file), "profile", "check"),
        ("sandbox", "serve", "--script", str(file)),
        ("send", "--form", str(file)),
    ):
        result = front(*argv, GUESTCTL_PROFILE="")
        assert (result.code, result.out) == (2, ""), argv
        assert problem in result.err, (argv, result.err)


# --- JSON ---

SMILE = "\U0001f600 \U0001f3f3\ufe0f\u200d\U0001f308"


@pytest.mark.parametrize("indent", [None, 2, "\t"])
def test_check_and_bot_scripts_in_json_may_have_escaped_characters(
    with_bot: Callable[..., Result], tmp_path: Path, indent: Any
) -> None:
    script = {"scenarios": {SMILE: [{"say": SMILE}, {"expect": {"equals": f"you: {SMILE}"}}]}}
    (tmp_path / "s.json").write_text(json.dumps(script, indent=indent))
    bot = json.dumps({"rules": [{"equals": SMILE, "reply": "you: ${text}"}]}, indent=indent)
    assert "\\ud83d\\ude00" in bot
    result = with_bot(bot, "check", str(tmp_path / "s.json"), "-o", "json", name="bot.json")
    assert result.code == 0, result
    assert [found["scenario"] for found in result.record["scenarios"]] == [SMILE]


def test_profiles_in_json_may_have_escaped_characters(front: Front, sandbox: Sandbox, tmp_path: Path) -> None:
    file = tmp_path / "profiles.json"
    values = {"base_url": sandbox.url, "deployment_id": sandbox.deployment_id, "attributes": {"mood": SMILE}}
    file.write_text(json.dumps({"profiles": {"own": values}}))
    options = ("--profiles", str(file), "-p", "own")
    assert SMILE in front(*options, "profile", "show").out
    assert front(*options, "ask", "hi").out == "echo: hi\n"


# --- bare words ---


@pytest.mark.parametrize("word", ["Yes", "No", "yes", "no", "on", "Off", "y", "N", "True", "NO"])
def test_a_bot_script_takes_bare_words_wherever_a_text_may_stand(
    with_bot: Callable[..., Result], tmp_path: Path, word: str
) -> None:
    other = "Good day" if word != "Good day" else ""
    texts = [
        f"otherwise: {word}",
        f"otherwise: [{word}]",
        f"otherwise: [{{text: {word}}}]",
        f"otherwise: {{reply: {word}}}",
        f"otherwise: {{replies: [{word}]}}",
        f"otherwise: {{reply: {{text: {word}}}}}",
        f"rules: [{{equals: {word}, reply: {word}}}]\notherwise: {other}",
        f"rules: [{{contains: {word}, reply: {word}}}]",
        f"rules: [{{match: {word}, reply: '${{0}}'}}]",
        f"name: {word}\ngreeting: {{typing: true, delay: 1ms}}\notherwise: {word}",
    ]
    for script in texts:
        assert with_bot(script, "ask", word).out == f"{word}\n", script


@pytest.mark.parametrize(
    ("content", "count"),
    [
        ("quickReplies: [@, {text: @, payload: @}]", 5),
        ("quickReplies: {title: @, replies: [@]}", 3),
        ("card: {title: @, description: @, actions: [@, {text: @, payload: @}]}", 5),
        ("carousel: [{title: @, description: @}]", 2),
        ("datePicker: {title: @, subtitle: @}", 2),
        ("listPicker: {title: @, sections: [{title: @, items: [@, {id: x, title: @, subtitle: @}]}]}", 5),
        ("form: {title: @, fields: [{id: @, title: @}]}", 3),
        ("attachment: {url: 'https://x.test/a.png', name: @, text: @}", 2),
    ],
)
def test_content_takes_bare_words_wherever_a_text_may_stand(
    with_bot: Callable[..., Result], content: str, count: int
) -> None:
    for word in ("Yes", "No"):
        script = f"otherwise: {{reply: {word}, {content.replace('@', word)}}}"
        result = with_bot(script, "ask", "x", "-o", "json", "--raw")
        assert result.code == 0, result
        assert json.dumps(result.record).count(f'"{word}"') >= count


def test_a_handover_takes_a_bare_word(with_bot: Callable[..., Result]) -> None:
    assert with_bot("otherwise: {reply: One moment, handover: No}", "ask", "x").out == "One moment\n"
    assert with_bot("otherwise: {reply: One moment, handover: {name: Yes}}", "ask", "x").out == "One moment\n"


def test_a_check_script_takes_bare_words_wherever_a_text_may_stand(
    with_bot: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "s.yaml").write_text(
        "tags: [No]\nvariables: {Yes: No}\nscenarios:\n  No:\n    tags: [Yes]\n    matrix: {no: [Yes, No]}\n"
        "    attributes: {Yes: No}\n    steps:\n"
        "    - say: No\n    - waitForReplyContaining: No\n    - {say: No, attributes: {No: Yes}}\n"
        "    - waitForReplyMatching: No\n    - pick: Yes\n    - expect: No\n    - say: '${no}'\n"
        "    - expect: {equals: No, not: Off, options: [Yes, No], saveAs: Yes}\n    - say: '${Yes}'\n"
    )
    bot = "otherwise: {reply: No, quickReplies: [Yes, No]}"
    result = with_bot(bot, "check", str(tmp_path / "s.yaml"), "--tag", "Yes")
    assert (result.code, untimed(result.out).splitlines()[-1]) == (0, "2 passed, 0 failed, 0 errors"), result
