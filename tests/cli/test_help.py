"""Help, suggestions and the output of `guestctl` without arguments."""

from __future__ import annotations

import pytest

from guestctl.cli.registry import COMMANDS, GROUPS, split
from tests.cli.conftest import Front


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_two_examples(alone: Front, words: tuple[str, ...]) -> None:
    told = alone(*words, "--help")
    assert told.code == 0, told.err
    assert told.err == ""
    assert told.out.startswith(f"Usage: guestctl {' '.join(words)} ")
    assert told.out.count("guestctl", told.out.index("Examples:\n")) >= 2
    for option in ("--output", "--timeout", "--profile", "--verbose", "--quiet", "--trace", "--debug", "--no-state"):
        assert (f"{option} " in told.out) == (option not in COMMANDS[words].load().refuses)
    assert alone(*words, "-h").out == told.out
    assert alone("help", *words).out == told.out
    assert alone("-h", *words).out == told.out


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_entry_leads_to_a_command(words: tuple[str, ...]) -> None:
    leaf = COMMANDS[words].load()
    assert leaf.about
    assert len(leaf.examples) == 2


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_session_command_takes_a_session(alone: Front, words: tuple[str, ...]) -> None:
    leaf = COMMANDS[words].load()
    help_text = alone(*words, "--help").out
    own = any(one.option and "--session" in one.option.names for one in leaf.parameters() if not one.common)
    assert ("--session NAME" in help_text) == (leaf.needs == "session" or own)
    assert ("--region NAME" in help_text) == (leaf.needs != "nothing")


def test_root_help_names_every_command(alone: Front) -> None:
    told = alone("--help")
    assert told.code == 0
    for words in COMMANDS:
        assert f"  {' '.join(words)} " in told.out
    assert "__complete" not in told.out
    assert alone("-h").out == alone("help").out == alone().out == told.out


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_alone_lists_its_commands(alone: Front, group: str) -> None:
    told = alone(group)
    assert told.code == 0
    assert f"Usage: guestctl {group} COMMAND" in told.out
    assert alone(group, "--help").out == told.out


def test_without_a_profile_guestctl_suggests_the_first_commands(alone: Front) -> None:
    told = alone(tty=True)
    assert told.out.startswith("Next:\n")
    assert told.out.count("  guestctl ") == 3


def test_with_a_profile_guestctl_shows_profile_and_session(front: Front) -> None:
    told = front(tty=True)
    assert told.out.startswith("Profile sandbox: web-messaging at http://127.0.0.1:")
    assert "No session yet. `guestctl ask TEXT` creates one." in told.out
    assert told.out.count("  guestctl ") == 3
    assert front("session", "create", "--as", "cart").code == 0
    assert "\nSession cart: active\n" in front(tty=True).out
    assert front().out.startswith("Usage:")


def test_with_a_broken_profile_guestctl_names_the_fix(alone: Front) -> None:
    (alone.cwd / "profiles.yaml").write_text("profiles: {shop: {regoin: x}}")
    told = alone(tty=True)
    assert told.code == 2
    assert "`guestctl profile check`" in told.err


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (("sned",), "did you mean `send`?"),
        (("sesion", "list"), "did you mean `session`?"),
        (("session", "crete"), "did you mean `session create`?"),
        (("--profle", "x"), "did you mean `--profile`?"),
        (("list",), "did you mean `session list` or `profile list`?"),
        (("zzz",), "`guestctl --help` lists the commands"),
        (("hist",), "did you mean `history`?"),
        (("ses",), "did you mean `session`?"),
        (("se",), "did you mean `send` or `session`?"),
        (("session", "sign"), "did you mean `session sign-in` or `session sign-out`?"),
        (("sandbox", "sesions"), "did you mean `sandbox sessions`?"),
        (("-p",), "-p needs a value"),
        (("-o", "json"), "no command after -o json"),
        (("ask", "-x"), "put `--` before text that starts with a dash"),
        (("ask",), "`guestctl ask --help` shows its options and two examples"),
        (("-p", "sandbox", "send", "--lines"), "`… | guestctl send - --lines`"),
        (("profile", "add", "shop"), "`guestctl profile add shop --region REGION --deployment-id ID`"),
        (("profile", "add", "shop", "--set", "foo=bar"), "`guestctl help profiles`"),
    ],
)
def test_suggestions(alone: Front, argv: tuple[str, ...], hint: str) -> None:
    told = alone(*argv)
    assert told.code == 2
    assert hint in told.err


def test_options_are_suggested_too(alone: Front) -> None:
    assert "--expect" in alone("send", "hi", "--expct", "x").err


def test_an_empty_message_and_a_wrong_option_have_the_same_hint(front: Front) -> None:
    advice = "`guestctl send --help` shows its options and two examples"
    assert front("session", "create").code == 0
    assert advice in front("send").err
    assert advice in front("send", "hi", "--nonsense").err


@pytest.mark.parametrize(
    ("argv", "words", "rest"),
    [
        (["send", "hi"], ("send",), ["hi"]),
        (["-p", "x", "send", "hi"], ("send",), ["-p", "x", "hi"]),
        (["-px", "-vv", "session", "-o", "json", "list"], ("session", "list"), ["-px", "-vv", "-o", "json"]),
        (["--output=json", "send", "session", "list"], ("send",), ["--output=json", "session", "list"]),
        (["send", "--", "session"], ("send",), ["--", "session"]),
        (["-p", "send", "ask", "x"], ("ask",), ["-p", "send", "x"]),
        (["session"], ("session",), []),
        ([], (), []),
    ],
)
def test_finding_the_command(argv: list[str], words: tuple[str, ...], rest: list[str]) -> None:
    found = split(argv)
    assert (found.words, found.rest, found.unknown) == (words, rest, None)


@pytest.mark.parametrize(
    "argv", [["nope"], ["session", "nope"], ["--nope", "send"], ["--debug=1", "send"], ["--", "x"]]
)
def test_an_unknown_word_is_reported(argv: list[str]) -> None:
    assert split(argv).unknown is not None


@pytest.mark.parametrize(
    ("words", "default"),
    [("send", "30"), ("doctor", "30"), ("judge", "none")],
)
def test_help_shows_the_commands_own_timeout(alone: Front, words: str, default: str) -> None:
    assert f"seconds, 500ms or 2m (default: {default})" in alone(*words.split(), "--help").out
