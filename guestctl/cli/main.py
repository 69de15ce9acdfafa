"""The entry point: arguments in, exit code out.

Knows: how the command is found, how Typer parses its arguments, and which exit code and which error each outcome has.
Must not know: what a command does.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from guestctl.cli import help as help_text
from guestctl.cli import registry
from guestctl.cli.invocation import Environment, Invocation
from guestctl.cli.signals import Signals, Terminated
from guestctl.core.clock import Deadline
from guestctl.core.errors import NEXT_STEPS, Exit, Failure, UsageError, bug
from guestctl.core.input_files import DEADLINE
from guestctl.output.terminal import Terminal
from guestctl.output.writer import MODES, ClosedPipe, Mode, Output

if TYPE_CHECKING:
    from typer import Typer

    from guestctl.cli.application import Call
    from guestctl.cli.options import Common


def __getattr__(name: str) -> Any:
    """Return the Typer application as `app`, which is built when it is named: importing Typer is slow."""
    if name == "app":
        return _app()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def _app() -> Typer:
    from guestctl.cli.application import application

    return application(run)


def run(argv: Sequence[str], world: Environment | None = None) -> int:
    """Run one command and return its exit code. Never raises."""
    return _Run(argv, world or Environment()).code()


class _Run:
    """One run. What has been parsed so far decides how a failure is printed."""

    def __init__(self, argv: Sequence[str], world: Environment) -> None:
        self.world = world
        self.terminal = Terminal.of(world.stdin, world.stdout, world.stderr, world.environ)
        self.parsed = registry.split(argv)
        self.entry = registry.COMMANDS.get(self.parsed.words)
        self.debug = "--debug" in self.parsed.rest
        self.invocation: Invocation | None = None
        self.begun = False
        self.signals = Signals(lambda: self.out.interrupted(), lambda: self.out.paging)
        # Until the options are parsed, so that an error in them has the format that they ask for.
        self.out = self._output(_requested_mode(argv) or world.environ.get("GUESTCTL_OUTPUT") or "auto")

    def code(self) -> int:
        try:
            with self.signals.handled():
                try:
                    code = self._go() or Exit.DONE
                    self._ends_with(code, str(int(code)) if code else None)
                    self.out.print_held()
                except BaseException as error:
                    self._ends_with(*_outcome(error))
                    if self.invocation is not None and isinstance(error, Exception):
                        self.invocation.learn()
                    raise
                finally:
                    if self.invocation is not None:
                        self.invocation.close()
                self.out.print_held()  # what the end of the invocation warned of
                return code
        except Failure as failure:
            return self._report(failure)
        except KeyboardInterrupt:
            return self._stopped(Exit.INTERRUPTED)
        except Terminated as ended:
            return self._stopped(ended.exit)
        except ClosedPipe:
            return self._stopped(Exit.BROKEN_PIPE)
        except Exception as error:
            # While Python creates a class, it replaces an exception from a signal handler with another one.
            return self.signals.exit or self._report(bug(error))

    def _ends_with(self, code: int, failure: str | None) -> None:
        if self.invocation is not None:
            self.invocation.exit_code, self.invocation.failure = int(code), failure

    def _stopped(self, code: Exit) -> int:
        """Print the warnings that were held back, which no failure carries, and return the exit code."""
        self.out.print_held()
        return code

    def _go(self) -> int | None:
        words, rest = self.parsed.words, self.parsed.rest
        if self.parsed.unknown is not None:
            raise _unknown(words, self.parsed.unknown, topics=_asks_for_help(rest))
        if self.entry is not None:
            return self._command(self.entry, words, rest)
        if words == (registry.COMPLETE,):
            self._complete(rest)
            return None
        if self.parsed.topic is not None:
            from guestctl.cli.topics import page

            self.out.verbatim(page(self.parsed.topic, self.terminal.width))
        elif "--version" in rest:
            from guestctl.core.version import __version__

            self.out.verbatim(f"guestctl {__version__}\n")
        elif words:
            self.out.verbatim(help_text.group(words[0], self.terminal.width))
        elif rest and not _asks_for_help(rest):
            raise _incomplete(rest)
        elif not rest and self.terminal.stdout:
            self._greet()
        else:
            self.out.verbatim(help_text.program(self.terminal.width))
        return None

    def _command(self, entry: registry.CommandEntry, words: tuple[str, ...], rest: list[str]) -> int | None:
        from guestctl.cli.application import HelpWanted

        try:
            leaf, options, arguments = _parse(words, rest, self.terminal.width)
        except HelpWanted as wanted:
            self.out.verbatim(str(wanted))
            return None
        self.debug = options.debug
        mode = options.output or self.world.environ.get("GUESTCTL_OUTPUT") or "auto"
        if mode not in MODES:
            raise UsageError(f'no output mode "{mode}"', hint=f"available modes: {', '.join(MODES)}")
        if mode == "csv" and not entry.lists:
            if options.output is not None:
                lists = ", ".join(" ".join(words) for words, found in registry.COMMANDS.items() if found.lists)
                raise UsageError(f"-o csv: {' '.join(words)} prints no list", hint=f"these commands do: {lists}")
            mode = "auto"
        self.out = self._output(mode, options)
        if options.timeout is not None:
            DEADLINE.set(Deadline.after(self.world.clock, options.timeout))
        self.invocation = Invocation(options, self.world, self.out)
        self.invocation.command = " ".join(words)
        if options.trace is not None and options.trace_append is not None:
            raise UsageError("--trace and --trace-append cannot be combined", hint="use one of them")
        if options.trace is not None or options.trace_append is not None:
            self.invocation.watch()
        self.begun = True
        return leaf.function(self.invocation, **arguments)

    def _complete(self, rest: list[str]) -> None:
        from guestctl.cli.completion import print_candidates
        from guestctl.cli.options import Common

        self.invocation = Invocation(Common(), self.world, self.out)
        print_candidates(self.invocation, rest)

    def _output(self, mode: str, options: Common | None = None) -> Output:
        return Output(
            self.world.stdout,
            self.world.stderr,
            self.terminal,
            mode=_mode(mode),
            now=self.world.clock.now,
            environ=self.world.environ,
            quiet=options.quiet if options else False,
            verbose=options.verbose if options else 0,
            json_errors=self._json_errors(_mode(mode)),
        )

    def _json_errors(self, mode: Mode) -> bool:
        """Return whether errors are JSON: if JSON was asked for, or if the data is JSON and no stream is a terminal."""
        at_terminal = self.terminal.stdout or self.terminal.stderr
        by_itself = mode == "auto" and not at_terminal and self.entry is not None and self.entry.data
        return mode in {"json", "jsonl"} or by_itself

    def _greet(self) -> None:
        """Print the current profile and session, and the next commands, for `guestctl` without arguments."""
        from guestctl.config.profiles import locate

        path, _ = locate(None, self.world.environ, self.world.cwd)
        if not path.exists() and not self.world.environ.get("GUESTCTL_PROFILE"):
            self.out.verbatim(help_text.next_commands(self.terminal.width))
            return
        from guestctl.cli.commands.about import overview
        from guestctl.cli.options import Common

        self.invocation = Invocation(Common(), self.world, self.out)
        overview(self.invocation)

    def _report(self, failure: Failure) -> int:
        """Print one failure and return its exit code."""
        if self.entry is not None and not self.begun:
            self.entry.refuse(self.parsed.rest, failure)
        if self.entry is not None and failure.hint == NEXT_STEPS["usage"]:
            failure.hint = _help_hint(self.parsed.words)
        if self.debug:
            self._traceback(failure)
        if self.invocation is not None:
            masked = self.invocation.redactor.text
            failure.message, failure.hint = masked(failure.message), masked(failure.hint)
            failure.body = None if failure.body is None else masked(failure.body)
            if isinstance(failure.service_code, str):
                failure.service_code = masked(failure.service_code)
        self.out.failure(failure)
        return failure.exit

    def _traceback(self, failure: Failure) -> None:
        from guestctl.core.redact import Redactor

        error = failure.__cause__ if type(failure) is Failure and failure.__cause__ else failure
        redactor = self.invocation.redactor if self.invocation is not None else Redactor()
        self.out.traceback(error, redactor.text)


def _outcome(error: BaseException) -> tuple[int, str]:
    """Return the exit code and the code of a failure that ends a command."""
    if isinstance(error, Failure):
        return error.exit, error.code
    if isinstance(error, Terminated):
        return error.exit, "terminated"
    if isinstance(error, KeyboardInterrupt):
        return Exit.INTERRUPTED, "interrupted"
    return (Exit.BROKEN_PIPE, "broken_pipe") if isinstance(error, ClosedPipe) else (Exit.BUG, "internal")


def _parse(words: tuple[str, ...], rest: list[str], width: int | None) -> Call:
    """Let Typer parse the arguments. Raises UsageError if they are wrong, HelpWanted for `--help`."""
    from typer import TyperException

    from guestctl.cli.application import parse

    try:
        return parse(_app(), words, rest, width)
    except TyperException as error:
        from guestctl.cli.arguments import problem, similar_option

        hint = _help_hint(words)
        leaf = registry.COMMANDS[words].load()
        parameters = leaf.parameters()
        unknown: str = getattr(error, "option_name", "")
        if unknown in leaf.refuses:
            message, hint = leaf.refuses[unknown]
            raise UsageError(message, hint=hint) from None
        if unknown:
            options = [name for one in parameters if one.option for name in one.option.names]
            suggested = None if unknown in options else similar_option(unknown, options)
            hint = f"did you mean `{suggested}`? {hint}" if suggested else hint
        if type(error).__name__ == "NoSuchOption" and any(one.takes_several_words for one in parameters):
            hint += "; put `--` before text that starts with a dash"
        raise UsageError(problem(error), hint=hint) from None


def _help_hint(words: tuple[str, ...]) -> str:
    return f"`guestctl {' '.join(words)} --help` shows its options and two examples"


def _asks_for_help(rest: Sequence[str]) -> bool:
    return any(word in {"-h", "--help"} for word in rest)


def _incomplete(rest: Sequence[str]) -> UsageError:
    """Return the error for options without a command. The last may have taken the command as its value."""
    if registry.LEADING.get(rest[-1]):
        return UsageError(f"{rest[-1]} needs a value, and a command after it")
    return UsageError(f"no command after {' '.join(rest)}")


def _unknown(words: tuple[str, ...], unknown: str, *, topics: bool) -> UsageError:
    """Return the error for a word that is no command. With `topics` it may also have been a help topic."""
    nearest = registry.suggestion(words, unknown)
    if unknown.startswith("-"):
        message = f"no such option: {unknown}"
    else:
        message = f"no such command{' or topic' * topics}: {' '.join((*words, unknown))}"
    group = f"{words[0]} " if words else ""
    hint = f"did you mean `{nearest}`?" if nearest else f"`guestctl {group}--help` lists the commands"
    return UsageError(message, hint=hint)


def _requested_mode(rest: Sequence[str]) -> str | None:
    """Return the output mode in arguments that are not parsed yet."""
    found = None
    for at, word in enumerate(rest):
        if word == "--":
            break
        if word in {"-o", "--output"}:
            found = rest[at + 1] if at + 1 < len(rest) else None
        elif word.startswith("--output="):
            found = word.partition("=")[2]
        elif word.startswith("-o") and len(word) > 2:
            found = word[2:]
    return found


def _mode(text: str) -> Mode:
    return text if text in MODES else "auto"
