"""What one command may reach: each thing made when it is first used, all closed together.

Knows: how options, environment, profile, state, trace and client are put together. Must not know:
what the command does with them. Handed in: streams, environment, directory, clock.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from guestctl.core.clock import Clock, SystemClock, rfc3339
from guestctl.core.errors import Failure, UsageError
from guestctl.core.values import Json
from guestctl.output.writer import Output

if TYPE_CHECKING:
    from guestctl.cli.options import Common
    from guestctl.client import Client
    from guestctl.config.profiles import Resolved
    from guestctl.core.redact import Redactor
    from guestctl.core.timings import Timings
    from guestctl.storage.state import State
    from guestctl.transport.trace import Watcher


@dataclass(frozen=True)
class Environment:
    """The process's surroundings."""

    stdin: TextIO = field(default_factory=lambda: sys.stdin or io.StringIO())  # None: the descriptor was closed
    stdout: TextIO = field(default_factory=lambda: sys.stdout)
    stderr: TextIO = field(default_factory=lambda: sys.stderr)
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    cwd: Path = field(default_factory=lambda: _here())
    clock: Clock = field(default_factory=SystemClock)
    timings: Timings | None = None

    def read(self) -> str:
        """All of stdin as text. Raises UsageError when it is not UTF-8."""
        return "".join(self.lines())

    def lines(self) -> Iterator[str]:
        """The lines of stdin as they come, line ends included, without the mark that some editors begin a
        file with. Raises UsageError when one is not UTF-8."""
        raw = getattr(self.stdin, "buffer", None)
        for number, line in enumerate(self.stdin if raw is None else raw, 1):
            try:
                text = line if isinstance(line, str) else line.decode("utf-8")
            except UnicodeDecodeError:
                raise UsageError(f"stdin, line {number}: not UTF-8", hint="Convert it first: iconv -t utf-8.") from None
            yield text.removeprefix("\ufeff") if number == 1 else text


def _here() -> Path:
    try:
        return Path.cwd()
    except OSError:  # it was removed under us
        return Path()


class Invocation:
    """One command being run."""

    def __init__(self, options: Common, world: Environment, out: Output) -> None:
        self.options = options
        self.world = world
        self.out = out
        #: The profile asked for: -p, or a command's own argument.
        self.chosen_profile = options.profile
        self._stack = ExitStack()

    @property
    def clock(self) -> Clock:
        return self.world.clock

    def now(self) -> str:
        return rfc3339(self.clock.now())

    @cached_property
    def watcher(self) -> Watcher | None:
        """Whoever watches the exchange: the trace file, -v, or both. None when nobody does."""
        if self.options.trace is None and not self.out.verbose:
            return None
        from guestctl.transport.trace import TraceFile, Watcher

        file = self._stack.enter_context(TraceFile(self.options.trace)) if self.options.trace else None
        return Watcher(self.clock, self.redactor, file, self.out.detail if self.out.verbose else None)

    def watch(self) -> None:
        """Begin the trace now: the file is there even when nothing is exchanged."""
        _ = self.watcher

    @cached_property
    def redactor(self) -> Redactor:
        """Knows every secret this command has met."""
        from guestctl.core.redact import Redactor

        redactor = Redactor()
        redactor.add_proxies(self.world.environ)
        return redactor

    @cached_property
    def state(self) -> State:
        """The state database, or one in memory with --no-state."""
        from guestctl.storage.state import State

        directory = None if self.options.no_state else State.directory(self.world.environ)
        return self._stack.enter_context(State.open(directory, self.clock, notice=self.out.say))

    def running_sandbox(self) -> Mapping[str, Json] | None:
        """The sandbox `serve` started last, as it registered itself."""
        found = self.state.sandbox()
        return found if isinstance(found, Mapping) else None

    @cached_property
    def resolved(self) -> Resolved:
        """The profile as it takes effect, with where each value came from."""
        from guestctl.config import profiles

        found = profiles.resolve(
            self.chosen_profile,
            options=self.options.overrides,
            environ=self.world.environ,
            cwd=self.world.cwd,
            profiles_option=self.options.profiles,
            sandbox=self.running_sandbox,
        )
        for warning in found.warnings:
            self.out.say(warning)
        self.redactor.add_pair(found.profile.client_id, found.profile.client_secret)
        return found

    @property
    def session_name(self) -> str | None:
        """The session asked for: -s, else GUESTCTL_SESSION; None: the current one. Raises UsageError for what
        cannot be a session's name; a variable that is empty is none."""
        from guestctl.cli.options import session_name

        if self.options.session is not None:
            return session_name("--session", self.options.session)
        named = self.world.environ.get("GUESTCTL_SESSION")
        return session_name("GUESTCTL_SESSION", named) if named else None

    @cached_property
    def client(self) -> Client:
        """The client for this profile and session."""
        from guestctl.client import Client

        client = Client(
            self.resolved.profile,
            session=self.session_name,
            state=self.state,
            timeout=self.options.timeout,
            notice=lambda text: self.out.say(self.masked(text)),
            observer=self.watcher,
            traceparent=self.options.traceparent,
            clock=self.clock,
            environ=self.world.environ,
            timings=self.world.timings,
        )
        if self.watcher is not None:
            # Elsewhere it is soon enough when there is something to mask: a thousand stored sessions take time.
            self._learn_from(client)
        self.out.markdown = cache(lambda: client.deployment().markdown)
        return self._stack.enter_context(client)

    def _learn_from(self, client: Client) -> None:
        for secret in client.secrets():
            self.redactor.add(secret)

    def learn(self) -> None:
        """The client's secrets are masked from now on, those included that it has only just been given."""
        client = self.__dict__.get("client")
        if client is not None:
            with suppress(Failure):  # it may be the state that is broken
                self._learn_from(client)

    def masked(self, text: str) -> str:
        """The service's words without any secret of ours."""
        self.learn()
        return self.redactor.text(text)

    def confirmed(self, question: str, yes: bool) -> None:
        """Go on only with a yes. Raises UsageError without one; off a terminal only `--yes` will do."""
        if yes:
            return
        if not (self.out.terminal.stdin and self.out.terminal.stderr):
            raise UsageError(f"{question} Off a terminal this needs --yes", hint="Repeat the command with --yes.")
        if not self.out.ask(question, self.world.stdin):
            raise UsageError("not confirmed, nothing was done", hint="Answer y, or give --yes.")

    def close(self) -> None:
        self._stack.close()
