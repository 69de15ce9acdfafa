"""The Typer application, and that its names, options and texts are those of the registry."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner

from guestctl.cli.application import PANEL, context
from guestctl.cli.main import app
from guestctl.cli.registry import ABOUT, COMMANDS, GROUPS, LEADING_OPTIONS, about, members, names, summary
from tests.cli.conftest import Front


def _walk(at: typer.Context, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every group and command below a context, as Typer lists them."""
    yield words, at.command
    if isinstance(at.command, TyperGroup):
        for name in at.command.list_commands(at):
            inner = at.command.get_command(at, name)
            assert inner is not None
            yield from _walk(typer.Context(inner, info_name=name, parent=at), (*words, name))


TREE = dict(_walk(context(app, ())))


def test_the_application_is_a_typer_with_a_sub_application_for_each_group() -> None:
    assert isinstance(app, typer.Typer)
    assert [(one.typer_instance.info.name, one.help) for one in app.registered_groups if one.typer_instance] == [
        (group, about(group)) for group in GROUPS
    ]


def test_both_trees_have_the_same_names_in_the_same_order() -> None:
    groups = [words for words, found in TREE.items() if isinstance(found, TyperGroup)]
    assert set(groups) == {(), *((group,) for group in GROUPS)}
    for words in groups:
        assert TREE[words].list_commands(context(app, words)) == names(words)
    assert {words for words in TREE if words not in groups} == set(COMMANDS)
    assert {words for group in GROUPS for words in members(group)} == {words for words in COMMANDS if len(words) == 2}


def test_both_trees_have_the_same_summaries() -> None:
    assert TREE[()].help == ABOUT
    for words, found in TREE.items():
        assert found.name == (words[-1] if words else "guestctl")
        if words:
            assert found.short_help == summary(words)
        if words in COMMANDS:
            assert found.help == COMMANDS[words].load().about


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_both_trees_have_the_same_options_and_texts(words: tuple[str, ...]) -> None:
    """A parameter of one tree is in the other, at the same place, with the same names, texts, bounds and section."""
    declared = [
        (
            one.name,
            list(one.option.names) if one.option else [one.name],
            one.declared.help,
            one.declared.metavar,
            one.option.takes_value if one.option else True,
            (one.option.min, one.option.max) if one.option and one.option.min is not None else None,
            PANEL if one.common else None,
            one.default is ...,
            one.takes_several_words,
        )
        for one in COMMANDS[words].load().parameters()
    ]
    assert declared == [
        (
            one.name,
            [*one.opts, *one.secondary_opts],
            one.help,
            one.metavar,
            one.param_type_name == "argument" or not (one.is_flag or one.count),
            (one.type.min, one.type.max) if one.param_type_name == "option" and _is_bounded(one) else None,
            one.rich_help_panel,
            one.required,
            one.nargs == -1,
        )
        for one in TREE[words].params
    ]


def _is_bounded(option: Any) -> bool:
    return not option.count and getattr(option.type, "min", None) is not None


def test_options_before_the_command_are_those_of_a_command() -> None:
    after = [one.option for one in COMMANDS["send",].load().parameters() if one.common and one.option]
    assert [(one.names, one.help) for one in LEADING_OPTIONS if one.names != ("--version",)] == [
        (one.names, one.help) for one in after
    ]


def test_calling_the_application_runs_the_command_line(alone: Front) -> None:
    environ = dict(alone.environ)
    ran = CliRunner().invoke(app, ["-o", "json", "schema", "gap"], env=environ)
    assert (ran.exit_code, ran.stderr) == (0, "")
    assert ran.stdout == alone("-o", "json", "schema", "gap").out
    assert CliRunner().invoke(app, ["--help"], env=environ).stdout == alone("--help").out
    wrong = CliRunner().invoke(app, ["session", "nope"], env=environ)
    assert (wrong.exit_code, wrong.stdout, wrong.stderr) == (2, "", alone("session", "nope").err)


def test_the_application_imports_a_command_when_it_is_named() -> None:
    probe = """
import sys
from guestctl.cli.main import app
from guestctl.cli.application import context

def loaded():
    return {name.rpartition(".")[2] for name in sys.modules if name.startswith("guestctl.cli.commands.")}

at = context(app, ())
assert "session" in at.command.list_commands(at)
assert context(app, ["session"]).command.list_commands(at)
assert loaded() == set(), loaded()
context(app, ["replay"])
assert loaded() == {"replay", "sandbox"}, loaded()
"""
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
