"""`guestctl help TOPIC`: every page is there, and says neither more nor less than the program does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from guestctl import profiles
from guestctl.cli import topics
from guestctl.cli.registry import COMMANDS, GROUPS, TOPICS, split
from guestctl.errors import Exit
from guestctl.output import MODES
from guestctl.regions import REGIONS
from guestctl.schema import SCHEMAS
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
    assert set(topics.KEYS) == set(profiles.KEYS)
    page = alone("help", "profiles").out
    assert all(region.domain in page for region in REGIONS)


def test_environment(alone: Front) -> None:
    """Every variable the source names is documented, and every documented one is in the source."""
    page = alone("help", "environment").out
    keys = {profiles.variable(key) for key in profiles.KEYS}
    assert all(f"  {name} " in page for name in keys | set(topics.OURS))
    sources = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py") if path.name != "topics.py")
    named = set(re.findall(r"GUESTCTL_[A-Z_]+[A-Z]\b", sources))
    assert named - keys == set(topics.OURS)
    for names in topics.COMMON:
        for name in names.split(", "):
            assert name.startswith("XDG_") or re.search(name.lower(), sources, re.IGNORECASE), name


def test_a_topic_is_no_command() -> None:
    assert not set(TOPICS) & {words[0] for words in COMMANDS}
    assert not set(TOPICS) & set(GROUPS)
    assert split(["help", "output", "-v"]) == ((), ["-v"], None, "output")
    assert split(["help", "send"]).words == ("send",)


def test_a_mistyped_topic(alone: Front) -> None:
    told = alone("help", "enviroment")
    assert told.code == 2
    assert "`help environment`" in told.err
    assert "`profile`" in alone("profils").err
