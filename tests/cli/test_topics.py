"""`guestctl help TOPIC`: every page exists and agrees with the program."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from guestctl.checks import script_keys
from guestctl.cli import topics
from guestctl.cli.registry import COMMANDS, GROUPS, TOPICS, split
from guestctl.config import profile_keys
from guestctl.config.regions import REGIONS
from guestctl.core.errors import Exit
from guestctl.output.schema import SCHEMAS
from guestctl.output.writer import MODES
from guestctl.sandbox import faults
from guestctl.sandbox.bot import bot_replies, bot_script
from tests.cli.conftest import Front

PACKAGE = Path(__file__).parents[2] / "guestctl"


@pytest.mark.parametrize("topic", TOPICS)
def test_every_topic_has_a_page(alone: Front, topic: str) -> None:
    told = alone("help", topic)
    assert (told.code, told.err) == (0, "")
    assert "`guestctl " in told.out
    assert max(map(len, told.out.splitlines())) <= 100
    assert f"  {topic} " in alone("--help").out


def test_a_page_fits_the_terminal(alone: Front) -> None:
    told = alone("help", "exit-codes", tty=True, COLUMNS="60")
    assert max(map(len, told.out.splitlines()[:-1])) <= 60


def test_exit_codes(alone: Front) -> None:
    shown = {int(found) for found in re.findall(r"^  (\d+) ", alone("help", "exit-codes").out, re.MULTILINE)}
    assert shown == {int(code) for code in Exit}


def test_output(alone: Front) -> None:
    page = alone("help", "output").out
    for word in (*MODES, *SCHEMAS):
        assert re.search(rf"^  {word} ", page, re.MULTILINE), word


def test_profiles(alone: Front) -> None:
    assert set(topics.KEYS) == set(profile_keys.KEYS)
    page = alone("help", "profiles").out
    assert all(region.domain in page for region in REGIONS)


def test_bots(alone: Front) -> None:
    """Every key that the sandbox reads has a line, and the printed script works."""
    read = {"name", "delay", "greeting", "rules", "otherwise", *bot_script.TRIGGERS, "times", "after_handover"}
    assert set(topics.BOT_KEYS) == read | set(bot_script.ANSWER)
    for key, parts in {**bot_replies.SHORT_FORMS, "handover": (bot_script.HANDOVER,)}.items():
        assert set(sum(parts, ())) <= set(re.findall(r"\w+", topics.BOT_KEYS[key])), key
    page = alone("help", "bots").out
    assert topics.BOT in page
    bot_script.load(topics.BOT, "bot.yaml")  # raises ScriptError for what it does not understand


def test_checks(alone: Front) -> None:
    page = alone("help", "checks").out
    for _, table in script_keys.PARTS:
        for name in table:
            assert re.search(rf"^  {name} ", page, re.MULTILINE), name
    assert topics.CHECK in page
    written = alone.cwd / "hours.yaml"
    written.write_text(topics.CHECK)
    told = alone("check", str(written), "-p", "sandbox", GUESTCTL_SANDBOX_URL="http://127.0.0.1:9")
    assert told.code == 8, told.err  # it was understood, and there is nobody to talk to


def test_faults(alone: Front) -> None:
    page = alone("help", "faults").out
    for name, kind in faults.KINDS.items():
        named, _, own = kind.written.partition(":")
        assert named == name
        assert f"  {kind.written} " in page
        assert set(kind.keys) == ({own.partition("=")[0]} if own else set()), name
        assert faults.parse(kind.written) == replace(faults.parse(name), spec=kind.written), f"{name}: its defaults"
    assert {key.partition("=")[0] for key in topics._FAULT_KEYS} == set(faults._COMMON)
    assert all(what in page for what in faults.ON)


def test_environment(alone: Front) -> None:
    """Every variable the source names is documented, and every documented one is in the source."""
    page = alone("help", "environment").out
    script_keys = {profile_keys.variable(key) for key, rule in profile_keys.KEYS.items() if not rule.file_only}
    assert all(f"  {name} " in page for name in script_keys | set(topics.OURS))
    sources = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py") if path.name != "topics.py")
    named = set(re.findall(r"GUESTCTL_[A-Z_]+[A-Z]\b", sources))
    assert named - script_keys == set(topics.OURS)
    for names in topics.COMMON:
        for name in names.split(", "):
            assert name.startswith("XDG_") or re.search(name.lower(), sources, re.IGNORECASE), name


def test_a_topic_is_no_command() -> None:
    assert not set(TOPICS) & {words[0] for words in COMMANDS}
    assert not set(TOPICS) & set(GROUPS)
    found = split(["help", "output", "-v"])
    assert (found.words, found.rest, found.unknown, found.topic) == ((), ["-v"], None, "output")
    assert split(["help", "send"]).words == ("send",)


def test_a_mistyped_topic(alone: Front) -> None:
    told = alone("help", "enviroment")
    assert told.code == 2
    assert "`help environment`" in told.err
    assert "`profile`" in alone("profils").err


def test_an_error_in_a_script_or_a_fault_names_the_help_topic(alone: Front) -> None:
    (alone.cwd / "bot.yaml").write_text("ruels: []")
    assert "`guestctl help bots`" in alone("sandbox", "serve", "--script", str(alone.cwd / "bot.yaml")).err
    assert "`guestctl help faults`" in alone("sandbox", "exec", "--fault", "dorp", "--", "true").err
