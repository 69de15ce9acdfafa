"""The Typer application: a sub-application for each group, and commands that are imported when they are named.

Knows: Typer. Must not know: what a command does. Names and texts come from `registry` and from the declarations of the
commands, which completion and the help of the program read without Typer.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeAlias

import typer
from typer.core import TyperGroup
from typer.main import get_command

from guestctl.cli import registry
from guestctl.cli.options import Common, Leaf
from guestctl.cli.parameters import HELP, CommandOption, Parameter

#: The section of a command's help that has the common options.
PANEL = "common"

PROGRAM = "guestctl"

#: guestctl completes words and reports errors itself, and its help is plain text.
_PLAIN: dict[str, Any] = {"add_completion": False, "rich_markup_mode": None, "pretty_exceptions_enable": False}


class HelpWanted(Exception):
    """Raised for `--help`; carries the help text."""


#: A parsed command line: the command, the common options, and the arguments of its function.
Call: TypeAlias = tuple[Leaf, Common, dict[str, Any]]


class LazyGroup(TyperGroup):
    """A group of commands. It imports and builds a command when it is asked for it by name."""

    @property
    def words(self) -> tuple[str, ...]:
        """The words before the names of its commands."""
        return (self.name,) if self.name else ()

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of its commands, without importing any."""
        return registry.names(self.words)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command or a sub-application, None if there is none of this name."""
        words = (*self.words, cmd_name)
        if cmd_name not in self.commands and words in registry.COMMANDS:
            self.add_command(_built(words), cmd_name)
        return super().get_command(ctx, cmd_name)


def application(run: Callable[[Sequence[str]], int]) -> typer.Typer:
    """Return the application. When it is called, it runs a command line with `run` and exits."""

    class Program(LazyGroup):
        @property
        def words(self) -> tuple[str, ...]:
            return ()

        def main(self, args: Sequence[str] | None = None, *_: Any, **__: Any) -> Any:
            sys.exit(run(sys.argv[1:] if args is None else args))

    program = typer.Typer(name=PROGRAM, cls=Program, help=registry.ABOUT, add_help_option=False, **_PLAIN)
    for group, what in registry.GROUPS.items():
        inner = typer.Typer(name=group, cls=LazyGroup, add_help_option=False, **_PLAIN)
        program.add_typer(inner, help=registry.about(group), short_help=what)
    return program


def parse(app: typer.Typer, words: Sequence[str], rest: Sequence[str], width: int | None) -> Call:
    """Parse the words of a command and its arguments. Raises typer.TyperException, UsageError, HelpWanted."""
    program = get_command(app)
    at = program.make_context(PROGRAM, [*words, *rest], terminal_width=width)
    with at:
        call: Call = program.invoke(at)
    return call


def context(app: typer.Typer, words: Sequence[str]) -> typer.Context:
    """Return Typer's context of a command, of a group (one word) or of the program (no word)."""
    found = typer.Context(get_command(app), info_name=PROGRAM)
    for word in words:
        group = found.command
        assert isinstance(group, TyperGroup)
        inner = group.get_command(found, word)
        assert inner is not None, words
        found = typer.Context(inner, info_name=word, parent=found)
    return found


def _built(words: tuple[str, ...]) -> Any:
    """Import a command and return it as Typer's command."""
    entry = registry.COMMANDS[words]
    leaf = entry.load()
    single = typer.Typer(**_PLAIN)
    declare = single.command(
        words[-1],
        context_settings={"help_option_names": []},
        add_help_option=False,
        help=leaf.about,
        short_help=entry.summary,
    )
    declare(_parsing(leaf))
    return get_command(single)


def _parsing(leaf: Leaf) -> Callable[..., Call]:
    """Return the function that Typer calls with the values of a command's parameters."""

    def called(**values: Any) -> Call:
        return (leaf, *leaf.read(values))

    called.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                one.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if one.default is ... else one.default,
                annotation=Annotated[one.type, _typer_parameter(one, leaf)],
            )
            for one in leaf.parameters()
        ]
    )
    called.__annotations__ = {}
    return called


def _typer_parameter(one: Parameter, leaf: Leaf) -> Any:
    """Return Typer's form of a declaration."""
    declared = one.declared
    if not isinstance(declared, CommandOption):
        return typer.Argument(metavar=declared.metavar, help=declared.help)
    return typer.Option(
        *declared.names,
        help=declared.help,
        metavar=declared.metavar,
        min=declared.min,
        max=declared.max,
        count=declared.count,
        is_eager=declared.eager,
        callback=_shows_help(leaf) if declared is HELP else None,
        show_default=declared.show_default,
        rich_help_panel=PANEL if one.common else None,
    )


def _shows_help(leaf: Leaf) -> Callable[[typer.Context, bool], None]:
    def show(context: typer.Context, value: bool) -> None:
        if value:
            from guestctl.cli.help import command

            raise HelpWanted(command(context, leaf.about, leaf.examples, PANEL, context.terminal_width))

    return show
